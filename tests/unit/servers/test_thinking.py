"""Thinking left in the text is told from the answer, however it is cut."""

from itertools import combinations

import pytest

from custom_components.home_agent.servers.thinking import ThinkingSplitter


def split(chunks: list[str]) -> tuple[str, str]:
    """Return (answer, thinking) of an answer that comes in chunks."""
    splitter = ThinkingSplitter()
    parts = [*map(splitter.feed, chunks), splitter.finish()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize(
    ("text", "answer", "thinking"),
    [
        ("Hello", "Hello", ""),
        ("<think>a<b</think>\n\nYes", "Yes", "a<b"),
        (" \n<think></think>Yes", "Yes", ""),
        ("<think>never ends", "", "never ends"),
        ("<think>x</thi", "", "x</thi"),
        ("<thin ice>", "<thin ice>", ""),
        ("<thi", "<thi", ""),
        ("It is <think>so</think>", "It is <think>so</think>", ""),
        # A template that opened the tag in the prompt, with nothing thought.
        ("</think>\n\nYes", "Yes", ""),
        (" </think>Yes </think>", "Yes </think>", ""),
        ("So.</think> Yes", "So. Yes", ""),
        # Harmony, the format of gpt-oss.
        (
            "<|channel|>analysis<|message|>Hm.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Yes<|return|>",
            "Yes",
            "Hm.",
        ),
        ("<|channel|>commentary to=f<|message|>{}<|call|>", "", "{}"),
        ("<|start|>assistant<|message|>Yes <| no", "Yes <| no", ""),
        ("<|channel|>final<|mess", "", ""),
        # Plain text where a header belongs.
        ("<|channel|>final<|message|>Hi.<|end|> And more.", "Hi. And more.", ""),
        ("<|channel|>analysis<|message|>Hm.<|end|>Hi.<|end|>", "Hi.", "Hm."),
        ("<|start|>assistant says hi", "says hi", ""),
        ("<|start|>assistant to=f", "", ""),
        ("<|start|>assistant<|chan", "", ""),
        ("", "", ""),
        ("  ", "  ", ""),
    ],
)
def test_every_way_to_cut(text: str, answer: str, thinking: str) -> None:
    """Two cuts at any two places change nothing; long texts are cut in fewer."""
    step = 1 + len(text) // 40
    for first, second in combinations(range(0, len(text) + 1, step), 2):
        chunks = [text[:first], text[first:second], text[second:]]
        assert split(chunks) == (answer, thinking)


def test_text_is_passed_on_at_once() -> None:
    """Nothing is held back longer than it is in doubt."""
    splitter = ThinkingSplitter()
    assert splitter.feed("He") == ("He", "")
    assert splitter.feed("llo") == ("llo", "")
    splitter = ThinkingSplitter()
    assert splitter.feed("<think>so") == ("", "so")
    assert splitter.feed(" far</") == ("", " far")


def test_a_header_that_never_ends_is_text() -> None:
    """The model may want to write about such marks."""
    text = "<|channel|> is a mark. " * 20
    assert split([text]) == (text, "")

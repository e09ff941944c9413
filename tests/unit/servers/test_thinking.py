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
        ("", "", ""),
        ("  ", "  ", ""),
    ],
)
def test_every_way_to_cut(text: str, answer: str, thinking: str) -> None:
    """Two cuts at any two places change nothing."""
    for first, second in combinations(range(len(text) + 1), 2):
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

"""Thinking that a server left in the text."""

from typing import Final

_TAGS: Final = ("<think>", "</think>")


class ThinkTagSplitter:
    """Tell <think>...</think> at the start of an answer from the answer.

    A server without a parser for the model's template leaves the tags in the
    text. They may be cut anywhere between two chunks. Only a tag that opens the
    answer counts: later ones are what the model wants to say.
    """

    def __init__(self) -> None:
        """Start before the first chunk."""
        self._thinking: bool | None = None  # None until the start is known
        self._held = ""
        self._after_thinking = False

    def feed(self, text: str) -> tuple[str, str]:
        """Return what of the text so far is (answer, thinking) for sure."""
        self._held += text
        if self._thinking is None:
            start = self._held.lstrip()
            if _TAGS[0].startswith(start):
                return "", ""
            if start.startswith(_TAGS[0]):
                self._thinking = True
                self._held = start.removeprefix(_TAGS[0])
            else:
                self._thinking = False
        if not self._thinking:
            return self._answer(), ""
        thinking, tag, rest = self._held.partition(_TAGS[1])
        if tag:
            self._thinking = False
            self._after_thinking = True
            self._held = rest
            return self._answer(), thinking
        keep = _overlap(self._held, _TAGS[1])
        thinking = self._held[: len(self._held) - keep]
        self._held = self._held[len(thinking) :]
        return "", thinking

    def finish(self) -> tuple[str, str]:
        """Return what was held back, as (answer, thinking)."""
        if self._thinking:
            thinking, self._held = self._held, ""
            return "", thinking
        return self._answer(), ""

    def _answer(self) -> str:
        """Return the text that is held, without the blank lines after a tag."""
        answer, self._held = self._held, ""
        if self._after_thinking and (answer := answer.lstrip()):
            self._after_thinking = False
        return answer


def _overlap(text: str, tag: str) -> int:
    """Return how many of the last characters of text begin the tag."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0

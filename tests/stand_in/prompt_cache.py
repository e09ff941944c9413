"""A model's KV cache in small: only what follows the common prefix is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
import re


class PromptCache:
    """The tokens that the one slot of a loaded model has evaluated."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._tokens: list[str] = []

    def evaluate(self, prompt: Sequence[str]) -> int:
        """Take a prompt; return how many of its tokens were not in the cache."""
        common = 0
        for old, new in zip(self._tokens, prompt, strict=False):
            if old != new:
                break
            common += 1
        self._tokens = list(prompt)
        # The last token is always evaluated: its output is what comes next.
        return max(1, len(prompt) - common)

    def append(self, answer: Sequence[str]) -> None:
        """Take the tokens of an answer."""
        self._tokens += answer


def tokens(text: str) -> list[str]:
    """Return a text in pieces of about the size of a model's tokens."""
    return re.findall(r"\s?\w{1,4}|\s?[^\w\s]|\s", text)

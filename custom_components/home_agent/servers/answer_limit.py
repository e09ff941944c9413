"""A limit on the length of a streamed answer, for servers that ignore max_tokens."""

import logging
from typing import Final

_LOGGER = logging.getLogger(__name__)

# A token has some 4 characters in most languages. Runs of blanks or dashes can be one
# token, but no model fills whole answers with them.
_CHARACTERS_PER_TOKEN: Final = 16
# Some servers do not count the thinking, or the tool calls, as tokens of the answer.
_UNCOUNTED_CHARACTERS: Final = 16_000


class AnswerLimit:
    """Counts the characters of an answer, and says when they exceed its token limit.

    A server normally ends an answer at max_tokens itself. If it ignores the field, a
    model that repeats itself never ends, and each part of its answer prolongs the
    timeout.
    """

    def __init__(self, host: str, max_tokens: int | None) -> None:
        """Allow an answer of max_tokens; of any length if max_tokens is None.

        host is the host and port of the server, for the log.
        """
        self._host = host
        self._max_tokens = max_tokens
        self._characters = 0

    def add(self, characters: int) -> bool:
        """Count more characters of the answer; return whether to end it now."""
        self._characters += characters
        if self._max_tokens is None or self._characters <= (
            _CHARACTERS_PER_TOKEN * self._max_tokens + _UNCOUNTED_CHARACTERS
        ):
            return False
        _LOGGER.debug(
            "%s ignores the limit of %d tokens; ending its answer after %d characters",
            self._host,
            self._max_tokens,
            self._characters,
        )
        return True

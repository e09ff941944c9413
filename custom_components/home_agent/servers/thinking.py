"""Thinking that a server left in the text of an answer."""

from collections.abc import Callable
import re
from typing import Final

_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"
_THINK_TAG: Final = re.compile("</?think>")
# The format of gpt-oss, which OpenAI calls harmony: messages in channels, each
# <|start|>assistant<|channel|>NAME<|message|>TEXT<|end|>.
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_MESSAGE: Final = "<|message|>"
_MESSAGE_ENDS: Final = ("<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>")
_HARMONY_STARTS: Final = ("<|channel|>", "<|start|>")
# A header that the model wrote as plain text, or one that was cut.
_ROLE: Final = re.compile(r"<\|start\|>\s*assistant\b\s*")
_CUT_HEADER: Final = re.compile(r"$|<|to=")
_SPOKEN_CHANNEL: Final = "final"
# A header has a role, a channel and perhaps the name of a tool.
_MAX_HEADER: Final = 300


class ThinkingSplitter:
    """Separates the thinking in a streamed text from the answer.

    A server without a parser for the model's template leaves these in the text:

    - <think>...</think> at the start of the answer;
    - </think> alone, where the template has opened the tag in the prompt;
    - harmony's channels, of which only "final" is the answer.

    The marks may be cut anywhere between two pieces. After the first words of the
    answer <think> counts as text, because the model wants to say it, but a
    </think> without its <think> is left out.
    """

    def __init__(self) -> None:
        """Start before the first piece."""
        # The text that has not been passed on, and the reader for it. A reader
        # returns whether another one must go on with the rest.
        self._held = ""
        self._read: Callable[[], bool] = self._read_start
        self._answer: list[str] = []
        self._thinking: list[str] = []
        self._skips_blanks = False
        self._is_spoken_channel = True

    def feed(self, text: str) -> tuple[str, str]:
        """Return the (answer, thinking) that is certain with this piece."""
        self._held += text
        while self._read():
            pass
        return self._take()

    def finish(self) -> tuple[str, str]:
        """Return what was held back, as (answer, thinking)."""
        if self._read == self._read_header:
            self._held = _text_without_header(self._held)
            self._pass_on(len(self._held))
        elif self._read != self._read_between:
            is_thinking = self._read == self._read_thinking or (
                self._read == self._read_message and not self._is_spoken_channel
            )
            self._pass_on(len(self._held), is_thinking=is_thinking)
        return self._take()

    def _read_start(self) -> bool:
        """Find out whether the answer starts with one of the marks."""
        start = self._held.lstrip()
        if start.startswith(_OPEN):
            self._held = start.removeprefix(_OPEN)
            self._read = self._read_thinking
        elif start.startswith(_CLOSE):
            self._held = start.removeprefix(_CLOSE)
            self._skips_blanks = True
            self._read = self._read_rest
        elif start.startswith(_HARMONY_STARTS):
            self._held = start
            self._read = self._read_header
        elif any(m.startswith(start) for m in (_OPEN, _CLOSE, *_HARMONY_STARTS)):
            return False
        else:
            self._read = self._read_answer
        return True

    def _read_thinking(self) -> bool:
        """Pass on thinking up to </think>."""
        position = self._held.find(_CLOSE)
        if position < 0:
            self._pass_on_all_but_mark(_CLOSE, is_thinking=True)
            return False
        self._pass_on(position, is_thinking=True)
        self._held = self._held.removeprefix(_CLOSE)
        self._skips_blanks = True
        self._read = self._read_rest
        return True

    def _read_answer(self) -> bool:
        """Pass on the answer up to the first tag; leave out a lone </think>."""
        tag = _THINK_TAG.search(self._held)
        if tag is None:
            self._pass_on_all_but_mark(_OPEN, _CLOSE)
            return False
        self._pass_on(tag.start())
        self._held = self._held.removeprefix(_CLOSE)
        self._read = self._read_rest
        return True

    def _read_rest(self) -> bool:
        """Pass on everything."""
        self._pass_on(len(self._held))
        return False

    def _read_header(self) -> bool:
        """Skip the header of a message in harmony's format."""
        header, mark, text = self._held.partition(_MESSAGE)
        if mark:
            channel = _CHANNEL.search(header)
            self._is_spoken_channel = not channel or channel[1] == _SPOKEN_CHANNEL
            self._held = text
            self._read = self._read_message
        elif len(header) > _MAX_HEADER:
            self._read = self._read_rest
        else:
            return False
        return True

    def _read_message(self) -> bool:
        """Pass on a message in harmony's format up to the mark that ends it."""
        found = [(self._held.find(mark), mark) for mark in _MESSAGE_ENDS]
        position, mark = min((f for f in found if f[0] >= 0), default=(-1, ""))
        if position < 0:
            self._pass_on_all_but_mark(
                *_MESSAGE_ENDS, is_thinking=not self._is_spoken_channel
            )
            return False
        self._pass_on(position, is_thinking=not self._is_spoken_channel)
        if mark not in _HARMONY_STARTS:
            self._held = self._held.removeprefix(mark)
        self._read = self._read_between
        return True

    def _read_between(self) -> bool:
        """Find out whether a header follows a message, or plain text of the answer."""
        start = self._held.lstrip()
        if start.startswith(_HARMONY_STARTS):
            self._held = start
            self._read = self._read_header
        elif any(mark.startswith(start) for mark in _MESSAGE_ENDS):
            return False
        else:
            self._is_spoken_channel = True
            self._read = self._read_message
        return True

    def _pass_on_all_but_mark(self, *marks: str, is_thinking: bool = False) -> None:
        """Pass on the held text, except an end that may begin one of the marks."""
        kept = max(_overlap(self._held, mark) for mark in marks)
        self._pass_on(len(self._held) - kept, is_thinking=is_thinking)

    def _pass_on(self, length: int, *, is_thinking: bool = False) -> None:
        """Pass on so many characters of the held text.

        The blank lines between thinking and answer are left out.
        """
        text, self._held = self._held[:length], self._held[length:]
        if is_thinking:
            self._thinking.append(text)
            return
        if self._skips_blanks:
            text = text.lstrip()
            self._skips_blanks = not text
        self._answer.append(text)

    def _take(self) -> tuple[str, str]:
        """Return what was passed on since the last call."""
        taken = "".join(self._answer), "".join(self._thinking)
        self._answer.clear()
        self._thinking.clear()
        return taken


def split_thinking(text: str) -> tuple[str, str]:
    """Return the (answer, thinking) of a whole text.

    What stands before a </think> without its <think> is thinking. A stream
    cannot know that, because it has passed the text on by then.
    """
    tag = _THINK_TAG.search(text)
    if tag and tag[0] == _CLOSE and not text.lstrip().startswith(_HARMONY_STARTS):
        text = _OPEN + text
    splitter = ThinkingSplitter()
    answer, thinking = splitter.feed(text)
    last_answer, last_thinking = splitter.finish()
    return answer + last_answer, thinking + last_thinking


def _text_without_header(text: str) -> str:
    """Return the answer in a text that begins like a header of harmony and is none.

    What may be the beginning of a header is no answer, and neither is what stands
    after the name of a channel: it may be thinking.
    """
    role = _ROLE.match(text)
    if role is None or _CHANNEL.search(text):
        return ""
    rest = text[role.end() :]
    return "" if _CUT_HEADER.match(rest) else rest


def _overlap(text: str, mark: str) -> int:
    """Return how many of the last characters of text begin the mark."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0

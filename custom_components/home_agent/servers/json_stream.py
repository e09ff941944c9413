"""The JSON objects of a streamed answer, from the lines of its body."""

import asyncio
from collections.abc import AsyncGenerator
import logging
import re
from typing import Final

from .answers import Answer, checked_answer
from .errors import ConnectionLost, MalformedAnswer, ServerTimedOut
from .http import SIGNS_OF_LIFE, HttpClient
from .json_text import parse_json
from .refusals import error_text

_LOGGER = logging.getLogger(__name__)

# How long the figures and the end mark may take after the last word.
END_SECONDS: Final = 2.0
# The same for a server that may send a finish_reason with each part of an answer.
UNCERTAIN_END_SECONDS: Final = 10.0
_END_MARK: Final = b"[DONE]"
# An object that a server prints over more lines than this is none. A stream with
# more lines than this that are no events is none either.
_MAX_LINES: Final = 2_000
# How an object, or a list of them, begins.
_BEGINNING: Final = re.compile(rb'\{\s*(["}]|$)|\[\s*(\{|$)')
# The fields of server-sent events (WHATWG HTML, 9.2.6); a comment's name is empty.
_EVENT_FIELDS: Final = (b"", b"data", b"event", b"id", b"retry")


class JsonStream:
    """Reads one JSON object after the other from the lines of a body.

    It understands JSON lines, where each line is an object, and server-sent
    events, where an object stands in one "data:" line or in several. Servers
    that report an error, or that ignore "stream", send one object in place of
    the stream, which may be printed over many lines.

    Among events, lines that are neither events nor JSON are skipped: some proxies
    send "data: ping" while the model evaluates the prompt. A body of only such lines,
    such as a web page, is malformed.
    """

    def __init__(
        self,
        http: HttpClient,
        lines: AsyncGenerator[bytes],
        idle_timeout: float,
        *,
        has_events: bool,
    ) -> None:
        """Read lines, which must hold no blank ones; has_events: they are events.

        idle_timeout is in seconds; a part of the answer must come within three of
        them after the first line, whatever else comes. The caller, which knows
        what a part is, calls note_progress for each.
        """
        self._http = http
        self._lines = lines
        # Objects that bring nothing, such as pings, prolong a wait as comments do.
        self._longest_wait = SIGNS_OF_LIFE * idle_timeout
        self._has_events = has_events
        # The lines of an object that is not complete yet.
        self._parts: list[bytes] = []
        self._is_bare = not has_events
        self._has_read = False
        self._skipped = 0
        self._first: bytes | None = None
        self._deadline: float | None = None
        self.is_ending = False
        # Whether the end mark was read.
        self.is_complete = False

    async def start(self) -> None:
        """Wait for the first line, and raise the error that may come instead."""
        self._first = await anext(self._lines, None)
        self._extend(self._longest_wait)

    async def read(self) -> Answer | None:
        """Return the next object, None at the end.

        Raise ConnectionLost if the stream ends inside an object, ServerTimedOut
        if no part of the answer comes, MalformedAnswer if a line is no object,
        and the error that the server reports.
        """
        while (line := await self._next_line()) is not None:
            if (text := self._text_of(line)) is None:
                continue
            if text == _END_MARK:
                if self._parts and not self.is_ending:
                    raise MalformedAnswer(self._http.host, "an event is not JSON")
                self._check_kind()
                self.is_complete = True
                return None
            self._parts.append(text)
            try:
                data = parse_json(b"\n".join(self._parts))
            except ValueError:
                self._keep_or_skip(text)
                continue
            self._parts.clear()
            self._is_bare = not self._has_events
            self._has_read = True
            return checked_answer(self._http, data)
        self._check_kind()
        if self._parts:
            raise ConnectionLost(self._http.host, "the stream ended inside an object")
        return None

    def note_progress(self) -> None:
        """Wait for the next part of the answer from now on: the caller got one.

        What end_soon was called for was not the end then.
        """
        self.is_ending = False
        self._extend(self._longest_wait)

    def end_soon(self, *, is_certain: bool) -> None:
        """Wait only some seconds more for events after the end of the answer.

        That is END_SECONDS, or UNCERTAIN_END_SECONDS if the caller is not certain that
        it was the end.
        """
        self.is_ending = True
        self._extend(END_SECONDS if is_certain else UNCERTAIN_END_SECONDS)

    def _extend(self, seconds: float) -> None:
        """Move the deadline."""
        self._deadline = asyncio.get_running_loop().time() + seconds

    async def _next_line(self) -> bytes | None:
        """Return the next line, None at the end."""
        if (line := self._first) is not None:
            self._first = None
            return line
        try:
            async with asyncio.timeout_at(self._deadline):
                return await anext(self._lines, None)
        except TimeoutError as err:
            if self.is_ending:
                return None
            detail = f"no part of an answer for {self._longest_wait:g} s"
            raise ServerTimedOut(self._http.host, detail) from err

    def _keep_or_skip(self, text: bytes) -> None:
        """Keep the lines so far if they may begin an object; else skip the text.

        The text is the last of the lines. Raise MalformedAnswer for a text that is
        not JSON where no events are expected, and for too many lines.
        """
        if _BEGINNING.match(self._parts[0]):
            if len(self._parts) > _MAX_LINES:
                detail = f"no JSON in {_MAX_LINES} lines"
                raise MalformedAnswer(self._http.host, detail)
            return
        if self._is_bare:
            raise MalformedAnswer(self._http.host, "a line is not JSON")
        self._parts.clear()
        self._skip()

    def _skip(self) -> None:
        """Count and log a line that is neither an event nor JSON."""
        self._skipped += 1
        if self._skipped > _MAX_LINES:
            detail = f"more than {_MAX_LINES} lines are not JSON"
            raise MalformedAnswer(self._http.host, detail)
        _LOGGER.debug("%s sent a line that is not JSON; skipping it", self._http.host)

    def _check_kind(self) -> None:
        """Raise MalformedAnswer if the whole body was lines that are not JSON."""
        if self._skipped and not self._has_read:
            raise MalformedAnswer(self._http.host, "the answer is not JSON")

    def _text_of(self, line: bytes) -> bytes | None:
        """Return the JSON text in a line, None if it has none.

        llama.cpp has sent errors as lines "error: {...}".
        """
        if self._is_bare:
            return line
        if not self._parts and line.startswith((b"{", b"[")):
            self._is_bare = True
            return line
        name, _, data = line.partition(b":")
        if name == b"error":
            raise self._http.error(error_text(data.decode(errors="replace")))
        # The last line may be cut off inside the name of its field.
        if not any(field.startswith(name) for field in _EVENT_FIELDS):
            self._skip()
        return data.strip() or None if name == b"data" else None

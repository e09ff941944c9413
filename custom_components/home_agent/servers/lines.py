"""Split a stream of bytes into lines."""

from collections.abc import Iterator
from typing import Final

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class LineTooLong(ValueError):
    """A line has more bytes than are allowed."""


class LineSplitter:
    r"""Puts the pieces of a stream together to lines that are not blank.

    A line ends with LF, CRLF or CR, as in server-sent events (WHATWG HTML, 9.2.5);
    no other character ends it. White space around a line is removed, and a byte
    order mark at the start of the stream.
    """

    def __init__(self, longest: int) -> None:
        """Allow lines of as many bytes as longest."""
        self._longest = longest
        self._pieces: list[bytes] = []
        self._length = 0
        self._is_first = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        r"""Yield the lines that end in data; keep the rest for the next call.

        Raise LineTooLong if a line is longer than allowed. The LF of a CRLF that was
        cut in two ends a blank line, which is left out like any other.
        """
        *ends, rest = data.replace(b"\r", b"\n").split(b"\n")
        for end in ends:
            self._add(end)
            if line := self.finish():
                yield line
        self._add(rest)

    def finish(self) -> bytes:
        """Return the line that has no end yet, b"" if it is blank."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._length = 0
        if self._is_first:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._is_first = False
        return line.strip()

    def _add(self, piece: bytes) -> None:
        """Keep a piece of a line."""
        self._length += len(piece)
        if self._length > self._longest:
            raise LineTooLong
        self._pieces.append(piece)

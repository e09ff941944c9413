"""A raw server that gives recorded answers, whole, byte by byte or cut."""

import asyncio
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from typing import Self

from .exchange import Exchange

_MADE_HERE = frozenset({"content-length", "transfer-encoding"})


class Replay:
    """Serves exchanges on loopback: to each request the next with its path.

    The last exchange of a path is given again and again. cut_after is the number
    of bytes of a body (with its framing) after which the connection is closed. An
    answer that is_framed says how long it is, as the recorded one did; any other
    ends with the connection, so that the client cannot tell that it was cut.
    is_byte_by_byte sends each byte by itself.
    """

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        """Have these exchanges."""
        self._answers: dict[tuple[str, str], deque[Exchange]] = {}
        for exchange in exchanges:
            key = (exchange.method, exchange.path)
            self._answers.setdefault(key, deque()).append(exchange)
        self.cut_after: int | None = None
        self.is_framed = True
        self.is_byte_by_byte = False
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Start."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request and close the connection."""
        try:
            exchange = await self._read(reader)
            writer.write(self._head(exchange))
            body = self.body(exchange)
            if self.cut_after is not None:
                body = body[: self.cut_after]
            step = 1 if self.is_byte_by_byte else max(1, len(body))
            for start in range(0, len(body), step):
                writer.write(body[start : start + step])
                await writer.drain()
                # The client reads in this event loop, before the next piece.
                await asyncio.sleep(0)
        except ConnectionError:
            # The client has hung up.
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Exchange:
        """Read a request; return the exchange that answers it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *lines = head.split("\r\n")
        method, path, _ = request.split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        await reader.readexactly(int(headers.get("content-length", 0)))
        answers = self._answers[method, path]
        return answers.popleft() if len(answers) > 1 else answers[0]

    def _head(self, exchange: Exchange) -> bytes:
        """Return the head of an answer."""
        headers = {
            name: value
            for name, value in exchange.headers.items()
            if name not in _MADE_HERE
        }
        if self.is_framed and "transfer-encoding" in exchange.headers:
            headers["transfer-encoding"] = "chunked"
        elif self.is_framed:
            headers["content-length"] = str(len(exchange.raw))
        headers["connection"] = "close"
        status = HTTPStatus(exchange.status)
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = [f"HTTP/1.1 {status.value} {status.phrase}", *lines, "", ""]
        return "\r\n".join(head).encode()

    def body(self, exchange: Exchange) -> bytes:
        """Return the bytes of a body with its framing."""
        if not self.is_framed or "transfer-encoding" not in exchange.headers:
            return exchange.raw
        chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in exchange.chunks]
        return b"".join(chunks) + b"0\r\n\r\n"

"""A server that sends bytes as they are, right or wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
import re
from typing import Self

type Answer = Callable[[RawServer, asyncio.StreamWriter], Awaitable[None]]


def http_answer(
    body: bytes, *headers: str, status: str = "200 OK", length: int | None = None
) -> bytes:
    """Return the bytes of an answer; length takes the place of the true one."""
    head = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


def chunked_head(*headers: str) -> bytes:
    """Return the head of an answer in chunks."""
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers, "", ""]
    return "\r\n".join(lines).encode()


def chunk(data: bytes) -> bytes:
    """Return a chunk of an answer; that of b"" is the end."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@dataclass
class RawServer:
    """Reads requests and sends what answer writes.

    connections counts those that were made; requests has the head and the body of
    each request. A connection stays open until a client or answer closes it.
    """

    answer: Answer
    connections: int = 0
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    hang_ups: int = 0
    url: str = ""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    def of(cls, *answers: bytes, close: bool = False) -> Self:
        """Return a server with these answers, the last one again and again.

        close ends the connection after each.
        """

        async def answer(server: RawServer, writer: asyncio.StreamWriter) -> None:
            writer.write(answers[min(len(server.requests), len(answers)) - 1])
            if close:
                await writer.drain()
                writer.close()

        return cls(answer)

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Listen on loopback; yield the address."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self.url
        finally:
            server.close()
            server.abort_clients()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the requests of a connection."""
        self.connections += 1
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self.requests.append((head, body))
                await self.answer(self, writer)
                await writer.drain()
        self.hang_ups += reader.at_eof()
        writer.close()

"""The body of an answer on its way out, cut off where a test wants it."""

from __future__ import annotations

from aiohttp import web

from .faults import HangUp


class BodyWriter:
    """Writes the body of one answer; fault says after which byte to hang up.

    With a length the body is sent under it, otherwise in chunks.
    """

    def __init__(
        self,
        request: web.Request,
        content_type: str,
        fault: HangUp | None = None,
        status: int = 200,
        length: int | None = None,
    ) -> None:
        """Write nothing yet."""
        self._request = request
        self._response = web.StreamResponse(
            status=status, headers={"Content-Type": content_type}
        )
        self._response.content_length = length
        self._hangs_up = fault is not None
        self._left = fault.after_bytes if fault is not None else None
        self._is_cut = False

    async def write(self, data: bytes) -> None:
        """Send some of the body, as far as the connection is to last."""
        if self._hangs_up and self._left is None:
            self._cut()
        if self._is_cut:
            return
        await self._response.prepare(self._request)
        if self._left is not None:
            data, is_last = data[: self._left], len(data) >= self._left
            self._left -= len(data)
            if data:
                await self._response.write(data)
            if is_last:
                self._cut()
        elif data and self._request.method != "HEAD":
            await self._response.write(data)

    async def end(self) -> web.StreamResponse:
        """Finish the body."""
        if not self._is_cut:
            await self._response.prepare(self._request)
            await self._response.write_eof()
        return self._response

    def _cut(self) -> None:
        """Close the connection once what was written has left."""
        self._is_cut = True
        if self._request.transport is not None:
            self._request.transport.close()

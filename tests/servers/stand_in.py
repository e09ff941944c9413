"""What all stand-ins share: recorded requests and faults on demand."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
import json
from typing import Any, Self

from aiohttp import ClientConnectionResetError, web

from .brain import RuleBrain
from .clock import Clock


@dataclass(frozen=True)
class Recorded:
    """A request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON of the request, {} where it had none."""
        body: dict[str, Any] = json.loads(self.raw) if self.raw else {}
        return body


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request.

    An error status with a body, or a line in the middle of a stream, or a hang-up
    after some bytes of the body, or a stream that waits after some lines until
    release is called.
    """

    status: int = 0
    body: Any = None
    hang_up_after: int | None = None
    error_after_lines: int | None = None
    error_text: str = ""
    hold_after_lines: int | None = None


type Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class StandIn:
    """A server on loopback; routes maps (method, path) to a handler."""

    json_type = "application/json; charset=utf-8"

    def __init__(
        self,
        *,
        brain: RuleBrain | None = None,
        api_key: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Make a server that answers with brain, and wants api_key if given."""
        self.brain = brain or RuleBrain()
        self.api_key = api_key
        self.clock = clock or Clock()
        self.requests: list[Recorded] = []
        self.faults: deque[Fault] = deque()
        self.hang_ups = 0
        self.streamed: list[list[bytes]] = []
        self.routes: dict[tuple[str, str], Handler] = {}
        self.url = ""
        self._gate = asyncio.Event()
        self._gate.set()
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> Self:
        """Listen on loopback; port 0 takes any that is free."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{tail:.*}", self._dispatch)
        # A handler is cancelled when its client hangs up, as real servers do.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        """Stop listening and hang up on everybody."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        """Start."""
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    def sent(self, *paths: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests to these paths, in order."""
        return [item.body for item in self.requests if item.path in paths]

    @property
    def asked(self) -> list[Recorded]:
        """Return the POST requests: what looks at the server is none of them."""
        return [item for item in self.requests if item.method == "POST"]

    def hold(self) -> None:
        """Let POST requests that use a model wait until release."""
        self._gate.clear()

    def release(self) -> None:
        """Let them go on."""
        self._gate.set()

    def error_body(self, status: int, text: str) -> Any:
        """Return an error in the form that this server gives it."""
        return {"error": text}

    async def write_lines(
        self, request: web.Request, content_type: str, lines: list[bytes]
    ) -> web.StreamResponse:
        """Send a stream, with the fault that is next for it."""
        fault = request.get("fault") or Fault()
        self.streamed.append(lines)
        response = web.StreamResponse(
            headers={"Content-Type": content_type, "Date": self._date()}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        left = fault.hang_up_after
        for number, line in enumerate(lines):
            if number == fault.error_after_lines:
                await response.write(self.error_line(fault.error_text))
                return response
            if number == fault.hold_after_lines:
                self.hold()
                await self._gate.wait()
            if left is not None and left <= len(line):
                await response.write(line[:left] or b"")
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(line)
            if left is not None:
                left -= len(line)
        await response.write_eof()
        return response

    async def write_json(self, request: web.Request, data: Any) -> web.StreamResponse:
        """Send JSON in one piece, with the fault that is next for it."""
        return await self.write_lines(
            request, self.json_type, [json.dumps(data).encode()]
        )

    def _date(self) -> str:
        """Return the time of the stand-in, for its answers' headers."""
        return formatdate(self.clock.now(), usegmt=True)

    def error_line(self, text: str) -> bytes:
        """Return an error in the middle of a stream."""
        return json.dumps({"error": text}).encode() + b"\n"

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        """Record a request and answer it."""
        raw = await request.read()
        self.requests.append(
            Recorded(request.method, request.path, dict(request.headers), raw)
        )
        try:
            if _uses_a_model(request):
                await self._gate.wait()
            response = await self._answer(request, raw)
        except asyncio.CancelledError:
            self.hang_ups += 1
            raise
        except ClientConnectionResetError:
            # The client hung up a moment before the answer was written.
            self.hang_ups += 1
            raise asyncio.CancelledError from None
        if not response.prepared:
            response.headers["Date"] = self._date()
        return response

    async def _answer(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        """Return the answer to a request."""
        if self.api_key and self.api_key not in (
            request.headers.get("Authorization", "").removeprefix("Bearer "),
            request.headers.get("api-key"),
        ):
            return web.json_response(self.error_body(401, "invalid key"), status=401)
        handler = self.routes.get((request.method, request.path))
        if handler is None:
            known = any(path == request.path for _, path in self.routes)
            text = "405 method not allowed" if known else "404 page not found"
            return web.Response(text=text, status=405 if known else 404)
        if _uses_a_model(request) and self.faults:
            fault = self.faults.popleft()
            if fault.status:
                body = fault.body
                if isinstance(body, str):
                    return web.Response(text=body, status=fault.status)
                return web.json_response(body, status=fault.status)
            request["fault"] = fault
        try:
            body = self.decode(request, raw)
        except ValueError as err:
            return self.refusal(request, 400, str(err))
        return await handler(request, body)

    def decode(self, request: web.Request, raw: bytes) -> dict[str, Any]:
        """Return the body of a request; raise ValueError for a wrong one."""
        body = json.loads(raw) if raw else {}
        if not isinstance(body, dict):
            raise ValueError("the body must be a JSON object")  # noqa: TRY004
        return body

    def refusal(self, request: web.Request, status: int, text: str) -> web.Response:
        """Return an error."""
        return web.json_response(self.error_body(status, text), status=status)


def _uses_a_model(request: web.Request) -> bool:
    """Return whether a request uses a model; Ollama's /api/show only describes one."""
    return request.method == "POST" and request.path != "/api/show"

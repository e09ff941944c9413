"""What all stand-ins share: requests on record, faults and pauses on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
import json
from typing import Any, ClassVar, Literal, Self

from aiohttp import web

from .body import BodyWriter
from .brain import Brain, ChatRequest
from .clock import Clock, RealClock
from .faults import Failure, Faults, HangUp, StreamError
from .rules import RuleBrain

type Handler = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]
type Stage = Literal["request", "answer"]


@dataclass(frozen=True)
class RecordedRequest:
    """A request as it came; body is its JSON, None where it had none."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    body: Any

    @property
    def model(self) -> str | None:
        """Return the model that the request names."""
        return self.body.get("model") if isinstance(self.body, dict) else None


class Refusal(Exception):
    """A request that the server answers with an error status."""

    def __init__(self, status: int, text: str) -> None:
        """Remember what to say."""
        super().__init__(text)
        self.status = status


class StandInServer:
    """A server on 127.0.0.1; routes names a handler by method and path.

    With an api_key it answers 401 to requests that do not bring it.
    """

    # Where chat requests and embedding requests go.
    CHAT_PATHS: ClassVar[tuple[str, ...]] = ()
    EMBED_PATHS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        brain: Brain | None = None,
        api_key: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Make a server that answers with a brain and lives by a clock."""
        self.brain: Brain = brain or RuleBrain()
        self.api_key = api_key
        self.clock: Clock = clock or RealClock()
        self.url = ""
        self.requests: list[RecordedRequest] = []
        self.disconnects: list[RecordedRequest] = []
        self.faults = Faults()
        self.routes: dict[tuple[str, str], Handler] = {}
        self._news = asyncio.Condition()
        self._gates: dict[Stage, asyncio.Event] = {}
        self._runner: web.AppRunner | None = None

    # Running

    async def start(self, port: int = 0) -> Self:
        """Listen on a port of 127.0.0.1, by default on any that is free."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._dispatch)
        # A handler is canceled when its client hangs up: a model server stops
        # loading and generating then.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        """Hang up on everybody and stop listening."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            self.release()
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        """Start."""
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    # What came

    def requests_to(self, *paths: str, model: str | None = None) -> list[Any]:
        """Return the bodies of the requests to some paths, for one model if given."""
        return [
            request.body
            for request in self.requests
            if request.path in paths and model in (None, request.model)
        ]

    def chat_requests(self, model: str | None = None) -> list[Any]:
        """Return the bodies of the chat requests."""
        return self.requests_to(*self.CHAT_PATHS, model=model)

    def embed_requests(self, model: str | None = None) -> list[Any]:
        """Return the bodies of the embedding requests."""
        return self.requests_to(*self.EMBED_PATHS, model=model)

    def clear(self) -> None:
        """Forget the requests and disconnects so far."""
        self.requests.clear()
        self.disconnects.clear()

    async def until_requests(self, number: int = 1, *paths: str) -> None:
        """Wait until so many requests have come, to these paths if given."""
        await self._until(
            lambda: (
                number <= sum(not paths or item.path in paths for item in self.requests)
            )
        )

    async def until_disconnects(self, number: int = 1) -> None:
        """Wait until so many clients have hung up."""
        await self._until(lambda: number <= len(self.disconnects))

    # What goes wrong

    def fail_next(
        self, status: int, body: Any, *, path: str | None = None, times: int = 1
    ) -> None:
        """Answer the next requests with a status and a text or JSON.

        Here and below: without a path, "the next" is the next POST.
        """
        self.faults.waiting += [Failure(status, body, path)] * times

    def hang_up_next(
        self, after_bytes: int | None = 0, *, path: str | None = None
    ) -> None:
        """Close the connection after so many bytes of the next answer's body.

        With None, close it without an answer.
        """
        self.faults.waiting.append(HangUp(after_bytes, path))

    def fail_stream_next(
        self, after_lines: int, text: str, *, path: str | None = None
    ) -> None:
        """Break the next stream off with an error, after some of its lines."""
        self.faults.waiting.append(StreamError(after_lines, text, path))

    def hold(self, stage: Stage = "request") -> None:
        """Let requests wait until release.

        They wait on arrival, or ("answer") with the model loaded and in use, before
        it says anything.
        """
        self._gates.setdefault(stage, asyncio.Event())

    def release(self) -> None:
        """Let the requests that wait go on."""
        for gate in self._gates.values():
            gate.set()
        self._gates.clear()

    # For the servers that build on this

    def error_body(self, status: int, text: str) -> Any:
        """Return an error status's body in this server's words."""
        return {"error": text}

    def error_line(self, path: str, text: str) -> bytes:
        """Return an error in the middle of a stream, in this server's words."""
        return json.dumps({"error": text}).encode() + b"\n"

    async def pause(self, stage: Stage) -> None:
        """Wait while the server is told to hold requests at a stage."""
        if gate := self._gates.get(stage):
            await gate.wait()

    async def think(self, request: ChatRequest) -> Reply:
        """Return the brain's reply, no sooner than a hold allows."""
        await self.pause("answer")
        return self.brain(request)

    async def send(
        self, request: web.Request, data: Any, *, status: int = 200
    ) -> web.StreamResponse:
        """Answer with JSON, or with a text as it is."""
        if isinstance(data, str):
            raw, content_type = data.encode(), "text/plain; charset=utf-8"
        else:
            raw, content_type = _compact(data), "application/json; charset=utf-8"
        fault = self.faults.take(HangUp, request)
        writer = BodyWriter(request, content_type, fault, status, length=len(raw))
        await writer.write(raw)
        return await writer.end()

    async def send_stream(
        self, request: web.Request, content_type: str, lines: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        """Answer with a stream of lines."""
        error = self.faults.take(StreamError, request)
        fault = self.faults.take(HangUp, request)
        writer = BodyWriter(request, content_type, fault)
        number = 0
        async for line in lines:
            if error is not None and number >= error.after_lines:
                break
            await writer.write(line)
            number += 1
        if error is not None:
            await writer.write(self.error_line(request.path, error.text))
        return await writer.end()

    # Between the socket and the handlers

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        """Record a request, answer it, and notice when its client hangs up."""
        raw = await request.read()
        recorded = _record(request, raw)
        self.requests.append(recorded)
        await self._tell()
        try:
            return await self._answer(request, raw)
        except asyncio.CancelledError, ConnectionResetError:
            if self._runner is not None:
                self.disconnects.append(recorded)
                await self._tell()
            raise

    async def _answer(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        """Return the answer to a request."""
        await self.pause("request")
        if failure := self.faults.take(Failure, request):
            return await self.send(request, failure.body, status=failure.status)
        try:
            self._check_key(request)
            handler = self._handler(request)
            return await handler(request, _parse(raw))
        except Refusal as refusal:
            body = self.error_body(refusal.status, str(refusal))
            return await self.send(request, body, status=refusal.status)

    def _check_key(self, request: web.Request) -> None:
        """Refuse a request without the right key."""
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.api_key and self.api_key not in (key, request.headers.get("api-key")):
            raise Refusal(401, "unauthorized")

    def _handler(self, request: web.Request) -> Handler:
        """Return who answers a request."""
        method = "GET" if request.method == "HEAD" else request.method
        if handler := self.routes.get((method, request.path)):
            return handler
        known = any(path == request.path for _, path in self.routes)
        return self._wrong_method if known else self._wrong_path

    async def _wrong_path(self, request: web.Request, _: Any) -> web.StreamResponse:
        """Answer a request to a path that does not exist."""
        return await self.send(request, "404 page not found", status=404)

    async def _wrong_method(self, request: web.Request, _: Any) -> web.StreamResponse:
        """Answer a request with a method that its path does not have."""
        return await self.send(request, "405 method not allowed", status=405)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the requests or disconnects on record make something true."""
        async with self._news:
            await self._news.wait_for(is_so)

    async def _tell(self) -> None:
        """Tell those who wait that there is something new on record."""
        async with self._news:
            self._news.notify_all()

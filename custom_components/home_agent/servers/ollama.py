"""Ollama's native API, used because its /v1 API ignores keep_alive and num_ctx."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
import logging
from typing import Final, override

import aiohttp
from homeassistant.util import dt as dt_util

from ..keep_alive import KeepAlive
from .address import server_root
from .answer_limit import AnswerLimit
from .answers import Answer, checked_answer
from .base import (
    LOAD_TIMEOUT,
    Connection,
    LoadedModel,
    ModelServer,
    ServerCapability,
    ServerKind,
    ServerModel,
)
from .errors import ConnectionLost, ModelServerError
from .http import SHORT_TIMEOUT
from .json_stream import JsonStream
from .keep_alive_requests import KeepAliveRequests
from .messages import (
    ChatAnswer,
    ChatDelta,
    ChatRequest,
    JsonObject,
    LoadRequest,
)
from .ollama_answers import (
    capabilities_of,
    http_date,
    loaded_model,
    max_context_of,
    stats_of,
)
from .ollama_files import ModelFiles
from .ollama_names import full_name, is_cloud_model
from .ollama_requests import chat_body
from .thinking import ThinkingSplitter, split_thinking
from .tool_calls import (
    LENGTH,
    WholeCallCollector,
    calls_of,
    checked_calls,
    is_cut_off,
)

_LOGGER = logging.getLogger(__name__)

_PARALLEL_SHOWS: Final = 4
# The server's clock is taken as equal to ours if it differs by less: the Date header
# has no fractions of a second, and the answer needs time to arrive.
_SAME_TIME: Final = timedelta(seconds=1.5)
# The keep_alive of a model between the requests of a turn whose own keep_alive is 0,
# and the seconds from the begin of such a request until this one is sent. Ollama's
# scheduler applies the keep_alive of the request that came last (server/sched.go,
# useLoadedRunner), so this one must come second.
KEEP_BETWEEN_REQUESTS: Final = KeepAlive.parse("5m")
KEEP_DELAY = 0.2
# The stored difference of the clocks is replaced if a new one differs from it by more.
_CLOCK_WAS_SET: Final = timedelta(seconds=3)


class OllamaServer(ModelServer):
    """An Ollama server; its address may end in /v1, which is ignored."""

    kind = ServerKind.OLLAMA
    capabilities = (
        ServerCapability.KEEP_ALIVE
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
        | ServerCapability.WARM
        | ServerCapability.PULL
    )
    reports_logprobs = True

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        """Make a client for the server that connection leads to."""
        super().__init__(session, connection)
        self._files = ModelFiles(self._read_show)
        self.keep_alive_requests = KeepAliveRequests()
        # How far the server's clock is ahead of Home Assistant's, None before a poll.
        self._clock_offset: timedelta | None = None

    @override
    def is_own(self, model: str) -> bool:
        """Return whether a model runs on the user's own machine."""
        return super().is_own(model) and not is_cloud_model(model)

    @override
    async def chat_stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """Yield the answer piece by piece.

        The stream is one JSON object a line:

            {"message": {"role": "assistant", "content": "Par"}, "done": false}
            {"message": {"content": "", "tool_calls": [...]}, "done": false}
            {"message": {"content": ""}, "done": true, "done_reason": "stop",
             "prompt_eval_count": 26, ...}

        An error in the middle is a line {"error": "text"}.
        """
        splitter = ThinkingSplitter()
        calls = WholeCallCollector(self.http.host)
        limit = AnswerLimit(self.http.host, request.max_tokens)
        lines = self.http.post_lines(self._url("chat"), self._chat_body(request, True))
        async with self._kept_loaded(request), aclosing(lines):
            stream = await self._stream(lines)
            while (chunk := await stream.read()) is not None:
                message = chunk.optional_object("message")
                content, thinking = "", ""
                is_cut = False
                if message:
                    text = message.optional_text("content") or ""
                    thinking = message.optional_text("thinking") or ""
                    if calls.add(message) or text or thinking:
                        stream.note_progress()
                    is_cut = limit.add(len(text) + len(thinking))
                    content, tagged = splitter.feed(text)
                    thinking += tagged
                if is_done := chunk.flag("done") or is_cut:
                    last_content, last_thinking = splitter.finish()
                    content += last_content
                    thinking += last_thinking
                if content or thinking:
                    yield ChatDelta(content=content, thinking=thinking)
                if is_done:
                    reason = LENGTH if is_cut else chunk.optional_text("done_reason")
                    yield ChatDelta(
                        tool_calls=checked_calls(
                            calls.calls, self.http.host, is_cut=is_cut_off(reason)
                        ),
                        finish_reason=reason,
                        stats=stats_of(chunk),
                    )
                    return
        raise ConnectionLost(self.http.host, "the stream ended before its end mark")

    @override
    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer in one piece."""
        async with self._kept_loaded(request):
            body = self._chat_body(request, False)
            answer = await self._post(self._url("chat"), body)
        if (message := answer.optional_object("message")) is None:
            raise answer.malformed("message", "an object")
        content, tagged = split_thinking(message.optional_text("content") or "")
        reason = answer.optional_text("done_reason")
        return ChatAnswer(
            content=content,
            thinking=(message.optional_text("thinking") or "") + tagged,
            tool_calls=checked_calls(
                calls_of(message, self.http.host),
                self.http.host,
                is_cut=is_cut_off(reason),
            ),
            finish_reason=reason,
            stats=stats_of(answer),
            first_token_logprobs=answer.first_token_logprobs("logprobs"),
        )

    @override
    async def embed(
        self, model: str, texts: Sequence[str], keep_alive: KeepAlive | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, in the same order.

        Raise PromptTooLong if a text is too long for the model: without "truncate":
        false, Ollama would silently cut it.
        """
        body = {"model": model, "input": list(texts), "truncate": False}
        answer = await self._post(
            self._url("embed"), body | self.residency_fields(model, keep_alive)
        )
        return answer.vectors("embeddings", len(texts))

    @override
    async def max_context(self, model: str) -> int | None:
        """Return how many tokens the context of a model may have at most."""
        try:
            show = await self._show(model)
            return max_context_of(show) if show else None
        except ModelServerError as err:
            _LOGGER.debug("Cannot read the context of %s: %s", model, err.log_text)
            return None

    @override
    async def check(self) -> None:
        """Raise a ModelServerError if the server is unreachable or refuses the key."""
        await self._get(self._url("tags"))

    @override
    async def list_models(self) -> list[ServerModel]:
        """Return the models that the server has.

        Ollama lists their capabilities from 0.30 on; before that, /api/show reports
        those of each model.
        """
        tags = await self._get(self._url("tags"))
        limit = asyncio.Semaphore(_PARALLEL_SHOWS)

        async def with_capabilities(model: Answer) -> ServerModel:
            name = model.text("name")
            if (capabilities := model.texts("capabilities")) is None:
                async with limit:
                    show = await self._show(name)
                # Ollama before 0.6.4 does not report capabilities.
                capabilities = show.texts("capabilities") if show else None
            return ServerModel(name, capabilities_of(capabilities))

        return await asyncio.gather(*map(with_capabilities, tags.objects("models")))

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel]:
        """Return the models in memory, with those of the names that stand for them.

        expires_at is converted from the server's clock, which the Date header shows,
        to Home Assistant's.
        """
        async with self.http.request(
            "GET", self._url("ps"), timeout=SHORT_TIMEOUT
        ) as response:
            answer = checked_answer(self.http, await self.http.read_json(response))
            date = response.headers.get("Date")
        now = dt_util.utcnow()
        server_now = self._server_time(http_date(date) or now, now)
        models = [
            loaded_model(model, now, server_now) for model in answer.objects("models")
        ]
        names_of = await self._files.names_of({model.name for model in models}, names)
        return [replace(model, names=names_of[model.name]) for model in models]

    def _server_time(self, date: datetime, now: datetime) -> datetime:
        """Return the time of the server's clock, by the Date header of an answer.

        The difference of the two clocks is kept from the first poll on, and replaced
        only if a clock was set: small changes with each poll would change the times of
        all models with each poll.
        """
        offset, known = date - now, self._clock_offset
        if known is None or abs(offset - known) >= _CLOCK_WAS_SET:
            known = offset if abs(offset) >= _SAME_TIME else timedelta(0)
        self._clock_offset = known
        return now + known

    @override
    def find(self, name: str, models: Sequence[ServerModel]) -> ServerModel | None:
        """Return the model that a request with this name uses, None if none does."""
        wanted = full_name(name)
        return next((m for m in models if full_name(m.name) == wanted), None)

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model, if it is not loaded already, and apply its keep_alive.

        num_ctx must be that of the chat requests: a different one would reload
        the model. A model that is loaded only gets the new keep_alive. The timeout is
        long, because the server stops loading if the connection is closed.
        """
        # An embedding model takes /api/generate only to be unloaded.
        endpoint = "embed" if request.embedding else "generate"
        body: JsonObject = {"model": request.model} | self.residency_fields(
            request.model, request.keep_alive
        )
        if not request.embedding:
            body["stream"] = False
            if request.num_ctx is not None:
                body["options"] = {"num_ctx": request.num_ctx}
        await self._post(self._url(endpoint), body, timeout=LOAD_TIMEOUT)

    @override
    async def unload(self, model: str) -> None:
        """Unload a model as soon as it is idle.

        /api/generate does so for embedding models too; /api/embed would load
        the model first.
        """
        await self._post(
            self._url("generate"), {"model": model, "keep_alive": 0, "stream": False}
        )

    @override
    async def pull(self, model: str) -> AsyncGenerator[float]:
        """Download a model, and yield the completed fraction (0 to 1) of each file.

        The fraction restarts at 0 for each file. The stream has lines such as:

            {"status": "pulling manifest"}
            {"status": "pulling 8eeb52dfb3bb", "total": 5e9, "completed": 1e9}
            {"status": "success"}
        """
        self._files.forget()
        lines = self.http.post_lines(self._url("pull"), {"model": model})
        async with aclosing(lines):
            stream = await self._stream(lines)
            while (chunk := await stream.read()) is not None:
                if status := chunk.optional_text("status"):
                    stream.note_progress()
                if status == "success":
                    return
                if total := chunk.number("total"):
                    yield (chunk.number("completed") or 0) / total
        raise ConnectionLost(self.http.host, "the stream ended before its end mark")

    @asynccontextmanager
    async def _kept_loaded(self, request: ChatRequest) -> AsyncIterator[None]:
        """Context of a chat request: the model may stay loaded after a keep_alive of 0.

        Otherwise Ollama would load it again for the next request of the turn.
        """
        if not request.keeps_loaded or not self.may_send_keep_alive(request.model):
            yield
            return

        async def keep() -> None:
            """Let the model stay loaded."""
            self.kept_loaded.add(request.model)
            await self.load(
                LoadRequest(
                    model=request.model,
                    keep_alive=KEEP_BETWEEN_REQUESTS,
                    num_ctx=request.num_ctx,
                )
            )

        async with self.keep_alive_requests.sent_during(keep, KEEP_DELAY):
            yield

    def _url(self, endpoint: str) -> str:
        """Return the address of a native endpoint."""
        return f"{server_root(self.connection.url)}/api/{endpoint}"

    def _chat_body(self, request: ChatRequest, stream: bool) -> JsonObject:
        """Return the body of /api/chat, with the keep_alive of the request."""
        fields = self.residency_fields(request.model, request.keep_alive)
        return chat_body(request, stream) | fields

    async def _stream(self, lines: AsyncGenerator[bytes]) -> JsonStream:
        """Return a reader of JSON lines after the status and first line arrived."""
        stream = JsonStream(
            self.http, lines, self.connection.idle_timeout, has_events=False
        )
        await stream.start()
        return stream

    async def _read_show(self, model: str) -> Answer:
        """Return what the server reports of a model; raise a ModelServerError."""
        return await self._post(self._url("show"), {"model": model}, SHORT_TIMEOUT)

    async def _show(self, model: str) -> Answer | None:
        """Return what the server reports of a model, None if it cannot."""
        try:
            return await self._read_show(model)
        except ModelServerError as err:
            _LOGGER.debug("Cannot read the details of %s: %s", model, err.log_text)
            return None

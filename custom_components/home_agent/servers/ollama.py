"""Ollama, over its native API: /v1 drops keep_alive and num_ctx without a word."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
import re
from typing import Any, Final, override

import aiohttp
from homeassistant.util import dt as dt_util
from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads

from ..keep_alive import KeepAlive
from .address import server_root
from .base import (
    LOAD_TIMEOUT,
    Connection,
    LoadedModel,
    ModelCapability,
    ModelServer,
    ServerCapability,
    ServerKind,
    ServerModel,
)
from .errors import ConnectionLost, ModelNotFound
from .http import SHORT_TIMEOUT
from .messages import (
    ChatAnswer,
    ChatDelta,
    ChatMessage,
    ChatRequest,
    ChatStats,
    JsonObject,
    LoadRequest,
    ToolCall,
)
from .think_tags import ThinkTagSplitter

_CAPABILITIES: Final = {
    "completion": ModelCapability.CHAT,
    "embedding": ModelCapability.EMBEDDING,
    "tools": ModelCapability.TOOLS,
    "thinking": ModelCapability.THINKING,
    "vision": ModelCapability.VISION,
}
# What runs in Ollama's cloud is never in this server's memory
# (internal/modelref/modelref.go, parseSourceSuffix).
_CLOUD_MODEL: Final = re.compile(r":(cloud|[^:/]*-cloud)\s*$", re.IGNORECASE)
# "For ever" is some 292 years from now (server/sched.go).
_FOREVER: Final = timedelta(days=20 * 365)
_PARALLEL_SHOWS: Final = 4
# Comments in a Modelfile begin with #.
_FROM: Final = re.compile(r"^FROM (.+)$", re.MULTILINE)
# The header Date has whole seconds, and an answer takes its time.
_SAME_TIME: Final = timedelta(seconds=3)


class OllamaServer(ModelServer):
    """An Ollama; an address with /v1 at its end is the same server."""

    kind = ServerKind.OLLAMA
    capabilities = (
        ServerCapability.KEEP_ALIVE
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
        | ServerCapability.WARM
        | ServerCapability.PULL
    )

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        """Talk to the server of connection over session."""
        super().__init__(session, connection)
        # Names that no loaded model had, and which file each name stands for.
        self._looked_for: set[str] = set()
        self._files: dict[str, str] = {}

    @override
    def is_own(self, model: str) -> bool:
        """Return whether a model runs on the user's own machine."""
        return super().is_own(model) and not _CLOUD_MODEL.search(model)

    @override
    async def chat_stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """Yield the answer as it is made.

        The stream is one JSON object a line:

            {"message": {"role": "assistant", "content": "Par"}, "done": false}
            {"message": {"content": "", "tool_calls": [...]}, "done": false}
            {"message": {"content": ""}, "done": true, "done_reason": "stop",
             "prompt_eval_count": 26, ...}

        An error in the middle is a line {"error": "text"}.
        """
        splitter = ThinkTagSplitter()
        tool_calls: list[ToolCall] = []
        lines = self.http.post_lines(self._url("chat"), self._chat_body(request, True))
        async with aclosing(lines):
            async for line in lines:
                chunk = self._parse_line(line)
                message = chunk.get("message") or {}
                tool_calls += _tool_calls(message)
                content, thinking = splitter.feed(message.get("content") or "")
                thinking = (message.get("thinking") or "") + thinking
                done = bool(chunk.get("done"))
                if done:
                    last_content, last_thinking = splitter.finish()
                    content += last_content
                    thinking += last_thinking
                if content or thinking:
                    yield ChatDelta(content=content, thinking=thinking)
                if done:
                    yield ChatDelta(
                        tool_calls=tuple(tool_calls),
                        finish_reason=chunk.get("done_reason"),
                        stats=_stats(chunk),
                    )
                    return
        raise ConnectionLost(self.http.host, "the stream ended before its end mark")

    @override
    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer in one piece."""
        answer = await self.http.post(
            self._url("chat"), self._chat_body(request, False)
        )
        message = answer.get("message") or {}
        splitter = ThinkTagSplitter()
        content, thinking = splitter.feed(message.get("content") or "")
        last_content, last_thinking = splitter.finish()
        return ChatAnswer(
            content=content + last_content,
            thinking=(message.get("thinking") or "") + thinking + last_thinking,
            tool_calls=tuple(_tool_calls(message)),
            finish_reason=answer.get("done_reason"),
            stats=_stats(answer),
        )

    @override
    async def embed(
        self, model: str, texts: Sequence[str], keep_alive: KeepAlive | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, in the same order."""
        body = {"model": model, "input": list(texts)}
        answer = await self.http.post(
            self._url("embed"), body | self._residency(model, keep_alive)
        )
        vectors: list[list[float]] = answer.get("embeddings") or []
        if len(vectors) != len(texts):
            raise self.http.error(f"{len(vectors)} vectors for {len(texts)} texts")
        return vectors

    @override
    async def check(self) -> None:
        """Raise a ModelServerError if the server is away or refuses the key."""
        await self.http.get(self._url("tags"))

    @override
    async def list_models(self) -> list[ServerModel]:
        """Return the models that the server has.

        Ollama lists their capabilities from 0.30 on; before, each is asked for.
        """
        tags = await self.http.get(self._url("tags"))
        limit = asyncio.Semaphore(_PARALLEL_SHOWS)

        async def with_capabilities(model: JsonObject) -> ServerModel:
            capabilities = model.get("capabilities")
            if capabilities is None:
                async with limit:
                    capabilities = await self._show_capabilities(model["name"])
            return ServerModel(model["name"], _capabilities(capabilities))

        return await asyncio.gather(*map(with_capabilities, tags.get("models") or []))

    @override
    async def loaded_models(self) -> list[LoadedModel]:
        """Return the models in memory.

        Times are the server's: its clock is taken from the answer's header.
        """
        async with self.http.request(
            "GET", self._url("ps"), timeout=SHORT_TIMEOUT
        ) as response:
            answer = await self.http.read_json(response)
            date = response.headers.get("Date")
        now = dt_util.utcnow()
        server_now = _http_date(date) or now
        if abs(server_now - now) < _SAME_TIME:
            server_now = now
        models = answer.get("models") or []
        if models:
            await self._learn_files(model["name"] for model in models)
        return [_loaded_model(model, now, server_now) for model in models]

    @override
    def is_model(self, name: str, loaded: LoadedModel) -> bool:
        """Return whether a loaded model is the one that requests call name.

        Several names may stand for one file, with different templates; it is
        loaded once, and listed by the name that loaded it (server/sched.go: its
        key is the file). Which file is asked for at the next look.
        """
        if loaded.name in (name, f"{name}:latest"):
            return True
        self._looked_for.add(name)
        file = self._files.get(name)
        return file is not None and file == self._files.get(loaded.name)

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model and hold it for keep_alive, if it is not loaded already.

        num_ctx must be that of the chat requests: a different one would reload
        the model. A model already loaded only gets the new keep_alive. Hanging
        up would end the load, so the timeout is long.
        """
        # Embedding models have no /api/generate but to unload them.
        endpoint = "embed" if request.embedding else "generate"
        body: JsonObject = {"model": request.model} | self._residency(
            request.model, request.keep_alive
        )
        if not request.embedding:
            body["stream"] = False
            if request.num_ctx is not None:
                body["options"] = {"num_ctx": request.num_ctx}
        await self.http.post(self._url(endpoint), body, timeout=LOAD_TIMEOUT)

    @override
    async def unload(self, model: str) -> None:
        """Unload a model as soon as it is idle.

        /api/generate does so for embedding models too; /api/embed would load
        the model first.
        """
        await self.http.post(
            self._url("generate"), {"model": model, "keep_alive": 0, "stream": False}
        )

    @override
    async def pull(self, model: str) -> AsyncGenerator[float]:
        """Get a model from its library, and yield how much of it is there.

        The stream has a line for each part of a file:

            {"status": "pulling manifest"}
            {"status": "pulling 8eeb52dfb3bb", "total": 5e9, "completed": 1e9}
            {"status": "success"}
        """
        lines = self.http.post_lines(self._url("pull"), {"model": model})
        async with aclosing(lines):
            async for line in lines:
                chunk = self._parse_line(line)
                if chunk.get("status") == "success":
                    return
                if total := chunk.get("total"):
                    yield chunk.get("completed", 0) / total
        raise ConnectionLost(self.http.host, "the stream ended before its end mark")

    def _url(self, endpoint: str) -> str:
        """Return the address of a native endpoint."""
        return f"{server_root(self.connection.url)}/api/{endpoint}"

    def _chat_body(self, request: ChatRequest, stream: bool) -> JsonObject:
        """Return the body of /api/chat."""
        body: JsonObject = {
            "model": request.model,
            "messages": [_message(message) for message in request.messages],
            "stream": stream,
        }
        body |= self._residency(request.model, request.keep_alive)
        if request.tools:
            body["tools"] = [
                {"type": "function", "function": tool} for tool in request.tools
            ]
        if request.think is not None:
            body["think"] = request.think
        options = {
            "num_ctx": request.num_ctx,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "num_predict": request.max_tokens,
        }
        if options := {k: v for k, v in options.items() if v is not None}:
            body["options"] = options
        return body

    def _parse_line(self, line: bytes) -> JsonObject:
        """Return a line of a stream; raise the error that it may be."""
        try:
            chunk: JsonObject = json_loads(line)  # type: ignore[assignment]
        except JSON_DECODE_EXCEPTIONS as err:
            raise ConnectionLost(self.http.host, "a line was cut") from err
        if error := chunk.get("error"):
            raise self.http.error(str(error))
        return chunk

    async def _learn_files(self, loaded: Iterable[str]) -> None:
        """Learn which files names stand for, where a name alone finds nothing."""
        if not self._looked_for:
            return
        for name in {*self._looked_for, *loaded} - self._files.keys():
            try:
                answer = await self.http.post(self._url("show"), {"model": name})
            except ModelNotFound:
                answer = {}
            files = _FROM.findall(answer.get("modelfile") or "")
            self._files[name] = files[-1] if files else name

    async def _show_capabilities(self, model: str) -> list[str] | None:
        """Return what the server says a model can do, None before 0.6.4."""
        answer = await self.http.post(self._url("show"), {"model": model})
        capabilities: list[str] | None = answer.get("capabilities")
        return capabilities


def _capabilities(names: list[str] | None) -> frozenset[ModelCapability] | None:
    """Return Ollama's capabilities in our words."""
    if names is None:
        return None
    return frozenset(_CAPABILITIES[name] for name in names if name in _CAPABILITIES)


def _message(message: ChatMessage) -> JsonObject:
    """Return a message as /api/chat wants it."""
    result: JsonObject = {"role": message["role"], "content": message["content"]}
    if thinking := message.get("thinking"):
        result["thinking"] = thinking
    if images := message.get("images"):
        result["images"] = [image.data for image in images]
    if tool_calls := message.get("tool_calls"):
        result["tool_calls"] = [
            {"function": {"name": call.name, "arguments": call.arguments or {}}}
            for call in tool_calls
        ]
    if tool_name := message.get("tool_name"):
        result["tool_name"] = tool_name
    return result


def _tool_calls(message: JsonObject) -> list[ToolCall]:
    """Return the tool calls of a message; Ollama sends each in one piece."""
    calls = []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments: Any = function.get("arguments")
        calls.append(
            ToolCall(
                name=function["name"],
                arguments=arguments if isinstance(arguments, dict) else None,
                id=call.get("id") or "",
            )
        )
    return calls


def _stats(chunk: JsonObject) -> ChatStats:
    """Return the figures of the last line; Ollama counts in nanoseconds.

    There is no count of cached tokens: prompt_eval_count has them too (0.30.1).
    """

    def seconds(key: str) -> float | None:
        value = chunk.get(key)
        return None if value is None else value / 1e9

    return ChatStats(
        prompt_tokens=chunk.get("prompt_eval_count"),
        completion_tokens=chunk.get("eval_count"),
        load_seconds=seconds("load_duration"),
        prompt_seconds=seconds("prompt_eval_duration"),
        completion_seconds=seconds("eval_duration"),
    )


def _loaded_model(
    model: JsonObject, now: datetime, server_now: datetime
) -> LoadedModel:
    """Return an entry of /api/ps, its time by our clock.

    While a request runs the time is that of the end before, and may lie in the
    past (server/sched.go).
    """
    left = datetime.fromisoformat(model["expires_at"]) - server_now
    forever = left > _FOREVER
    return LoadedModel(
        name=model["name"],
        size_bytes=model.get("size"),
        vram_bytes=model.get("size_vram"),
        expires_at=None if forever else now + left,
        is_indefinite=forever,
        context_length=model.get("context_length"),
        is_busy=left < timedelta(0),
    )


def _http_date(text: str | None) -> datetime | None:
    """Return the time of a header Date, None if there is none."""
    try:
        return parsedate_to_datetime(text or "")
    except ValueError:
        return None

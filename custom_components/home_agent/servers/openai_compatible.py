"""Servers with an OpenAI-compatible API; the base for the next ones."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, override

import aiohttp
from homeassistant.helpers.json import json_dumps
from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads

from ..keep_alive import KeepAlive
from .address import is_cloud
from .base import (
    LOAD_TIMEOUT,
    Connection,
    LoadedModel,
    ModelServer,
    ServerCapability,
    ServerKind,
    ServerModel,
)
from .errors import ConnectionLost, NotSupported, RequestRefused
from .messages import (
    ChatAnswer,
    ChatDelta,
    ChatMessage,
    ChatRequest,
    JsonObject,
    LoadRequest,
    Think,
)
from .openai_answers import StreamParser, stats_of, thinking_of, tool_call_of
from .refusals import error_text
from .think_tags import ThinkTagSplitter

# A server that refuses one of these gets the same request without it.
_OPTIONAL_FIELDS: Final = ("keep_alive", "stream_options")


class OpenAICompatibleServer(ModelServer):
    """A server that takes OpenAI's requests.

    Nobody promises that a keep_alive has an effect here. An unknown server gets
    it all the same (all local servers known to us ignore it or pass it on)
    until it refuses; a known cloud never does.
    """

    kind = ServerKind.OPENAI_COMPATIBLE
    capabilities = ServerCapability.WARM

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        """Talk to the server of connection over session."""
        super().__init__(session, connection)
        self._refused: set[str] = set()
        if connection.keep_alive_refused:
            self._refused.add("keep_alive")

    @property
    @override
    def keep_alive_refused(self) -> bool:
        """Return whether the server was seen to refuse a keep_alive."""
        return "keep_alive" in self._refused

    @override
    async def chat_stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """Yield the answer as it is made.

        The stream is server-sent events, each with one JSON object:

            data: {"choices": [{"delta": {"content": "Par"}}]}
            data: {"choices": [{"delta": {"tool_calls": [{"index": 0, ...}]}}]}
            data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}
            data: {"choices": [], "usage": {...}}
            data: [DONE]

        Lines with a leading colon are comments (llama.cpp's pings).
        """
        body = self._chat_body(request)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        parser = StreamParser()
        lines = self._post_lines("chat/completions", body)
        try:
            async with self._held(request.model, request.keep_alive), aclosing(lines):
                async for line in lines:
                    if (data := self._event_data(line)) is None:
                        continue
                    if data == b"[DONE]":
                        break
                    if delta := parser.feed(self._parse(data)):
                        yield delta
                else:
                    raise ConnectionLost(self.http.host, "no [DONE] at the end")
        except ConnectionLost:
            # Some servers leave out [DONE]; the finish_reason ends the answer.
            if parser.finish_reason is None:
                raise
        if delta := parser.rest():
            yield delta
        yield parser.end()

    @override
    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer in one piece."""
        async with self._held(request.model, request.keep_alive):
            answer = await self._post("chat/completions", self._chat_body(request))
        if not (choices := answer.get("choices")):
            raise self.http.error(str(answer.get("error") or "no answer"))
        message = choices[0].get("message") or {}
        splitter = ThinkTagSplitter()
        content, thinking = splitter.feed(message.get("content") or "")
        last_content, last_thinking = splitter.finish()
        return ChatAnswer(
            content=content + last_content,
            thinking=thinking_of(message) + thinking + last_thinking,
            tool_calls=tuple(
                tool_call_of(
                    call["function"]["name"],
                    call["function"].get("arguments") or "",
                    call.get("id") or "",
                )
                for call in message.get("tool_calls") or ()
            ),
            finish_reason=choices[0].get("finish_reason"),
            stats=stats_of(answer.get("usage"), answer.get("timings")),
        )

    @override
    async def embed(
        self, model: str, texts: Sequence[str], keep_alive: KeepAlive | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, in the same order."""
        body: JsonObject = {"model": model, "input": list(texts)}
        body |= self._residency(model, keep_alive)
        async with self._held(model, keep_alive):
            answer = await self._post("embeddings", body)
        items = sorted(answer.get("data") or (), key=lambda item: item["index"])
        if len(items) != len(texts):
            raise self.http.error(f"{len(items)} vectors for {len(texts)} texts")
        return [item["embedding"] for item in items]

    @override
    async def check(self) -> None:
        """Raise a ModelServerError if the server is away or refuses the key."""
        await self.http.get(self._url("models"))

    @override
    async def list_models(self) -> list[ServerModel]:
        """Return the models that the server has."""
        answer = await self.http.get(self._url("models"))
        models = answer.get("data") if isinstance(answer, dict) else None
        return [ServerModel(model["id"]) for model in models or ()]

    @override
    async def loaded_models(self) -> list[LoadedModel] | None:
        """Return None: the API has no such list."""
        return None

    @override
    async def load(self, request: LoadRequest) -> None:
        """Ask the model for one token: the server loads it if it must."""
        body: JsonObject = {"model": request.model, "input": ["."]}
        endpoint = "embeddings"
        if not request.embedding:
            endpoint = "chat/completions"
            message: ChatMessage = {"role": "user", "content": "."}
            asked = ChatRequest(model=request.model, messages=[message], max_tokens=1)
            body = self._chat_body(asked)
        body |= self._residency(request.model, request.keep_alive)
        async with self._held(request.model, request.keep_alive):
            await self._post(endpoint, body, timeout=LOAD_TIMEOUT)

    @override
    async def unload(self, model: str) -> None:
        """Raise NotSupported: the API has no such request."""
        raise NotSupported(self.http.host)

    @asynccontextmanager
    async def _held(
        self, model: str, keep_alive: KeepAlive | None
    ) -> AsyncIterator[None]:
        """Do before and after a request what a keep_alive needs beside it.

        Nothing here; for servers that have requests of their own for it.
        """
        yield

    def _url(self, endpoint: str) -> str:
        """Return the address of an endpoint."""
        return f"{self.connection.openai_base}/{endpoint}"

    def _chat_body(self, request: ChatRequest) -> JsonObject:
        """Return the body of /chat/completions."""
        body: JsonObject = {
            "model": request.model,
            "messages": [_message(message) for message in request.messages],
        }
        body |= self._residency(request.model, request.keep_alive)
        if request.tools:
            body["tools"] = [
                {"type": "function", "function": tool} for tool in request.tools
            ]
        # OpenAI's newer models refuse max_tokens; local servers know only it.
        limit = "max_completion_tokens" if self._is_openai else "max_tokens"
        optional = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            limit: request.max_tokens,
            "reasoning_effort": _reasoning_effort(request.think),
        }
        return body | {k: v for k, v in optional.items() if v is not None}

    @property
    def _is_openai(self) -> bool:
        """Return whether OpenAI itself answers, by its own or Azure's address."""
        url = self.connection.url
        return is_cloud(url) and ("openai.com" in url or "azure.com" in url)

    async def _post(
        self, endpoint: str, body: JsonObject, timeout: float | None = None
    ) -> Any:
        """Send JSON and return the answer, without the fields that are refused."""
        while True:
            try:
                return await self.http.post(
                    self._url(endpoint), self._trimmed(body), timeout=timeout
                )
            except RequestRefused as err:
                if not self._learn_refusal(err, body):
                    raise

    async def _post_lines(
        self, endpoint: str, body: JsonObject
    ) -> AsyncGenerator[bytes]:
        """Send JSON and yield the answer's lines, as _post does."""
        while True:
            lines = self.http.post_lines(self._url(endpoint), self._trimmed(body))
            try:
                async with aclosing(lines):
                    async for line in lines:
                        yield line
            except RequestRefused as err:
                # The status comes before the first line: nothing was yielded.
                if not self._learn_refusal(err, body):
                    raise
            else:
                return

    def _trimmed(self, body: JsonObject) -> JsonObject:
        """Return a body without the fields that the server refuses."""
        return {key: value for key, value in body.items() if key not in self._refused}

    def _learn_refusal(self, err: RequestRefused, body: JsonObject) -> bool:
        """Return whether the error names optional fields, and remember them.

        OpenAI answers 400 "Unrecognized request argument supplied: keep_alive",
        Mistral 422 with the field in "loc".
        """
        if err.status not in (400, 422):
            return False
        named = {
            field
            for field in _OPTIONAL_FIELDS
            if field in err.detail and field in body and field not in self._refused
        }
        self._refused |= named
        return bool(named)

    def _event_data(self, line: bytes) -> bytes | None:
        """Return the data of a line of a stream, None if it has none.

        llama.cpp has sent errors as lines "error: {...}"; other servers send
        them bare, with status 200, in place of the stream.
        """
        if line.startswith(b"{"):
            return line
        name, _, data = line.partition(b":")
        if name == b"error":
            raise self.http.error(error_text(data.decode(errors="replace")))
        return data.strip() if name == b"data" else None

    def _parse(self, data: bytes) -> JsonObject:
        """Return an event of a stream; raise the error that it may be."""
        try:
            chunk: JsonObject = json_loads(data)  # type: ignore[assignment]
        except JSON_DECODE_EXCEPTIONS as err:
            raise ConnectionLost(self.http.host, "an event was cut") from err
        if error := chunk.get("error"):
            text = error.get("message") if isinstance(error, dict) else error
            raise self.http.error(str(text))
        return chunk


class CloudServer(OpenAICompatibleServer):
    """A known cloud: it has no models in memory to hold."""

    kind = ServerKind.CLOUD
    capabilities = ServerCapability.NONE

    @override
    def is_own(self, model: str) -> bool:
        """Return False: a request costs money, and the cloud may refuse the field."""
        return False

    @override
    async def load(self, request: LoadRequest) -> None:
        """Raise NotSupported: a request may cost money."""
        raise NotSupported(self.http.host)


def _message(message: ChatMessage) -> JsonObject:
    """Return a message as /chat/completions wants it."""
    result: JsonObject = {"role": message["role"], "content": message["content"]}
    if images := message.get("images"):
        result["content"] = [
            {"type": "text", "text": message["content"]},
            *(
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:{image.mime_type};base64,{image.data}"},
                }
                for image in images
            ),
        ]
    if tool_calls := message.get("tool_calls"):
        result["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json_dumps(call.arguments or {}),
                },
            }
            for call in tool_calls
        ]
    if tool_call_id := message.get("tool_call_id"):
        result["tool_call_id"] = tool_call_id
    return result


def _reasoning_effort(think: Think | None) -> str | None:
    """Return OpenAI's word for how much to think; None leaves it to the server."""
    if think is None or isinstance(think, str):
        return think
    return "medium" if think else "none"

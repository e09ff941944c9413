"""Servers with an OpenAI-compatible API; the base class of all but Ollama."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Collection,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
import logging
import re
from typing import Final, override

import aiohttp

from ..keep_alive import KeepAlive
from .address import is_cloud
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
from .errors import (
    CannotConnect,
    ConnectionLost,
    ModelServerError,
    NotSupported,
    RequestRefused,
)
from .json_stream import JsonStream
from .keep_alive_requests import KeepAliveRequests
from .messages import (
    ChatAnswer,
    ChatDelta,
    ChatMessage,
    ChatRequest,
    JsonObject,
    LoadRequest,
)
from .openai_answers import StreamParser, has_reasoning_content, parse_chat_answer
from .openai_requests import openai_message, reasoning_effort, response_format

_LOGGER = logging.getLogger(__name__)

# Fields that are left out once the server has refused them.
_OPTIONAL_FIELDS: Final = ("keep_alive", "stream_options", "tool_choice", "ttl")
_REASONING: Final = "reasoning_content"


class OpenAICompatibleServer(ModelServer):
    """A server that takes OpenAI's requests.

    OpenAI's API has no keep_alive. This class sends it to servers in the user's
    network, and to those that the user has declared their own, until the server
    refuses it: the local servers known to Home Agent ignore it or pass it on.
    """

    kind = ServerKind.OPENAI_COMPATIBLE
    capabilities = ServerCapability.WARM

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        """Make a client for the server that connection leads to."""
        super().__init__(session, connection)
        self._refused: set[str] = set()
        if connection.keep_alive_refused:
            self._refused.add("keep_alive")
        # Models whose answers had the field reasoning_content.
        self._reasoning_models: set[str] = set()
        # By model, whether later requests must contain that field of earlier answers:
        # known if the server has refused a request with or without it.
        self._takes_reasoning: dict[str, bool] = {}
        self.keep_alive_requests = KeepAliveRequests()

    @property
    @override
    def keep_alive_refused(self) -> bool:
        """Return whether the server has refused the field keep_alive."""
        return "keep_alive" in self._refused

    @override
    async def chat_stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """Yield the answer piece by piece.

        The stream is server-sent events, each with one JSON object:

            data: {"choices": [{"delta": {"content": "Par"}}]}
            data: {"choices": [{"delta": {"tool_calls": [{"index": 0, ...}]}}]}
            data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}
            data: {"choices": [], "usage": {...}}
            data: [DONE]

        Lines with a leading colon are comments (llama.cpp's pings). Some servers
        leave out [DONE] or the finish_reason, send a finish_reason with each event,
        or keep the connection open after the last one.
        """
        body = self._chat_body(request)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        parser = StreamParser(self.http.host, request.max_tokens)
        async with self._applying_keep_alive(
            request.model, request.keep_alive, keeps_loaded=request.keeps_loaded
        ):
            try:
                async with self._open_stream("chat/completions", body) as stream:
                    while (event := await stream.read()) is not None:
                        delta = parser.feed(event)
                        if parser.has_progressed:
                            stream.note_progress()
                        if delta:
                            yield delta
                        if parser.is_cut:
                            break
                        if (
                            parser.has_ended
                            and not parser.has_continued
                            and not stream.is_ending
                        ):
                            stream.end_soon(is_certain=parser.is_end_certain)
                    if not stream.is_complete and not parser.has_ended:
                        raise ConnectionLost(self.http.host, "no [DONE] at the end")
            except ModelServerError as err:
                # The answer is complete: an error after its end does not matter.
                if not parser.has_ended or parser.has_continued:
                    raise
                _LOGGER.debug("Error after the end of an answer: %s", err.log_text)
            if parser.has_reasoning_content:
                self._reasoning_models.add(request.model)
            if delta := parser.rest():
                yield delta
            yield parser.end()

    @override
    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer in one piece."""
        async with self._applying_keep_alive(
            request.model, request.keep_alive, keeps_loaded=request.keeps_loaded
        ):
            answer = await self._send("chat/completions", self._chat_body(request))
        if has_reasoning_content(answer):
            self._reasoning_models.add(request.model)
        return parse_chat_answer(answer, self.http.host)

    @override
    async def embed(
        self, model: str, texts: Sequence[str], keep_alive: KeepAlive | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, in the same order."""
        body: JsonObject = {"model": model, "input": list(texts)}
        body |= self.residency_fields(model, keep_alive)
        async with self._applying_keep_alive(model, keep_alive):
            answer = await self._send("embeddings", body)
        items = answer.objects("data")
        positions = [item.integer("index") for item in items]
        if any(position is not None for position in positions):
            in_order = {item.integer("index"): item for item in items}
            if set(in_order) != set(range(len(items))):
                raise answer.malformed("data", "a list in which each index occurs once")
            items = [in_order[position] for position in range(len(items))]
        vectors = [item.value("embedding") for item in items]
        return answer.checked_vectors("data", vectors, len(texts))

    @override
    async def check(self) -> None:
        """Raise a ModelServerError if the server is unreachable or refuses the key."""
        await self._models_answer()

    @override
    async def list_models(self) -> list[ServerModel]:
        """Return the models that the server has."""
        models = (await self._models_answer()).objects("data")
        return [ServerModel(model.text("id")) for model in models]

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel] | None:
        """Return None: the API does not report loaded models."""
        return None

    @override
    async def load(self, request: LoadRequest) -> None:
        """Send the smallest request possible, which makes the server load the model."""
        body: JsonObject = {"model": request.model, "input": ["."]}
        endpoint = "embeddings"
        if not request.embedding:
            endpoint = "chat/completions"
            message: ChatMessage = {"role": "user", "content": "."}
            body = self._chat_body(
                ChatRequest(model=request.model, messages=[message], max_tokens=1)
            )
        body |= self.residency_fields(request.model, request.keep_alive)
        async with self._applying_keep_alive(request.model, request.keep_alive):
            await self._send(endpoint, body, timeout=LOAD_TIMEOUT)

    @override
    async def unload(self, model: str) -> None:
        """Raise NotSupported: the API has no such request."""
        raise NotSupported(self.http.host)

    @asynccontextmanager
    async def _applying_keep_alive(
        self, model: str, keep_alive: KeepAlive | None, *, keeps_loaded: bool = False
    ) -> AsyncIterator[None]:
        """Send the extra requests that apply a keep_alive before and after the body.

        The body sends the model request. What follows it is also sent if that request
        failed or was cancelled, because it may have loaded the model. keeps_loaded:
        nothing follows it.
        """
        if keep_alive is None:
            yield
            return
        await self.keep_alive_requests.wait_for_background()
        await self.keep_alive_requests.send_before(
            self._before_request(model, keep_alive)
        )
        is_connected = True
        try:
            yield
        except CannotConnect:
            is_connected = False
            raise
        finally:
            if is_connected and keeps_loaded:
                self.kept_loaded.add(model)
            elif is_connected and (after := self._after_request(model, keep_alive)):
                self.keep_alive_requests.send_after(after)

    async def _before_request(self, model: str, keep_alive: KeepAlive) -> None:
        """Send the extra requests that the server needs to apply a keep_alive.

        They are sent before the model request. The base class sends none. Raise a
        ModelServerError if one fails.
        """

    def _after_request(
        self, model: str, keep_alive: KeepAlive
    ) -> Awaitable[None] | None:
        """Return an extra request that the server needs after the model request.

        It applies the keep_alive, and is sent when it is awaited; that raises a
        ModelServerError if it fails. None if the server needs no such request.
        """
        return None

    def _url(self, endpoint: str) -> str:
        """Return the address of an endpoint."""
        return f"{self.connection.openai_base}/{endpoint}"

    async def _models_answer(self) -> Answer:
        """Return the list of models; Together AI sends it without an object."""
        models = await self.http.get(self._url("models"))
        if isinstance(models, list):
            models = {"data": models}
        return checked_answer(self.http, models)

    def _chat_body(self, request: ChatRequest) -> JsonObject:
        """Return the body of /chat/completions."""
        body: JsonObject = {
            "model": request.model,
            "messages": [openai_message(message) for message in request.messages],
        }
        body |= self.residency_fields(request.model, request.keep_alive)
        if request.tools:
            body["tools"] = [
                {"type": "function", "function": tool} for tool in request.tools
            ]
            if request.tool_choice:
                body["tool_choice"] = request.tool_choice
        if request.json_schema is not None:
            body["response_format"] = response_format(request.json_schema)
        if request.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        # OpenAI's newer models refuse max_tokens; local servers know only it.
        limit = "max_completion_tokens" if self._is_openai else "max_tokens"
        optional = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            limit: request.max_tokens,
            "reasoning_effort": reasoning_effort(request.think),
        }
        return body | {k: v for k, v in optional.items() if v is not None}

    @property
    def _is_openai(self) -> bool:
        """Return whether OpenAI itself answers, by its own or Azure's address."""
        url = self.connection.url
        return is_cloud(url) and ("openai.com" in url or "azure.com" in url)

    async def _send(
        self, endpoint: str, body: JsonObject, timeout: float | None = None
    ) -> Answer:
        """Send JSON and return the answer, again without a field that is refused."""
        while True:
            try:
                answer = await self.http.post(
                    self._url(endpoint),
                    self._without_refused_fields(body),
                    timeout=timeout,
                )
            except RequestRefused as err:
                if not self._remember_refused_fields(err, body):
                    raise
            else:
                return checked_answer(self.http, answer)

    @asynccontextmanager
    async def _open_stream(
        self, endpoint: str, body: JsonObject
    ) -> AsyncIterator[JsonStream]:
        """Send JSON and read the answer as a stream, as _send does.

        The status comes before the first line, so nothing was read of a request
        that is sent again.
        """
        while True:
            lines = self.http.post_lines(
                self._url(endpoint), self._without_refused_fields(body)
            )
            async with aclosing(lines):
                stream = JsonStream(
                    self.http, lines, self.connection.idle_timeout, has_events=True
                )
                try:
                    await stream.start()
                except RequestRefused as err:
                    if not self._remember_refused_fields(err, body):
                        raise
                    continue
                yield stream
                return

    def _without_refused_fields(self, body: JsonObject) -> JsonObject:
        """Return a body without the fields that the server refuses.

        reasoning_content goes back only to a server that has sent it: others may
        refuse it, and DeepSeek refuses a request without it.
        """
        sent = {key: value for key, value in body.items() if key not in self._refused}
        model = body["model"]
        if "messages" in sent and not self._takes_reasoning.get(
            model, model in self._reasoning_models
        ):
            sent["messages"] = [
                {key: value for key, value in message.items() if key != _REASONING}
                for message in sent["messages"]
            ]
        return sent

    def _remember_refused_fields(self, err: RequestRefused, body: JsonObject) -> bool:
        """Return whether to send a request again, after the server refused it.

        OpenAI answers 400 "Unrecognized request argument supplied: keep_alive",
        Mistral 422 with the field in "loc". Fields that the error names are
        remembered, and left out from then on.
        """
        if err.status not in (400, 422):
            return False
        named = {
            field
            for field in _OPTIONAL_FIELDS
            if re.search(rf"\b{field}\b", err.detail)
            and field in body
            and field not in self._refused
        }
        self._refused |= named
        if named & {"keep_alive", "ttl"}:
            self.keep_alive_refusal = err.detail
        if named:
            _LOGGER.debug(
                "%s refuses %s; sending the request again without",
                self.http.host,
                ", ".join(sorted(named)),
            )
        return bool(named) or self._remember_reasoning(err, body)

    def _remember_reasoning(self, err: RequestRefused, body: JsonObject) -> bool:
        """Return whether an error says that reasoning_content is missing, or wrong.

        The request is then sent again with or without that field, once for each model.
        """
        model = body["model"]
        has_reasoning = any(_REASONING in m for m in body.get("messages", ()))
        if (
            _REASONING not in err.detail
            or not has_reasoning
            or model in self._takes_reasoning
        ):
            return False
        takes = model not in self._reasoning_models
        self._takes_reasoning[model] = takes
        _LOGGER.debug(
            "%s %s reasoning_content; sending the request again",
            self.http.host,
            "wants" if takes else "refuses",
        )
        return True

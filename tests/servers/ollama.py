"""A stand-in Ollama: its endpoints and its rules of keep_alive.

python -m tests.servers.ollama --port 11434 --load-seconds 2
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
import hashlib
import json
import re
from typing import Any

from aiohttp import web

from .brain import ChatCall, Reply, RuleBrain, text_of
from .clock import Clock
from .embedding import embed
from .go_duration import keep_alive_seconds
from .residency import Memory, Resident
from .stand_in import StandIn

GIB = 2**30
# "For ever" on the wire: the largest duration of 64-bit nanoseconds.
_FOREVER_SECONDS = 2**63 / 1e9
_SECONDS_PER_TOKEN = 1e-4


@dataclass(frozen=True)
class StandInModel:
    """A model that the stand-in has; dimension is that of its vectors.

    file is what the name stands for: models with one file are one in memory.
    """

    name: str
    capabilities: tuple[str, ...] = ("completion", "tools")
    size: int = 2 * GIB
    dimension: int = 256
    file: str = ""

    @property
    def digest(self) -> str:
        """Return the digest, 64 hexadecimal digits."""
        return hashlib.sha256(self.name.encode()).hexdigest()


DEFAULT_MODELS = (
    StandInModel("llama3.2:3b"),
    StandInModel("llama3.2:70b", size=42 * GIB),
    StandInModel("qwen3:8b", ("completion", "tools", "thinking"), 5 * GIB),
    StandInModel("llava:7b", ("completion", "vision"), 5 * GIB),
    StandInModel("nomic-embed-text:latest", ("embedding",), GIB // 4),
)


class Refusal(Exception):
    """An error status with a text."""

    def __init__(self, status: int, text: str) -> None:
        """Remember both."""
        super().__init__(text)
        self.status = status


class OllamaStandIn(StandIn):
    """Ollama without a model behind it."""

    def __init__(
        self,
        models: Iterable[StandInModel] = DEFAULT_MODELS,
        *,
        brain: RuleBrain | None = None,
        api_key: str | None = None,
        clock: Clock | None = None,
        load_seconds: float = 0,
        capacity: int = 64 * GIB,
        max_models: int = 3,
        keep_alive: str = "5m",
        version: str = "0.33.0",
    ) -> None:
        """Have these models; keep_alive is the server's own default."""
        super().__init__(brain=brain, api_key=api_key, clock=clock)
        self.models = {model.name: model for model in models}
        self.load_seconds = load_seconds
        self.memory = Memory(
            self.clock, capacity, max_models, keep_alive_seconds(keep_alive)
        )
        self.version = version
        self.lists_capabilities = tuple(map(int, version.split(".")[:2])) >= (0, 30)
        self.evaluated_tokens: list[int] = []
        # What can be pulled, by name.
        self.library: dict[str, StandInModel] = {}
        get, post = "GET", "POST"
        self.routes = {
            (get, "/"): self._root,
            (get, "/api/version"): self._version,
            (get, "/api/tags"): self._tags,
            (get, "/api/ps"): self._ps,
            (post, "/api/show"): self._show,
            (post, "/api/pull"): self._pull,
            (post, "/api/chat"): self._chat,
            (post, "/api/generate"): self._generate,
            (post, "/api/embed"): self._embed,
            (post, "/api/embeddings"): self._embeddings,
            (get, "/v1/models"): self._v1_models,
            (post, "/v1/chat/completions"): self._v1_chat,
            (post, "/v1/embeddings"): self._v1_embeddings,
        }
        self.routes = {
            key: self._with_refusals(handler) for key, handler in self.routes.items()
        }

    async def stop(self) -> None:
        """Stop, with nothing left in memory."""
        await super().stop()
        for name in list(self.memory.residents):
            self.memory.unload(name)

    def loaded(self, name: str) -> Resident | None:
        """Return a model that is in memory."""
        return self.memory.residents.get(name)

    def _with_refusals(self, handler: Any) -> Any:
        """Return a handler whose refusals become answers, in OpenAI's form on /v1."""

        async def wrapped(
            request: web.Request, body: dict[str, Any]
        ) -> web.StreamResponse:
            try:
                response: web.StreamResponse = await handler(request, body)
            except Refusal as err:
                error: Any = str(err)
                if request.path.startswith("/v1/"):
                    kind = "invalid_request_error"
                    error = {"message": error, "type": kind, "param": None}
                return web.json_response({"error": error}, status=err.status)
            return response

        return wrapped

    async def _root(self, request: web.Request, _: Any) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, request: web.Request, _: Any) -> web.Response:
        return web.json_response({"version": self.version})

    async def _tags(self, request: web.Request, _: Any) -> web.Response:
        models = [_tag(model) for model in self.models.values()]
        if self.lists_capabilities:
            for entry, model in zip(models, self.models.values(), strict=True):
                entry["capabilities"] = list(model.capabilities)
        return web.json_response({"models": models})

    async def _ps(self, request: web.Request, _: Any) -> web.Response:
        residents = sorted(
            self.memory.residents.values(), key=lambda item: -item.expires_at
        )
        return web.json_response({"models": [self._ps_entry(r) for r in residents]})

    def _ps_entry(self, resident: Resident) -> dict[str, Any]:
        seconds = min(resident.expires_at, self.clock.now() + _FOREVER_SECONDS)
        stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
        return _tag(self.models[resident.name]) | {
            "expires_at": f"{stamp}000Z",
            "size_vram": resident.size,
            "context_length": resident.num_ctx,
        }

    async def _show(self, request: web.Request, body: Any) -> web.Response:
        model = self._model(body)
        return web.json_response(
            {
                "details": _tag(model)["details"],
                "capabilities": list(model.capabilities),
                "modelfile": f"# FROM {model.name}\nFROM {self._file(model)}\n",
                "model_info": {"llama.context_length": 131072},
            }
        )

    async def _pull(self, request: web.Request, body: Any) -> web.StreamResponse:
        lines: list[dict[str, Any]] = [{"status": "pulling manifest"}]
        if (model := self.library.get(body["model"])) is None:
            lines.append({"error": "pull model manifest: file does not exist"})
        else:
            part = {"status": f"pulling {model.digest[:12]}", "total": model.size}
            done = (model.size // 2, model.size)
            lines += [part, *(part | {"completed": count} for count in done)]
            lines.append({"status": "success"})
            self.models[model.name] = model
        encoded = [json.dumps(line).encode() + b"\n" for line in lines]
        return await self.write_lines(request, "application/x-ndjson", encoded)

    async def _chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        model = self._model(body)
        if not body.get("messages"):
            if _is_zero(body.get("keep_alive")):
                return await self._drop(request, model, chat=True)
            async with self._use(model, body):
                return await self.write_json(request, _loaded(model, "load", chat=True))
        self._require(model, body, "completion", "chat")
        if body.get("think"):
            self._require(model, body, "thinking")
        if body.get("tools"):
            self._require(model, body, "tools")
        async with self._use(model, body) as (resident, load_seconds):
            reply = self.brain(_call(model, body["messages"], body.get("tools")))
            figures = self._figures(resident, body, reply, load_seconds)
            think = "thinking" in model.capabilities and body.get("think") is not False
            lines = _chat_lines(model, reply, figures, think=think)
            if body.get("stream", True):
                encoded = [json.dumps(line).encode() + b"\n" for line in lines]
                return await self.write_lines(request, "application/x-ndjson", encoded)
            return await self.write_json(request, _joined(lines))

    async def _generate(self, request: web.Request, body: Any) -> web.StreamResponse:
        model = self._model(body)
        if not body.get("prompt"):
            if _is_zero(body.get("keep_alive")):
                return await self._drop(request, model, chat=False)
            self._require(model, body, "completion", "generate")
            async with self._use(model, body):
                return await self.write_json(
                    request, _loaded(model, "load", chat=False)
                )
        self._require(model, body, "completion", "generate")
        raise Refusal(501, "the stand-in only loads and unloads by generate")

    async def _embed(self, request: web.Request, body: Any) -> web.StreamResponse:
        missing = 'model "{}" not found, try pulling it first'
        model = self._model(body, missing)
        texts = body.get("input") or []
        texts = [texts] if isinstance(texts, str) else texts
        async with self._use(model, body) as (_, load_seconds):
            answer = {
                "model": body["model"],
                "embeddings": [embed(text, model.dimension) for text in texts],
            }
            if texts:
                answer |= {
                    "total_duration": int(load_seconds * 1e9) + 1000,
                    "load_duration": int(load_seconds * 1e9),
                    "prompt_eval_count": sum(len(_tokens(text)) for text in texts),
                }
            return await self.write_json(request, answer)

    async def _embeddings(self, request: web.Request, body: Any) -> web.StreamResponse:
        model = self._model(body)
        prompt = body.get("prompt") or ""
        async with self._use(model, body):
            vector = embed(prompt, model.dimension) if prompt else []
            return await self.write_json(request, {"embedding": vector})

    async def _v1_models(self, request: web.Request, _: Any) -> web.Response:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "library"}
            for name in self.models
        ]
        return web.json_response({"object": "list", "data": data})

    async def _v1_chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        model = self._model(body)
        # No keep_alive and no num_ctx: /v1 knows neither (openai/openai.go).
        async with self._use(model, {}):
            reply = self.brain(_call(model, body["messages"], body.get("tools")))
            choice = {"index": 0, "finish_reason": "stop"}
            message = {"role": "assistant", "content": reply.content}
            head = {"id": "chatcmpl-1", "model": model.name}
            if not body.get("stream"):
                answer = head | {"choices": [choice | {"message": message}]}
                return await self.write_json(request, answer)
            chunks = [
                {"choices": [{"index": 0, "delta": message}]},
                {"choices": [choice | {"delta": {}}]},
            ]
            lines = [f"data: {json.dumps(head | c)}\n\n".encode() for c in chunks]
            return await self.write_lines(
                request, "text/event-stream", [*lines, b"data: [DONE]\n\n"]
            )

    async def _v1_embeddings(
        self, request: web.Request, body: Any
    ) -> web.StreamResponse:
        model = self._model(body)
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        if not texts:
            raise Refusal(400, "invalid input")
        async with self._use(model, {}):
            data = [
                {"object": "embedding", "index": i, "embedding": embed(text, 256)}
                for i, text in enumerate(texts)
            ]
            return await self.write_json(request, {"object": "list", "data": data})

    def _model(
        self, body: dict[str, Any], missing: str = "model '{}' not found"
    ) -> StandInModel:
        name = body.get("model") or ""
        if not name:
            raise Refusal(400, "model is required")
        for known in (name, f"{name}:latest"):
            if known in self.models:
                return self.models[known]
        raise Refusal(404, missing.format(name))

    def _file(self, model: StandInModel) -> str:
        """Return the file that a name stands for."""
        return f"/models/blobs/sha256-{model.file or model.digest}"

    def _loaded_as(self, model: StandInModel) -> str:
        """Return the name by which a model's file is in memory, else its own."""
        names = (
            name
            for name in self.memory.residents
            if self._file(self.models[name]) == self._file(model)
        )
        return next(names, model.name)

    def _require(
        self,
        model: StandInModel,
        body: dict[str, Any],
        capability: str,
        name: str | None = None,
    ) -> None:
        if capability not in model.capabilities:
            shown = f'"{body["model"]}"'
            if capability == "tools":
                shown = f"registry.ollama.ai/library/{model.name}"
            raise Refusal(400, f"{shown} does not support {name or capability}")

    @asynccontextmanager
    async def _use(
        self, model: StandInModel, body: dict[str, Any]
    ) -> AsyncIterator[tuple[Resident, float]]:
        value = body.get("keep_alive")
        try:
            seconds = None if value is None else keep_alive_seconds(value)
        except ValueError as err:
            raise Refusal(400, str(err)) from err
        num_ctx = (body.get("options") or {}).get("num_ctx")
        async with self.memory.use(
            self._loaded_as(model),
            model.size,
            seconds=seconds,
            num_ctx=num_ctx,
            load=lambda: self.load_seconds,
        ) as used:
            yield used

    async def _drop(
        self, request: web.Request, model: StandInModel, *, chat: bool
    ) -> web.StreamResponse:
        self.memory.expire(self._loaded_as(model))
        return await self.write_json(request, _loaded(model, "unload", chat=chat))

    def _figures(
        self, resident: Resident, body: Any, reply: Reply, load_seconds: float
    ) -> dict[str, int]:
        """Return the figures of an answer; what is cached costs no time."""
        prompt = _tokens(json.dumps(body.get("tools") or []))
        for message in body["messages"]:
            prompt += _tokens(f"{message['role']} {text_of(message)}")
        common = 0
        for old, new in zip(resident.cached, prompt, strict=False):
            if old != new:
                break
            common += 1
        evaluated = max(1, len(prompt) - common)
        self.evaluated_tokens.append(evaluated)
        answer = _tokens(reply.content + reply.thinking)
        resident.cached = prompt + answer
        return {
            "total_duration": int((load_seconds + 0.1) * 1e9),
            "load_duration": int(load_seconds * 1e9),
            "prompt_eval_count": len(prompt),
            "prompt_eval_duration": int(evaluated * _SECONDS_PER_TOKEN * 1e9),
            "eval_count": max(1, len(answer)),
            "eval_duration": int(max(1, len(answer)) * 50e6),
        }


def _tag(model: StandInModel) -> dict[str, Any]:
    """Return an entry of /api/tags."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": "2026-01-01T00:00:00Z",
        "size": model.size,
        "digest": model.digest,
        "details": {
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": model.name.partition(":")[2],
            "quantization_level": "Q4_K_M",
        },
    }


def _loaded(model: StandInModel, reason: str, *, chat: bool) -> dict[str, Any]:
    """Return the answer to a request that only loads or unloads."""
    content: dict[str, Any] = {"response": ""}
    if chat:
        content = {"message": {"role": "assistant", "content": ""}}
    stamp = datetime.now(UTC).isoformat()
    head = {"model": model.name, "created_at": stamp}
    return head | content | {"done": True, "done_reason": reason}


def _call(model: StandInModel, messages: Any, tools: Any) -> ChatCall:
    """Return a request in the brain's words."""
    names = [tool["function"]["name"] for tool in tools or ()]
    return ChatCall(model.name, messages, names)


def _chat_lines(
    model: StandInModel, reply: Reply, figures: dict[str, int], *, think: bool
) -> list[dict[str, Any]]:
    """Return the lines of a stream."""
    messages: list[dict[str, Any]] = []
    if reply.thinking and think:
        messages += [
            {"content": "", "thinking": piece}
            for piece in re.findall(r"\S+\s*", reply.thinking)
        ]
    messages += [{"content": piece} for piece in reply.pieces()]
    messages += [
        {
            "content": "",
            "tool_calls": [
                {
                    "id": f"call_{index}_{len(reply.tools)}",
                    "function": {
                        "index": index,
                        "name": use.name,
                        "arguments": use.arguments,
                    },
                }
            ],
        }
        for index, use in enumerate(reply.tools)
    ]
    head = {"model": model.name, "created_at": datetime.now(UTC).isoformat()}
    lines = [
        head | {"message": {"role": "assistant"} | message, "done": False}
        for message in messages
    ]
    end = {"message": {"role": "assistant", "content": ""}, "done": True}
    return [*lines, head | end | {"done_reason": reply.finish_reason} | figures]


def _joined(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the lines of a stream as the answer without one."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for line in lines:
        part = line["message"]
        message["content"] += part["content"]
        if thinking := part.get("thinking"):
            message["thinking"] = message.get("thinking", "") + thinking
        if calls := part.get("tool_calls"):
            message.setdefault("tool_calls", []).extend(calls)
    return lines[-1] | {"message": message}


def _tokens(text: str) -> list[str]:
    """Return a text in pieces of about the size of tokens."""
    return re.findall(r"\w{1,4}|\S", text)


def _is_zero(value: Any) -> bool:
    """Return whether a keep_alive asks to unload."""
    try:
        return value is not None and keep_alive_seconds(value) == 0
    except ValueError:
        return False

"""A stand-in Ollama: its endpoints, what it refuses, and its rules of keep_alive.

It answers as v0.24.0 does (server/routes.go, server/sched.go); tests hold it to
exchanges that were recorded from a real one (tests/recorded). What is not there is
what the integration does not use: creating, copying and deleting models, and /v1
but for models, chat and embeddings.

python -m tests.servers --port 11434 --load-seconds 2
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Self, override

from aiohttp import web

from . import ollama_answers as answers, ollama_requests as requests, ollama_v1 as v1
from .go_json import Struct, decode
from .ollama_answers import Json
from .ollama_engine import OllamaEngine
from .ollama_models import DEFAULT_MODELS, GIB, StandInModel
from .ollama_requests import Refusal
from .residency import Resident

__all__ = ["DEFAULT_MODELS", "GIB", "OllamaStandIn", "StandInModel"]

# An indefinite keep_alive on the wire: the largest duration of 64-bit nanoseconds.
_INDEFINITE_SECONDS = 2**63 / 1e9
# server/routes.go, allowedHost.
_LOCAL_ENDINGS = (".localhost", ".local", ".internal")

# What a request may hold, by its path; a path that is not here takes no body.
_STRUCTS: dict[str, Struct] = {
    "/api/show": requests.SHOW,
    "/api/pull": requests.PULL,
    "/api/chat": requests.CHAT,
    "/api/generate": requests.GENERATE,
    "/api/embed": requests.EMBED,
    "/api/embeddings": requests.EMBEDDING,
    "/v1/chat/completions": requests.V1_CHAT,
    "/v1/embeddings": requests.V1_EMBED,
}

type Call = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]


class OllamaStandIn(OllamaEngine):
    """Ollama without a model behind it."""

    @override
    async def start(self, port: int = 0) -> Self:
        """Listen on loopback; port 0 takes any that is free."""
        handlers: dict[tuple[str, str], Call] = {
            ("GET", "/"): self._root,
            ("HEAD", "/"): self._root,
            ("GET", "/api/version"): self._version,
            ("HEAD", "/api/version"): self._version,
            ("GET", "/api/tags"): self._tags,
            ("HEAD", "/api/tags"): self._tags,
            ("GET", "/api/ps"): self._ps,
            ("POST", "/api/show"): self._show,
            ("POST", "/api/pull"): self._pull,
            ("POST", "/api/chat"): self._chat,
            ("POST", "/api/generate"): self._generate,
            ("POST", "/api/embed"): self._embed,
            ("POST", "/api/embeddings"): self._embeddings,
            ("GET", "/v1/models"): self._v1_models,
            ("POST", "/v1/chat/completions"): self._v1_chat,
            ("POST", "/v1/embeddings"): self._v1_embeddings,
        }
        self.routes = {
            key: self._with_refusals(handler) for key, handler in handlers.items()
        }
        return await super().start(port)

    @override
    async def _answer(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        """Return the answer to a request; refuse one with a foreign header Host."""
        if not _is_local(request.host):
            return web.Response(status=403)
        shorter = request.path.rstrip("/")
        if shorter != request.path and (request.method, shorter) in self.routes:
            status = 301 if request.method == "GET" else 307
            return web.Response(status=status, headers={"Location": shorter})
        return await super()._answer(request, raw)

    @override
    def decode(self, request: web.Request, raw: bytes) -> Json:
        """Return the body of a request as Go reads it into a struct."""
        struct = _STRUCTS.get(request.path)
        if struct is None:
            return {}
        if not raw.strip():
            is_v1 = request.path.startswith("/v1/")
            raise ValueError("EOF" if is_v1 else "missing request body")
        return decode(raw, struct)

    @override
    def refusal(self, request: web.Request, status: int, text: str) -> web.Response:
        """Return an error, in OpenAI's form on /v1."""
        if request.path.startswith("/v1/") and status != 403:
            return web.json_response(v1.error(status, text), status=status)
        return web.json_response({"error": text}, status=status)

    def _with_refusals(self, handler: Call) -> Call:
        """Return a handler whose refusals become answers."""

        async def wrapped(request: web.Request, body: Json) -> web.StreamResponse:
            try:
                return await handler(request, body)
            except Refusal as err:
                return self.refusal(request, err.status, str(err))

        return wrapped

    async def _root(self, request: web.Request, _: Json) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, request: web.Request, _: Json) -> web.Response:
        return web.json_response({"version": self.version})

    async def _tags(self, request: web.Request, _: Json) -> web.Response:
        models = [answers.listed(model) for model in self.models.values()]
        for entry, model in zip(models, self.models.values(), strict=True):
            entry["modified_at"] = "2026-01-01T00:00:00Z"
            if self.is_0_30:
                entry["capabilities"] = list(model.capabilities)
        return web.json_response({"models": models})

    async def _ps(self, request: web.Request, _: Json) -> web.Response:
        residents = sorted(
            self.memory.residents.values(), key=lambda item: -item.expires_at
        )
        return web.json_response({"models": [self._ps_entry(r) for r in residents]})

    def _ps_entry(self, resident: Resident) -> Json:
        seconds = min(resident.expires_at, self.clock.now() + _INDEFINITE_SECONDS)
        stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
        return answers.listed(self.models[resident.name]) | {
            "expires_at": f"{stamp}000Z",
            "size_vram": resident.size,
            "context_length": resident.num_ctx,
        }

    async def _show(self, request: web.Request, body: Json) -> web.Response:
        name = body.get("model") or body.get("name")
        if not name:
            raise Refusal(400, "model is required")
        return web.json_response(answers.shown(self.find(name)))

    async def _pull(self, request: web.Request, body: Json) -> web.StreamResponse:
        lines: list[Json] = [{"status": "pulling manifest"}]
        name = body.get("model") or body.get("name")
        if (model := self.library.get(name or "")) is None:
            lines.append({"error": "pull model manifest: file does not exist"})
        else:
            part = {"status": f"pulling {model.digest[:12]}", "total": model.size}
            done = (model.size // 2, model.size)
            lines += [part, *(part | {"completed": count} for count in done)]
            lines.append({"status": "success"})
            self.models[model.name] = model
        return await self.write_lines(
            request, "application/x-ndjson", answers.ndjson(lines)
        )

    async def _chat(self, request: web.Request, body: Json) -> web.StreamResponse:
        if not body.get("model"):
            raise Refusal(400, "model is required")
        async with self.answer_lines(body) as lines:
            if not body.get("messages"):
                return await self.write_json(request, lines[0])
            if body.get("stream", True):
                encoded = answers.ndjson(lines)
                return await self.write_lines(request, "application/x-ndjson", encoded)
            return await self.write_json(request, answers.joined(lines))

    async def _generate(self, request: web.Request, body: Json) -> web.StreamResponse:
        prompt = body.get("prompt")
        if prompt:
            body |= {"messages": [{"role": "user", "content": prompt}]}
        body.setdefault("model", "")
        async with self.answer_lines(body, endpoint="generate") as lines:
            if not prompt:
                answer = answers.finished(
                    body["model"], lines[0]["done_reason"], chat=False
                )
                return await self.write_json(request, answer)
            context = list(range(lines[-1]["prompt_eval_count"]))
            if body.get("stream", True):
                encoded = answers.ndjson(
                    [answers.generated(line, context) for line in lines]
                )
                return await self.write_lines(request, "application/x-ndjson", encoded)
            answer = answers.generated(answers.joined(lines), context)
            return await self.write_json(request, answer)

    async def _embed(self, request: web.Request, body: Json) -> web.StreamResponse:
        async with self.embedded(body) as answer:
            return await self.write_json(request, answer)

    async def _embeddings(self, request: web.Request, body: Json) -> web.StreamResponse:
        if not (name := body.get("model")):
            raise Refusal(400, "model is required")
        self.find_exactly(name)
        body["input"] = body.get("prompt")
        async with self.embedded(body) as answer:
            vectors = answer["embeddings"] or [[]]
            return await self.write_json(request, {"embedding": vectors[0]})

    async def _v1_models(self, request: web.Request, _: Json) -> web.Response:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "library"}
            for name in self.models
        ]
        return web.json_response({"object": "list", "data": data})

    async def _v1_chat(self, request: web.Request, body: Json) -> web.StreamResponse:
        native = v1.native_chat(body)
        if not native["model"]:
            raise Refusal(400, "model is required")
        async with self.answer_lines(native) as lines:
            if not body.get("stream"):
                return await self.write_json(request, v1.completion(lines))
            options = body.get("stream_options") or {}
            usage = bool(options.get("include_usage"))
            events = v1.events(lines, include_usage=usage)
            return await self.write_lines(request, "text/event-stream", events)

    async def _v1_embeddings(
        self, request: web.Request, body: Json
    ) -> web.StreamResponse:
        async with self.embedded(v1.native_embed(body)) as answer:
            return await self.write_json(
                request,
                v1.embeddings(
                    answer["model"],
                    answer["embeddings"],
                    answer.get("prompt_eval_count", 0),
                ),
            )


def _is_local(host: str) -> bool:
    """Return whether a header Host names a machine of the local network."""
    name = host.rpartition(":")[0] if not host.endswith("]") else host
    name = (name or host).strip("[]").lower()
    try:
        address = ip_address(name)
    except ValueError:
        return name in ("", "localhost") or name.endswith(_LOCAL_ENDINGS)
    return address.is_loopback or address.is_private or address.is_unspecified

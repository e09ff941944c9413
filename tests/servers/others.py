"""Stand-ins for servers with requests of their own to load and unload models.

Each has those requests, as the server's documentation describes them; chats and
embeddings are answered as by any OpenAI-compatible server.
"""

import json
from typing import Any, ClassVar, override

from aiohttp import web

from .openai import OpenAIStandIn


def ok(data: Any = None, status: int = 200) -> web.Response:
    """Return an answer."""
    return web.json_response({} if data is None else data, status=status)


class OtherStandIn(OpenAIStandIn):
    """What they share: which models are loaded, and that a chat loads its model."""

    owner: ClassVar[str] = "someone"
    paths: ClassVar[dict[tuple[str, str], str]] = {}

    def __init__(self, **options: Any) -> None:
        """Start with nothing in memory."""
        super().__init__(owned_by=self.owner, **options)
        self.loaded: dict[str, dict[str, Any]] = {}
        for key, name in self.paths.items():
            self.routes[key] = getattr(self, name)

    def on_question(self, body: dict[str, Any]) -> None:
        """Load the model of a chat or an embedding."""
        self.loaded.setdefault(body["model"], {})

    async def _chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        self.on_question(body)
        return await super()._chat(request, body)

    async def _embeddings(self, request: web.Request, body: Any) -> web.StreamResponse:
        self.on_question(body)
        return await super()._embeddings(request, body)


class LMStudioStandIn(OtherStandIn):
    """LM Studio 0.4, or with old=True 0.3.6.

    A model that a chat loads gets the chat's ttl and evicts the one that was
    loaded so before (Auto-Evict); a load request does neither.
    """

    owner = "organization_owner"
    paths: ClassVar = {
        ("GET", "/api/v1/models"): "_v1",
        ("GET", "/api/v0/models"): "_v0",
        ("POST", "/api/v1/models/load"): "_load",
        ("POST", "/api/v1/models/unload"): "_unload",
    }

    def __init__(self, *, old: bool = False, **options: Any) -> None:
        """Start with nothing in memory."""
        super().__init__(**options)
        self.old = old

    def on_question(self, body: dict[str, Any]) -> None:
        """Load a model just in time; Auto-Evict keeps one such model."""
        if body["model"] not in self.loaded:
            for name in [n for n, item in self.loaded.items() if item["ttl"]]:
                del self.loaded[name]
            self.loaded[body["model"]] = {"ttl": body.get("ttl", 3600)}

    async def _answer(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        known = (request.method, request.path) in self.routes
        if not known or (self.old and request.path.startswith("/api/v1")):
            path = f"{request.method} {request.path}"
            return ok({"error": f"Unexpected endpoint or method. ({path})"})
        return await super()._answer(request, raw)

    async def _v1(self, request: web.Request, _: Any) -> web.Response:
        instance = {"config": {"context_length": 4096}}
        return ok(
            {
                "models": [
                    {
                        "type": "llm",
                        "key": name,
                        "size_bytes": 1,
                        "loaded_instances": [{"id": f"{name}:1", **instance}]
                        if name in self.loaded
                        else [],
                    }
                    for name in self.models
                ]
            }
        )

    async def _v0(self, request: web.Request, _: Any) -> web.Response:
        return ok(
            {
                "data": [
                    {
                        "id": name,
                        "compatibility_type": "gguf",
                        "state": "loaded" if name in self.loaded else "not-loaded",
                    }
                    for name in self.models
                ]
            }
        )

    async def _load(self, request: web.Request, body: Any) -> web.Response:
        assert body.keys() == {"model"}
        self.loaded[body["model"]] = {"ttl": None}
        return ok({"status": "loaded", "load_time_seconds": 1.0})

    async def _unload(self, request: web.Request, body: Any) -> web.Response:
        del self.loaded[body["instance_id"].removesuffix(":1")]
        return ok({"instance_id": body["instance_id"]})


class LlamaCppStandIn(OtherStandIn):
    """llama.cpp with one model; state is "loading", "ready" or "sleeping"."""

    owner = "llamacpp"
    paths: ClassVar = {
        ("GET", "/props"): "_props",
        ("POST", "/apply-template"): "_apply_template",
        ("POST", "/tokenize"): "_tokenize",
    }
    state = "ready"
    n_ctx = 4096

    @override
    def error_body(self, status: int, text: str) -> Any:
        """Return an error in llama.cpp's form (tools/server/server-common.cpp)."""
        kind = "unavailable_error" if status == 503 else "invalid_request_error"
        return {"error": {"message": text, "type": kind, "code": status}}

    async def _props(self, request: web.Request, _: Any) -> web.Response:
        if self.state == "loading":
            return ok(self.error_body(503, "Loading model"), 503)
        return ok(
            {
                "default_generation_settings": {"n_ctx": self.n_ctx},
                "model_alias": self.models[0],
                "is_sleeping": self.state == "sleeping",
            }
        )

    async def _apply_template(self, request: web.Request, body: Any) -> web.Response:
        said = [message["content"] for message in body["messages"]]
        tools = [json.dumps(tool) for tool in body.get("tools", ())]
        return ok({"prompt": "\n".join([*tools, *said])})

    async def _tokenize(self, request: web.Request, body: Any) -> web.Response:
        """Make a token of each word."""
        assert body["parse_special"]
        return ok({"tokens": list(range(len(body["content"].split())))})


class LlamaCppRouterStandIn(OtherStandIn):
    """llama.cpp as a router.

    A model is reported as loading the first loading_looks times.
    """

    owner = "llamacpp"
    paths: ClassVar = {
        ("GET", "/props"): "_props",
        ("GET", "/models"): "_list",
        ("POST", "/models/load"): "_load",
        ("POST", "/models/unload"): "_unload",
    }
    loading_looks = 1
    fails = False

    async def _props(self, request: web.Request, _: Any) -> web.Response:
        return ok({"role": "router"})

    async def _list(self, request: web.Request, _: Any) -> web.Response:
        return ok({"data": [self._entry(name) for name in self.models]})

    def _entry(self, name: str) -> dict[str, Any]:
        state = "unloaded"
        if (item := self.loaded.get(name)) is not None:
            state = "loading" if item.get("looks", 0) > 0 else "loaded"
            item["looks"] = item.get("looks", 0) - 1
            if state == "loaded" and self.fails:
                state = "failed"
        return {"id": name, "status": {"value": state}}

    async def _load(self, request: web.Request, body: Any) -> web.Response:
        if body["model"] in self.loaded:
            return ok(self.error_body(400, "model is already running"), 400)
        self.loaded[body["model"]] = {"looks": self.loading_looks}
        return ok({"success": True})

    async def _unload(self, request: web.Request, body: Any) -> web.Response:
        if self.loaded.pop(body["model"], None) is None:
            return ok(self.error_body(400, "model is not running"), 400)
        return ok({"success": True})


class LlamaSwapStandIn(OtherStandIn):
    """llama-swap: one model at a time."""

    owner = "llama-swap"

    def __init__(self, **options: Any) -> None:
        """Start with nothing in memory."""
        super().__init__(**options)
        self.routes[("GET", "/running")] = self._running
        for name in self.models:
            self.routes[("POST", f"/api/models/unload/{name}")] = self._unload

    def on_question(self, body: dict[str, Any]) -> None:
        """Swap to the model of a chat or an embedding."""
        self.loaded = {body["model"]: {}}

    async def _running(self, request: web.Request, _: Any) -> web.Response:
        running = [{"model": name, "state": "ready"} for name in self.loaded]
        return ok({"running": running})

    async def _unload(self, request: web.Request, _: Any) -> web.Response:
        self.loaded.pop(request.path.rpartition("/")[2], None)
        return ok()


class LocalAIStandIn(OtherStandIn):
    """LocalAI; with admin False it refuses to list, load and unload models."""

    paths: ClassVar = {
        ("GET", "/.well-known/localai.json"): "_known",
        ("GET", "/system"): "_system",
        ("POST", "/backend/load"): "_load",
        ("POST", "/backend/shutdown"): "_shutdown",
    }
    admin = True

    async def _known(self, request: web.Request, _: Any) -> web.Response:
        return ok({"version": "3.0", "endpoints": {}})

    async def _system(self, request: web.Request, _: Any) -> web.Response:
        if not self.admin:
            return ok(self.error_body(403, "admin only"), 403)
        return ok({"loaded_models": [{"id": name} for name in self.loaded]})

    async def _load(self, request: web.Request, body: Any) -> web.Response:
        if not self.admin:
            return ok(self.error_body(403, "admin only"), 403)
        self.loaded[body["model"]] = {}
        return ok()

    async def _shutdown(self, request: web.Request, body: Any) -> web.Response:
        self.loaded.pop(body["model"], None)
        return web.Response()


class LemonadeStandIn(OtherStandIn):
    """Lemonade."""

    owner = "lemonade"
    paths: ClassVar = {
        ("GET", "/v1/health"): "_health",
        ("POST", "/v1/load"): "_load",
        ("POST", "/v1/unload"): "_unload",
    }

    async def _health(self, request: web.Request, _: Any) -> web.Response:
        return ok(
            {
                "all_models_loaded": [
                    {"model_name": name, "pinned": bool(item.get("pinned"))}
                    for name, item in self.loaded.items()
                ]
            }
        )

    async def _load(self, request: web.Request, body: Any) -> web.Response:
        self.loaded[body["model_name"]] = {"pinned": body["pinned"]}
        return ok()

    async def _unload(self, request: web.Request, body: Any) -> web.Response:
        self.loaded.pop(body["model_name"], None)
        return ok()


class DockerModelRunnerStandIn(OtherStandIn):
    """Docker Model Runner; a busy runner refuses to be configured."""

    owner = "docker"
    paths: ClassVar = {
        ("GET", "/engines/ps"): "_ps",
        ("POST", "/engines/_configure"): "_configure",
        ("POST", "/engines/unload"): "_unload",
    }
    busy = False

    def __init__(self, **options: Any) -> None:
        """Start with nothing in memory."""
        super().__init__(**options)
        self.configured: dict[str, str] = {}

    async def _chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        if request.headers.get("X-Preload-Only") == "true":
            self.on_question(body)
            return ok()
        return await super()._chat(request, body)

    async def _ps(self, request: web.Request, _: Any) -> web.Response:
        return ok(
            [
                {
                    "backend_name": "llama.cpp",
                    "model_name": name,
                    "in_use": self.busy,
                    "last_used": "2026-11-21T10:00:00Z",
                    "keep_alive": self.configured.get(name, "5m"),
                }
                for name in self.loaded
            ]
        )

    async def _configure(self, request: web.Request, body: Any) -> web.Response:
        if self.busy:
            return ok({"error": "runner already active"}, 409)
        assert isinstance(body["keep_alive"], str)
        self.configured[body["model"]] = body["keep_alive"]
        return web.Response(status=202)

    async def _unload(self, request: web.Request, body: Any) -> web.Response:
        gone = [name for name in body["models"] if self.loaded.pop(name, None) == {}]
        return ok({"unloaded_runners": len(gone)})

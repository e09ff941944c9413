"""Servers that load and unload on request but time their models by own rules."""

from typing import Any, override

from .address import server_root
from .base import LOAD_TIMEOUT, LoadedModel, ServerCapability, ServerKind
from .errors import InvalidAuth, RequestRefused
from .messages import LoadRequest
from .own_rules import OwnRulesServer


class LoadingServer(OwnRulesServer):
    """What they share: the API is below the server's root."""

    capabilities = (
        ServerCapability.WARM
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
    )

    def _root_url(self, path: str) -> str:
        """Return an address below the root."""
        return f"{server_root(self.connection.url)}/{path}"


class LlamaSwapServer(LoadingServer):
    """llama-swap: ttl stands in its configuration file; a question loads."""

    kind = ServerKind.LLAMA_SWAP

    @override
    async def loaded_models(self) -> list[LoadedModel]:
        """Return the models that run or start."""
        answer: Any = await self.http.get(self._root_url("running"))
        return [
            LoadedModel(name=item["model"], is_loading=item.get("state") == "starting")
            for item in answer.get("running") or ()
            if item.get("state") in ("ready", "starting")
        ]

    @override
    async def unload(self, model: str) -> None:
        """Unload one model; without its name the path would unload all."""
        await self.http.post(self._root_url(f"api/models/unload/{model}"), {})


class LocalAIServer(LoadingServer):
    """LocalAI: a watchdog unloads (LOCALAI_WATCHDOG_IDLE), off by default.

    The requests are the administrator's; without the right key questions still
    load a model.
    """

    kind = ServerKind.LOCALAI

    @override
    async def loaded_models(self) -> list[LoadedModel] | None:
        """Return the models in memory, None where only an administrator may ask."""
        try:
            answer: Any = await self.http.get(self._root_url("system"))
        except InvalidAuth, RequestRefused:
            return None
        return [LoadedModel(name=m["id"]) for m in answer.get("loaded_models") or ()]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model; by a question where only an administrator may load."""
        try:
            await self.http.post(
                self._root_url("backend/load"),
                {"model": request.model},
                timeout=LOAD_TIMEOUT,
            )
        except InvalidAuth, RequestRefused:
            await super().load(request)

    @override
    async def unload(self, model: str) -> None:
        """Unload a model."""
        await self.http.post(self._root_url("backend/shutdown"), {"model": model})


class LemonadeServer(LoadingServer):
    """Lemonade: evict_idle_timeout is its own; a pinned model is never evicted."""

    kind = ServerKind.LEMONADE

    @override
    async def loaded_models(self) -> list[LoadedModel]:
        """Return the models in memory."""
        answer: Any = await self.http.get(self._url("health"))
        return [
            LoadedModel(
                name=model["model_name"],
                is_indefinite=bool(model.get("pinned")),
                is_busy=bool(model.get("is_busy")),
            )
            for model in answer.get("all_models_loaded") or ()
        ]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model, pinned if it shall stay for ever."""
        await self.http.post(
            self._url("load"),
            {"model_name": request.model, "pinned": request.keep_alive.is_indefinite},
            timeout=LOAD_TIMEOUT,
        )

    @override
    async def unload(self, model: str) -> None:
        """Unload a model."""
        await self.http.post(self._url("unload"), {"model_name": model})

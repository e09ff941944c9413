"""Servers that load and unload on request, but have no keep_alive."""

from collections.abc import Collection
from typing import override
from urllib.parse import quote

from .address import server_root
from .base import (
    LOAD_TIMEOUT,
    LoadedModel,
    ServerCapability,
    ServerKind,
    same_names,
)
from .errors import InvalidAuth, RequestRefused
from .messages import LoadRequest
from .own_rules import OwnRulesServer


class LoadUnloadServer(OwnRulesServer):
    """The base class of servers with requests to load and unload a model.

    The paths of those requests begin at the root of the address, not at /v1.
    """

    capabilities = (
        ServerCapability.WARM
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
    )

    def _root_url(self, path: str) -> str:
        """Return the address of a path below the root."""
        return f"{server_root(self.connection.url)}/{path}"


class LlamaSwapServer(LoadUnloadServer):
    """llama-swap: it loads a model with its first request, and has no other way.

    It unloads a model after the ttl in llama-swap's configuration file.
    """

    kind = ServerKind.LLAMA_SWAP

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel]:
        """Return the models that run or start."""
        answer = await self._get(self._root_url("running"))
        return [
            LoadedModel(
                name=(name := item.text("model")),
                names=same_names(names, name),
                is_loading=item.optional_text("state") == "starting",
            )
            for item in answer.objects("running")
            if item.optional_text("state") in ("ready", "starting")
        ]

    @override
    async def unload(self, model: str) -> None:
        """Unload one model; the path without a name unloads all of them."""
        path = f"api/models/unload/{quote(model)}"
        await self.http.post(self._root_url(path), {})


class LocalAIServer(LoadUnloadServer):
    """LocalAI: a watchdog unloads models (LOCALAI_WATCHDOG_IDLE), off by default.

    Only an administrator's key may load and unload. Without one, a chat or embedding
    request still loads its model.
    """

    kind = ServerKind.LOCALAI

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel] | None:
        """Return the models in memory, None without an administrator's key."""
        try:
            answer = await self._get(self._root_url("system"))
        except InvalidAuth, RequestRefused:
            return None
        return [
            LoadedModel(name=(name := model.text("id")), names=same_names(names, name))
            for model in answer.objects("loaded_models")
        ]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model; without an administrator's key, by a small model request."""
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


class LemonadeServer(LoadUnloadServer):
    """Lemonade: unloads by its own evict_idle_timeout, but never a pinned model."""

    kind = ServerKind.LEMONADE

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel]:
        """Return the models in memory."""
        answer = await self._get(self._url("health"))
        return [
            LoadedModel(
                name=(name := model.text("model_name")),
                names=same_names(names, name),
                is_indefinite=model.flag("pinned"),
                is_busy=model.flag("is_busy"),
            )
            for model in answer.objects("all_models_loaded")
        ]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model, pinned if its keep_alive is -1."""
        await self.http.post(
            self._url("load"),
            {"model_name": request.model, "pinned": request.keep_alive.is_indefinite},
            timeout=LOAD_TIMEOUT,
        )

    @override
    async def unload(self, model: str) -> None:
        """Unload a model."""
        await self.http.post(self._url("unload"), {"model_name": model})

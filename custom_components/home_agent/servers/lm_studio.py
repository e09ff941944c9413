"""LM Studio: ttl for a time, loading for ever, unloading at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, override

from ..keep_alive import KeepAlive
from .address import server_root
from .base import LOAD_TIMEOUT, LoadedModel, ServerCapability, ServerKind
from .errors import ModelServerError, NotSupported
from .messages import JsonObject, LoadRequest
from .openai_compatible import OpenAICompatibleServer

_LOADED: Final = "loaded"


class LMStudioServer(OpenAICompatibleServer):
    """LM Studio 0.3.6 and newer; loading and unloading came with 0.4.

    A model that a request loads leaves after the ttl of that request, each
    request starting it anew, and makes room for the next one that a request
    loads (Auto-Evict). One that was loaded explicitly stays.
    """

    kind = ServerKind.LM_STUDIO
    capabilities = (
        ServerCapability.KEEP_ALIVE
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
        | ServerCapability.WARM
    )

    @override
    def residency_fields(self, model: str, keep_alive: KeepAlive | None) -> JsonObject:
        """Return the ttl of a request, in seconds."""
        ttl = keep_alive.ttl if keep_alive else None
        return {} if ttl is None else {"ttl": ttl}

    @asynccontextmanager
    @override
    async def _held(
        self, model: str, keep_alive: KeepAlive | None
    ) -> AsyncIterator[None]:
        """Load the model explicitly for -1, unload it after the answer for 0."""
        if keep_alive and keep_alive.is_indefinite:
            await self._load_explicitly(model)
        yield
        if keep_alive and keep_alive.nanoseconds == 0:
            await self.unload(model)

    @override
    async def loaded_models(self) -> list[LoadedModel]:
        """Return the models in memory; their ttl is not told."""
        if (models := await self._models()) is not None:
            return [
                LoadedModel(
                    name=model["key"],
                    context_length=(instance.get("config") or {}).get("context_length"),
                )
                for model in models
                for instance in model.get("loaded_instances") or ()
            ]
        # Before 0.4.
        answer: Any = await self.http.get(self._rest_url("v0/models"))
        return [
            LoadedModel(
                name=model["id"], context_length=model.get("loaded_context_length")
            )
            for model in answer.get("data") or ()
            if model.get("state") == _LOADED
        ]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model: explicitly for ever, else by a request with its ttl."""
        if not request.keep_alive.is_indefinite or not await self._load_explicitly(
            request.model
        ):
            await super().load(request)

    @override
    async def unload(self, model: str) -> None:
        """Unload all instances of a model; NotSupported before 0.4."""
        if (models := await self._models()) is None:
            raise NotSupported(self.http.host)
        for entry in models:
            if entry["key"] == model:
                for instance in entry.get("loaded_instances") or ():
                    await self.http.post(
                        self._rest_url("v1/models/unload"),
                        {"instance_id": instance["id"]},
                    )

    async def _load_explicitly(self, model: str) -> bool:
        """Load a model if it is not loaded; return False before 0.4.

        Asking again would load a second instance.
        """
        if (models := await self._models()) is None:
            return False
        if not any(m["key"] == model and m.get("loaded_instances") for m in models):
            await self.http.post(
                self._rest_url("v1/models/load"), {"model": model}, timeout=LOAD_TIMEOUT
            )
        return True

    async def _models(self) -> list[JsonObject] | None:
        """Return the models with their instances, None before 0.4.

        An unknown path is answered with status 200 and an error.
        """
        try:
            answer = await self.http.get(self._rest_url("v1/models"))
        except ModelServerError as err:
            if err.status != 404:
                raise
            return None
        models: list[JsonObject] | None = answer.get("models")
        return models

    def _rest_url(self, path: str) -> str:
        """Return an address of LM Studio's own API."""
        return f"{server_root(self.connection.url)}/api/{path}"

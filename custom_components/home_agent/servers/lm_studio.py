"""LM Studio: a ttl for a duration, an explicit load for -1, an unload for 0."""

import asyncio
from collections.abc import Awaitable, Collection
from typing import Final, override

from ..keep_alive import KeepAlive
from .address import server_root
from .answers import Answer
from .base import (
    LOAD_TIMEOUT,
    LoadedModel,
    ServerCapability,
    ServerKind,
    same_names,
)
from .errors import ModelServerError, NotSupported, ServerTimedOut
from .http import SHORT_TIMEOUT
from .messages import JsonObject, LoadRequest
from .openai_compatible import OpenAICompatibleServer

_LOADED: Final = "loaded"


class LMStudioServer(OpenAICompatibleServer):
    """LM Studio 0.3.6 and newer; loading and unloading came with 0.4.

    A model that is loaded by a request is unloaded after that request's ttl, counted
    from the last request that used it, and also when a request loads another model
    (Auto-Evict). A model that was loaded explicitly stays. The ttl of a later request
    changes nothing (lmstudio-ai/docs, 1_python/5_manage-models/loading.mdx).
    """

    kind = ServerKind.LM_STUDIO
    capabilities = (
        ServerCapability.KEEP_ALIVE
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
        | ServerCapability.WARM
    )
    is_keep_alive_fixed = True

    @override
    def residency_fields(self, model: str, keep_alive: KeepAlive | None) -> JsonObject:
        """Return the ttl of a request, in seconds."""
        ttl = keep_alive.ttl if keep_alive else None
        return {} if ttl is None else {"ttl": ttl}

    @override
    async def _before_request(self, model: str, keep_alive: KeepAlive) -> None:
        """Load the model explicitly for -1; a request would load it with a ttl."""
        if keep_alive.is_indefinite:
            await self._load_explicitly(model, self.connection.idle_timeout)

    @override
    def _after_request(
        self, model: str, keep_alive: KeepAlive
    ) -> Awaitable[None] | None:
        """Return the request that unloads the model, for a keep_alive of 0."""
        return self._unload_or_time_out(model) if keep_alive.nanoseconds == 0 else None

    async def _unload_or_time_out(self, model: str) -> None:
        """Unload a model; raise ServerTimedOut if it takes SHORT_TIMEOUT or longer."""
        try:
            async with asyncio.timeout(SHORT_TIMEOUT):
                await self.unload(model)
        except TimeoutError as err:
            detail = f"the model is not unloaded after {SHORT_TIMEOUT:g} s"
            raise ServerTimedOut(self.http.host, detail) from err

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel]:
        """Return the models in memory; LM Studio does not report their ttl."""
        if (models := await self._models()) is not None:
            return [
                LoadedModel(
                    name=(key := model.text("key")),
                    names=same_names(names, key, instance.text("id")),
                    context_length=config.integer("context_length") if config else None,
                )
                for model in models
                for instance in model.objects("loaded_instances")
                for config in (instance.optional_object("config"),)
            ]
        # Before 0.4.
        answer = await self._get(self._rest_url("v0/models"))
        return [
            LoadedModel(
                name=(name := model.text("id")),
                names=same_names(names, name),
                context_length=model.integer("loaded_context_length"),
            )
            for model in answer.objects("data")
            if model.optional_text("state") == _LOADED
        ]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model: explicitly for -1, else by a request with its ttl."""
        if not request.keep_alive.is_indefinite or not await self._load_explicitly(
            request.model, LOAD_TIMEOUT
        ):
            await super().load(request)

    @override
    async def unload(self, model: str) -> None:
        """Unload all instances of a model; NotSupported before 0.4."""
        if (models := await self._models()) is None:
            raise NotSupported(self.http.host)
        for entry in models:
            if entry.text("key") == model:
                for instance in entry.objects("loaded_instances"):
                    await self._post(
                        self._rest_url("v1/models/unload"),
                        {"instance_id": instance.text("id")},
                    )

    async def _load_explicitly(self, model: str, timeout: float) -> bool:
        """Load a model if it is not loaded; return False before 0.4.

        A second request would load a second instance. timeout is in seconds.
        """
        if (models := await self._models()) is None:
            return False
        if not any(
            entry.text("key") == model and entry.objects("loaded_instances")
            for entry in models
        ):
            await self._post(
                self._rest_url("v1/models/load"), {"model": model}, timeout
            )
        return True

    async def _models(self) -> list[Answer] | None:
        """Return the models with their loaded instances, None before version 0.4.

        Older versions do not know the path, and answer with 404, or with status 200
        and an error text.
        """
        try:
            models = await self.http.get(self._rest_url("v1/models"))
        except ModelServerError as err:
            if err.status != 404:
                raise
            return None
        answer = Answer(self.http.host, models)
        return None if answer.value("models") is None else answer.objects("models")

    def _rest_url(self, path: str) -> str:
        """Return an address of LM Studio's own API."""
        return f"{server_root(self.connection.url)}/api/{path}"

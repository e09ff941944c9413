"""Docker Model Runner: keep_alive is a setting of a model, not of a request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, override

import aiohttp
from homeassistant.util import dt as dt_util

from ..keep_alive import KeepAlive
from .address import server_root
from .base import LOAD_TIMEOUT, Connection, LoadedModel, ServerCapability, ServerKind
from .errors import RequestRefused
from .messages import JsonObject, LoadRequest
from .openai_compatible import OpenAICompatibleServer

_PRELOAD: Final = {"X-Preload-Only": "true"}
_CONFLICT: Final = 409


class DockerModelRunner(OpenAICompatibleServer):
    """Docker Model Runner; its imitation of Ollama reloads models, so is not used."""

    kind = ServerKind.DOCKER_MODEL_RUNNER
    capabilities = (
        ServerCapability.KEEP_ALIVE
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
        | ServerCapability.WARM
    )

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        """Talk to the server of connection over session."""
        super().__init__(session, connection)
        self._configured: dict[str, KeepAlive] = {}

    @override
    def may_send_keep_alive(self, model: str) -> bool:
        """Return False: the field in a request has no effect."""
        return False

    @asynccontextmanager
    @override
    async def _held(
        self, model: str, keep_alive: KeepAlive | None
    ) -> AsyncIterator[None]:
        """Configure the keep_alive before the first request that has it."""
        if keep_alive and self._configured.get(model) != keep_alive:
            await self._configure(model, keep_alive)
        yield

    @override
    async def loaded_models(self) -> list[LoadedModel]:
        """Return the models in memory."""
        answer: Any = await self.http.get(self._engines_url("ps"))
        return [_loaded_model(model) for model in answer or ()]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model without asking it anything."""
        body: JsonObject = {"model": request.model, "input": ["."]}
        if not request.embedding:
            body = {
                "model": request.model,
                "messages": [{"role": "user", "content": "."}],
            }
        endpoint = "embeddings" if request.embedding else "chat/completions"
        async with self._held(request.model, request.keep_alive):
            await self.http.post(
                self._url(endpoint), body, timeout=LOAD_TIMEOUT, headers=_PRELOAD
            )

    @override
    async def unload(self, model: str) -> None:
        """Unload a model."""
        await self.http.post(self._engines_url("unload"), {"models": [model]})

    async def _configure(self, model: str, keep_alive: KeepAlive) -> None:
        """Set the keep_alive of a model.

        Always as text, unlike on Ollama. A runner that is busy refuses; it is
        asked again with the next request.
        """
        text = {None: "-1", 0: "0"}.get(keep_alive.nanoseconds, keep_alive.text)
        try:
            await self.http.post(
                self._engines_url("_configure"), {"model": model, "keep_alive": text}
            )
        except RequestRefused as err:
            if err.status != _CONFLICT:
                raise
        else:
            self._configured[model] = keep_alive

    def _engines_url(self, path: str) -> str:
        """Return an address of the runner's own API."""
        return f"{server_root(self.connection.url)}/engines/{path}"


def _loaded_model(model: JsonObject) -> LoadedModel:
    """Return an entry of /engines/ps; idle time counts from last_used."""
    in_use = bool(model.get("in_use"))
    forever = False
    expires_at = None
    try:
        seconds = KeepAlive.parse(model.get("keep_alive") or "").seconds
        forever = seconds is None
        last_used = dt_util.parse_datetime(model.get("last_used") or "")
        if seconds is not None and last_used is not None and not in_use:
            expires_at = last_used + timedelta(seconds=seconds)
    except ValueError:
        pass
    return LoadedModel(
        name=model["model_name"],
        expires_at=expires_at,
        is_indefinite=forever,
        is_loading=bool(model.get("loading")),
        is_busy=in_use,
    )

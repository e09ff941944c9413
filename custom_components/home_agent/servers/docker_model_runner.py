"""Docker Model Runner: keep_alive is a setting of a model, not of a request."""

from collections.abc import Collection
from datetime import timedelta
import logging
from typing import Final, override

import aiohttp
from homeassistant.util import dt as dt_util

from ..keep_alive import InvalidKeepAlive, KeepAlive
from .address import server_root
from .answers import Answer, checked_answer
from .base import (
    LOAD_TIMEOUT,
    Connection,
    LoadedModel,
    ServerCapability,
    ServerKind,
    same_names,
)
from .errors import RequestRefused
from .messages import JsonObject, LoadRequest
from .openai_compatible import OpenAICompatibleServer

_LOGGER = logging.getLogger(__name__)

_PRELOAD: Final = {"X-Preload-Only": "true"}
_CONFLICT: Final = 409


class DockerModelRunner(OpenAICompatibleServer):
    """Docker Model Runner, used by its own API.

    It has an API like Ollama's too, but that reloads a model whenever a request has
    another keep_alive or context size than the one before.
    """

    kind = ServerKind.DOCKER_MODEL_RUNNER
    capabilities = (
        ServerCapability.KEEP_ALIVE
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
        | ServerCapability.WARM
    )

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        """Make a client for the server that connection leads to."""
        super().__init__(session, connection)
        # By model: why the server did not take the keep_alive of the last request.
        self._busy_errors: dict[str, RequestRefused] = {}

    @override
    def may_send_keep_alive(self, model: str) -> bool:
        """Return False: the field in a request has no effect."""
        return False

    @override
    async def _before_request(self, model: str, keep_alive: KeepAlive) -> None:
        """Configure the keep_alive, unless the model is loaded with it already.

        /engines/ps is read each time, because another client may have set another
        value, and a server that was restarted has forgotten it. A runner (the process
        that has the model in memory) refuses while it is busy; the next request tries
        again.
        """
        self._busy_errors.pop(model, None)
        for entry in await self._loaded():
            current = _keep_alive_of(entry)
            if (
                entry.text("model_name") == model
                and current is not None
                and current.nanoseconds == keep_alive.nanoseconds
            ):
                return
        # A text also for -1 and 0, for which Ollama wants numbers.
        text = {None: "-1", 0: "0"}.get(keep_alive.nanoseconds, keep_alive.text)
        _LOGGER.debug("Setting the keep_alive of %s to %s", model, text)
        try:
            await self.http.post(
                self._engines_url("_configure"), {"model": model, "keep_alive": text}
            )
        except RequestRefused as err:
            if err.status != _CONFLICT:
                raise
            _LOGGER.debug("The runner is busy: %s", err.log_text)
            self._busy_errors[model] = err

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel]:
        """Return the models in memory."""
        return [_loaded_model(entry, names) for entry in await self._loaded()]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model without generating anything, and apply its keep_alive.

        Raise RequestRefused if the runner is too busy to take the keep_alive.
        """
        body: JsonObject = {"model": request.model, "input": ["."]}
        if not request.embedding:
            body = {
                "model": request.model,
                "messages": [{"role": "user", "content": "."}],
            }
        endpoint = "embeddings" if request.embedding else "chat/completions"
        async with self._applying_keep_alive(request.model, request.keep_alive):
            await self.http.post(
                self._url(endpoint), body, timeout=LOAD_TIMEOUT, headers=_PRELOAD
            )
        if (err := self._busy_errors.get(request.model)) is not None:
            raise err

    @override
    async def unload(self, model: str) -> None:
        """Unload a model."""
        await self.http.post(self._engines_url("unload"), {"models": [model]})

    async def _loaded(self) -> list[Answer]:
        """Return the entries of /engines/ps, which is a list."""
        entries = await self.http.get(self._engines_url("ps"))
        if isinstance(entries, list):
            entries = {"engines": entries}
        return checked_answer(self.http, entries).objects("engines")

    def _engines_url(self, path: str) -> str:
        """Return an address of the runner's own API."""
        return f"{server_root(self.connection.url)}/engines/{path}"


def _loaded_model(entry: Answer, names: Collection[str]) -> LoadedModel:
    """Return the model that an entry of /engines/ps describes.

    The server counts a keep_alive from last_used, which is in the entry.
    """
    name = entry.text("model_name")
    is_busy = entry.flag("in_use")
    expires_at = None
    keep_alive = _keep_alive_of(entry)
    if keep_alive and keep_alive.seconds is not None and not is_busy:
        last_used = dt_util.parse_datetime(entry.optional_text("last_used") or "")
        if last_used is not None:
            expires_at = last_used + timedelta(seconds=keep_alive.seconds)
    return LoadedModel(
        name=name,
        names=same_names(names, name),
        expires_at=expires_at,
        is_indefinite=keep_alive is not None and keep_alive.is_indefinite,
        is_loading=entry.flag("loading"),
        is_busy=is_busy,
    )


def _keep_alive_of(entry: Answer) -> KeepAlive | None:
    """Return the keep_alive that a model is loaded with, None if it is not reported."""
    try:
        return KeepAlive.parse(entry.optional_text("keep_alive") or "")
    except InvalidKeepAlive:
        return None

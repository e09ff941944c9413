"""One poll for each server: which models it has in memory."""

import asyncio
from datetime import datetime, timedelta
import logging
from typing import Any, Final, override

from homeassistant.components.websocket_api.const import DATA_CONNECTIONS
from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.helpers.debounce import Debouncer
from homeassistant.helpers.update_coordinator import DataUpdateCoordinator, UpdateFailed
from homeassistant.util import dt as dt_util
from homeassistant.util.hass_dict import HassKey

from .const import DOMAIN
from .servers.address import server_id, shown_host
from .servers.base import Connection, LoadedModel, ModelServer, ServerCapability
from .servers.errors import ModelServerError
from .servers.factory import connect, server_capabilities

_LOGGER = logging.getLogger(__name__)

# While somebody looks or something changes, and at rest.
QUICK: Final = timedelta(seconds=10)
REST: Final = timedelta(minutes=1)
# How long after a change the next one is likely.
RESTLESS: Final = timedelta(minutes=1)
# A turn of several requests is several changes.
HURRY_COOLDOWN: Final = 3.0
# A model that leaves is gone a moment after its time.
AFTER_EXPIRY: Final = timedelta(seconds=2)

type Loaded = tuple[LoadedModel, ...]


_DATA: Final[HassKey[dict[str, ServerCoordinator]]] = HassKey(f"{DOMAIN}_coordinators")


@callback
def shared_coordinator(
    hass: HomeAssistant, entry: ConfigEntry[Any], connection: Connection
) -> ServerCoordinator:
    """Return the coordinator of a server, one for all entries.

    It ends with the last entry that has asked for it.
    """
    shared = hass.data.setdefault(_DATA, {})
    root = server_id(connection.url)
    if (coordinator := shared.get(root)) is None:
        coordinator = shared[root] = ServerCoordinator(hass, connection)
    coordinator.entries.append(entry)

    async def release() -> None:
        coordinator.entries.remove(entry)
        if not coordinator.entries:
            del shared[root]
            await coordinator.async_shutdown()

    entry.async_on_unload(release)
    return coordinator


class ServerCoordinator(DataUpdateCoordinator[Loaded | None]):
    """The models in a server's memory, None where the server does not tell.

    A poll is a request that no server counts as a use of a model. Several entries
    may have roles on one server: entries are those that it is asked for.
    """

    def __init__(self, hass: HomeAssistant, connection: Connection) -> None:
        """Poll the server of a connection, if its kind tells what it holds."""
        super().__init__(
            hass,
            _LOGGER,
            config_entry=None,
            name=connection.url,
            request_refresh_debouncer=Debouncer(
                hass, _LOGGER, cooldown=HURRY_COOLDOWN, immediate=True
            ),
        )
        self.connection = connection
        self.entries: list[ConfigEntry[Any]] = []
        self._server: ModelServer | None = None
        # An answer that was asked for earlier must not come in later.
        self._asking = asyncio.Lock()
        self._changed_at = dt_util.utcnow()
        self.updated_at: datetime | None = None
        # The models that were not there in the poll before.
        self.came: list[str] = []

    @property
    def host(self) -> str:
        """Return the host and port of the server, as shown to the user."""
        return shown_host(self.connection.url)

    @property
    def lists_models(self) -> bool:
        """Return whether the server tells what it has in memory."""
        kind = self.connection.kind
        return kind is not None and ServerCapability.LIST in server_capabilities(kind)

    @property
    def known_server(self) -> ModelServer | None:
        """Return the server, None until it is known."""
        return self._server

    async def server(self) -> ModelServer:
        """Return the server; raise a ModelServerError if its kind is not found."""
        if self._server is None:
            self._server = await connect(
                async_get_clientsession(self.hass), self.connection
            )
            self.connection = self._server.connection
        return self._server

    async def async_refresh_if_before(self, time: datetime) -> None:
        """Ask the server unless it has answered since a time."""
        if self.updated_at is None or self.updated_at <= time:
            await self.async_refresh()

    @callback
    def refresh_soon(self) -> None:
        """Poll quickly for a while, and soon: something is happening."""
        self._changed_at = dt_util.utcnow()
        if self.lists_models:
            self.hass.async_create_background_task(
                self.async_request_refresh(), f"poll {self.name}"
            )

    @override
    async def _async_update_data(self) -> Loaded | None:
        """Return what is in memory, and decide when to ask again."""
        async with self._asking:
            return await self._async_ask()

    async def _async_ask(self) -> Loaded | None:
        """Ask the server."""
        before = self.data if self.last_update_success else None
        self.update_interval = REST if self._is_polled else None
        try:
            server = await self.server()
            if ServerCapability.LIST not in server.capabilities:
                return None
            models = await server.loaded_models()
        except ModelServerError as err:
            self.updated_at = None
            raise UpdateFailed(err.log_text) from err
        self.updated_at = dt_util.utcnow()
        loaded = None if models is None else tuple(models)
        there = {model.name for model in before or ()}
        self.came = [m.name for m in loaded or () if m.name not in there]
        if loaded != before:
            self._changed_at = self.updated_at
        if self._is_polled:
            self.update_interval = self._interval(loaded or ())
        return loaded

    @property
    def _is_polled(self) -> bool:
        """Return whether to ask again: the user may have switched that off."""
        return self.lists_models and not all(
            entry.pref_disable_polling for entry in self.entries
        )

    def _interval(self, loaded: Loaded) -> timedelta:
        """Return the time until the next poll."""
        now = dt_util.utcnow()
        is_looked_at = bool(self.hass.data.get(DATA_CONNECTIONS))
        quick = is_looked_at or now - self._changed_at < RESTLESS
        interval = QUICK if quick else REST
        leaves = [
            model.expires_at - now + AFTER_EXPIRY
            for model in loaded
            if model.expires_at is not None and model.expires_at > now
        ]
        return min([interval, *leaves])

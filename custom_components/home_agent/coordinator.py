"""One poll for each server of an entry: which models the server has in memory."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
import logging
from typing import Any, Final, override

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.debounce import Debouncer
from homeassistant.helpers.update_coordinator import DataUpdateCoordinator, UpdateFailed
from homeassistant.util import dt as dt_util

from .servers.address import shown_host
from .servers.base import Connection, LoadedModel, ModelServer, ServerCapability
from .servers.errors import InvalidAuth, ModelServerError, is_away
from .servers.factory import connect, server_capabilities
from .servers.session import async_get_session

_LOGGER = logging.getLogger(__name__)

POLL_INTERVAL: Final = timedelta(minutes=1)
# A server that does not answer is polled more often: its models are loaded again as
# soon as it is back. An attempt to connect costs little, and only one runs at a time.
AWAY_INTERVAL: Final = timedelta(seconds=10)
# DataUpdateCoordinator counts an interval from the last full second: one of less than a
# second may be over at once, and polls would follow each other without a pause.
MIN_INTERVAL: Final = timedelta(seconds=1)
# A server unloads a model a moment after an unload request.
UNLOAD_DELAY: Final = timedelta(seconds=2)
# How long after the end of a keep_alive the server is polled, until the model is gone:
# unloading takes a moment, and the two clocks may differ by up to two seconds.
EXPIRY_DELAYS: Final = (
    timedelta(seconds=1),
    timedelta(seconds=2),
    timedelta(seconds=4),
)
# Seconds from a request to the poll that follows it: one turn may send several.
REQUEST_COOLDOWN: Final = 0.5
# How long a model that the server is unloading is polled for every REQUEST_COOLDOWN.
UNLOADING_POLLS: Final = timedelta(seconds=10)
# The status of a proxy that cannot reach the server behind it.
_PROXY_WITHOUT_SERVER: Final = (502, 504)

type LoadedModels = tuple[LoadedModel, ...]


class ServerCoordinator(DataUpdateCoordinator[LoadedModels | None]):
    """Polls one server for the models in its memory.

    data holds them, and is None if the server does not report its loaded models.

    A server that reports its loaded models is polled each minute, when a model is due
    to be unloaded, and after requests of Home Agent; another server is contacted once,
    and after a request that did not reach it. A server that does not answer is polled
    every AWAY_INTERVAL. No server counts a poll as a use of a model. Listeners are
    called when the loaded models or the availability have changed, and after each poll
    that follows a request.
    """

    config_entry: ConfigEntry[Any]

    def __init__(
        self,
        hass: HomeAssistant,
        entry: ConfigEntry[Any],
        connection: Connection,
        ask_for_key: Callable[[], None],
    ) -> None:
        """Poll the server of a connection for an entry.

        ask_for_key is called when the server begins to refuse the key.
        """
        super().__init__(
            hass,
            _LOGGER,
            config_entry=entry,
            name=shown_host(connection.url),
            always_update=False,
        )
        self.connection = connection
        self._ask_for_key = ask_for_key
        self._is_key_refused = False
        # The model names that the roles send in their requests.
        self.model_names: set[str] = set()
        self._server: ModelServer | None = None
        self._request_ended_at = dt_util.utcnow()
        self._after_request = Debouncer(
            hass,
            _LOGGER,
            cooldown=REQUEST_COOLDOWN,
            # A poll between two requests of one turn would delay the second.
            immediate=False,
            function=self._async_poll_after_request,
            background=True,
        )
        entry.async_on_unload(self._after_request.async_shutdown)
        self._refresh_lock = asyncio.Lock()
        self.updated_at: datetime | None = None
        # The models that were loaded between the last two polls.
        self.new_models: list[str] = []

    @property
    def host(self) -> str:
        """Return the host and port of the server, as shown to the user."""
        return shown_host(self.connection.url)

    @property
    def capabilities(self) -> ServerCapability:
        """Return the capabilities of the kind of the server."""
        kind = self.connection.kind
        return ServerCapability.NONE if kind is None else server_capabilities(kind)

    @property
    def lists_models(self) -> bool:
        """Return whether the server reports which models it has in memory."""
        return ServerCapability.LIST in self.capabilities

    @property
    def is_answering(self) -> bool:
        """Return whether the server answers, even if it refuses to list its models.

        A proxy may pass on nothing but the requests of a turn.
        """
        if self.last_update_success:
            return True
        err = self.last_exception.__cause__ if self.last_exception else None
        return (
            isinstance(err, ModelServerError)
            and not is_away(err)
            and not isinstance(err, InvalidAuth)
            and err.status not in _PROXY_WITHOUT_SERVER
        )

    def may_be_warmed(self, model: str) -> bool:
        """Return whether a model may be loaded and primed without a request of a user.

        That may cost money, or send data to the internet, on a server that the user
        does not run. False until the server is known.
        """
        return self._server is not None and self._server.may_be_warmed(model)

    async def server(self) -> ModelServer:
        """Return the server; raise a ModelServerError if its kind is not found."""
        if self._server is None:
            self._server = await connect(async_get_session(self.hass), self.connection)
            self.connection = self._server.connection
        return self._server

    async def async_refresh_if_older_than(self, time: datetime) -> None:
        """Poll the server, unless it has answered a poll since time.

        A poll from before the end of Home Agent's last request does not count.
        """
        time = max(time, self._request_ended_at)
        # One poll is enough for all that need one at the same time.
        async with self._refresh_lock:
            if self.updated_at is None or self.updated_at <= time:
                await self.async_refresh()

    @callback
    def async_request_ended(self) -> None:
        """Poll the server in REQUEST_COOLDOWN, and again after UNLOAD_DELAY."""
        self._request_ended_at = dt_util.utcnow()
        self.async_poll_soon()

    @callback
    def async_poll_soon(self) -> None:
        """Poll the server in REQUEST_COOLDOWN, if it reports its models."""
        if self.lists_models:
            self._after_request.async_schedule_call()

    async def _async_poll_after_request(self) -> None:
        """Poll the server, and call the listeners in any case.

        What they derive from running requests has changed, even if the models in
        memory have not. Poll again soon while the server lists a model whose time is
        over: it is being unloaded, or another client uses it.
        """
        await self.async_refresh()
        self.async_update_listeners()
        is_unloading = any(model.is_busy for model in self.data or ())
        since = dt_util.utcnow() - self._request_ended_at
        if self.last_update_success and is_unloading and since < UNLOADING_POLLS:
            self._after_request.async_schedule_call()

    @override
    async def _async_update_data(self) -> LoadedModels | None:
        """Return what is in memory, and decide when to poll again.

        Raise UpdateFailed if the server does not answer.
        """
        previous = self.data if self.last_update_success else None
        self.update_interval = POLL_INTERVAL
        try:
            server = await self.server()
            if not self.lists_models:
                await _async_contact(server)
                self.update_interval = None
                return None
            models = await server.loaded_models(self.model_names)
        except ModelServerError as err:
            self.updated_at = None
            is_key_refused = isinstance(err, InvalidAuth)
            if not is_key_refused:
                self.update_interval = AWAY_INTERVAL
            if is_key_refused and not self._is_key_refused:
                self._ask_for_key()
            self._is_key_refused = is_key_refused
            raise UpdateFailed(err.log_text) from err
        self._is_key_refused = False
        self.updated_at = dt_util.utcnow()
        loaded = None if models is None else tuple(models)
        # After an outage it is not known which models were loaded since the last poll.
        known = {model.name for model in previous or ()}
        self.new_models = [
            model.name
            for model in (loaded if previous is not None else None) or ()
            if model.name not in known
        ]
        self.update_interval = self._interval(loaded or ())
        return loaded

    def _interval(self, loaded: LoadedModels) -> timedelta:
        """Return the time until the next poll."""
        now = dt_util.utcnow()
        due = [
            self._request_ended_at + UNLOAD_DELAY,
            *(
                model.expires_at + delay
                for model in loaded
                if model.expires_at
                for delay in EXPIRY_DELAYS
            ),
        ]
        soonest = min([POLL_INTERVAL, *(time - now for time in due if time > now)])
        return max(soonest, MIN_INTERVAL)


async def _async_contact(server: ModelServer) -> None:
    """Raise a ModelServerError if the server is away or refuses the key.

    Whatever else it answers is fine.
    """
    try:
        await server.check()
    except ModelServerError as err:
        if is_away(err) or isinstance(err, InvalidAuth):
            raise

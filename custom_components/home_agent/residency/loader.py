"""Load the model of a role before it is asked, and unload it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
import logging
from time import monotonic
from typing import Final

from homeassistant.exceptions import HomeAssistantError
from homeassistant.util import dt as dt_util

from ..keep_alive import KeepAlive
from ..model.role import Role
from ..model.use import model_uses
from ..servers.errors import ModelNotFound
from ..servers.messages import LoadRequest
from .background import SharedTask
from .state import RECENT, ModelResidency

_LOGGER = logging.getLogger(__name__)

# With keep_alive 0, a model that is loaded for a question stays for the question.
STAY_FOR_A_QUESTION: Final = KeepAlive.parse("1m")
# A model that is due to be unloaded within this time may be gone when it is asked.
UNLOADS_SOON: Final = timedelta(seconds=30)


class ModelLoader:
    """Loads and unloads the model of one role."""

    def __init__(self, residency: ModelResidency) -> None:
        """Load the model of a residency."""
        self.residency = residency
        self._role = residency.role
        self._use = residency.use
        key = self._role.role.key("warm_up")
        self._is_wanted: bool = residency.subentry.data.get(key, True)
        self._preparing = SharedTask(
            residency.hass, residency.entry, f"load {self._role.model}"
        )

    @property
    def keeps_ready(self) -> bool:
        """Return whether the model is loaded before it is asked.

        A model with keep_alive 0 is not: it would be unloaded right after the load.
        """
        return (
            self._is_wanted
            and self.residency.keep_alive.nanoseconds != 0
            and self.residency.may_be_warmed
        )

    @property
    def prepares(self) -> bool:
        """Return whether the model is loaded while somebody speaks or writes.

        Not while it has a turn: it is loaded then.
        """
        return (
            self._is_wanted
            and self.residency.may_be_warmed
            and not self._use.running_turns
        )

    @property
    def stay(self) -> KeepAlive:
        """Return how long the model stays when it is loaded before it is asked."""
        configured = self.residency.keep_alive
        return configured if configured.nanoseconds != 0 else STAY_FOR_A_QUESTION

    async def async_load(
        self, keep_alive: KeepAlive | None = None, reason: str = "requested"
    ) -> float:
        """Load the model, or let a loaded one stay for keep_alive; return the seconds.

        keep_alive replaces the configured value. reason is logged. Raise a
        ModelServerError if the server fails, NotSupported if a request that nobody
        waits for may cost money there.
        """
        async with self._use.load_lock:
            return await self._async_load(keep_alive or self.stay, reason)

    async def async_load_if_needed(self, reason: str) -> float | None:
        """Load the model unless it is loaded and stays for a while.

        Return the seconds that loading took, None if the model was loaded already.
        Raise as async_load does.
        """
        async with self._use.load_lock:
            if await self.async_is_loaded() and not self._unloads_soon():
                return None
            return await self._async_load(self.stay, reason)

    async def async_unload(self) -> None:
        """Unload the model; raise a ModelServerError as for loading."""
        server = await self._role.server()
        _LOGGER.debug("Unloading %s: requested", self._role.model)
        await server.unload(self._role.model)
        self._use.unload_requested = True
        self._use.primed_prefix = None
        self.residency.coordinator.async_request_ended()

    async def async_pull(self) -> AsyncGenerator[float]:
        """Let the server download the model; yield the share that it has, 0 to 1.

        Raise a ModelServerError if the download fails, NotSupported if the server
        cannot download models.
        """
        server = await self._role.server()
        async with aclosing(server.pull(self._role.model)) as shares:
            async for share in shares:
                yield share

    async def async_check_model(self) -> None:
        """Raise ModelNotFound if the server does not have the model.

        Raise another ModelServerError if the server fails otherwise.
        """
        server = await self._role.server()
        models = await server.list_models()
        if models and server.find(self._role.model, models) is None:
            raise ModelNotFound(server.http.host, f"there is no {self._role.model}")

    async def async_prepare(self) -> None:
        """Load the model for a question that is being spoken or written.

        Costs one small request if the model is loaded. The load goes on if the
        caller does not wait for it.
        """
        await self._preparing.async_run(self._async_prepare)

    async def _async_prepare(self) -> None:
        """Load the model; a failure is logged only, the question will show it."""
        if not self.prepares:
            return
        try:
            await self.async_load_if_needed("a question is being asked")
        except HomeAssistantError as err:
            _LOGGER.debug("Cannot load %s: %s", self._role.model, err)

    async def async_is_loaded(self) -> bool:
        """Return whether the model is in memory now.

        If the server does not report it, a model that was asked within its keep_alive
        is taken to be loaded.
        """
        coordinator = self.residency.coordinator
        if coordinator.lists_models:
            # A request of Home Agent may have changed what an older poll found.
            recent = dt_util.utcnow() - RECENT
            since = max(recent, self._use.last_ended or recent)
            await coordinator.async_refresh_if_before(since)
            if coordinator.data is not None:
                loaded = self.residency.loaded
                return loaded is not None and not loaded.is_loading
        if self._use.last_ended is None:
            return False
        seconds = self.stay.seconds
        unused = dt_util.utcnow() - self._use.last_ended
        return seconds is None or unused.total_seconds() < seconds

    def _unloads_soon(self) -> bool:
        """Return whether the server may unload the model while somebody speaks."""
        model = self.residency.loaded
        return (
            model is not None
            and model.expires_at is not None
            and model.expires_at - dt_util.utcnow() < UNLOADS_SOON
        )

    async def _async_load(self, keep_alive: KeepAlive, reason: str) -> float:
        """Load the model and return the seconds; the caller holds the load lock."""
        server = await self._role.server()
        was_loaded = self.residency.loaded is not None
        is_embedding = self._role.role is Role.EMBEDDING
        _LOGGER.debug(
            "Loading %s on %s, keep_alive %s: %s",
            self._role.model,
            server.kind,
            keep_alive.text,
            reason,
        )
        started = monotonic()
        with self._use.count_request(only_loads=True):
            await server.load(
                LoadRequest(
                    model=self._role.model,
                    keep_alive=keep_alive,
                    num_ctx=None if is_embedding else self._role.num_ctx,
                    embedding=is_embedding,
                )
            )
        seconds = monotonic() - started
        if self.residency.coordinator.lists_models:
            await self.residency.coordinator.async_refresh()
        if not was_loaded:
            self._use.primed_prefix = None
            self._use.history.record_load(seconds)
            model_uses(self.residency.hass).save_soon()
        _LOGGER.debug("Loaded %s in %.1f s", self._role.model, seconds)
        return seconds

"""Load the model of a role before a request needs it, and unload it."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import timedelta
import logging
from time import monotonic
from typing import Final

from homeassistant.exceptions import HomeAssistantError
from homeassistant.util import dt as dt_util

from ..keep_alive import KeepAlive
from ..model.reauth import async_start_role_reauth
from ..model.role import Role, merged_config
from ..model.use import model_uses
from ..servers.base import ServerCapability, ServerKind
from ..servers.errors import (
    InvalidAuth,
    ModelNotFound,
    ModelServerError,
    NotSupported,
)
from ..servers.messages import LoadRequest
from ..servers.retry import async_may_retry
from .background import SharedTask
from .state import RECENT, ModelResidency

_LOGGER = logging.getLogger(__name__)

# The keep_alive of a model that is loaded in advance and whose own keep_alive is 0.
PREPARE_KEEP_ALIVE: Final = KeepAlive.parse("1m")
# A model that is due within this time may be unloaded before the request arrives.
UNLOADS_SOON: Final = timedelta(seconds=30)


class ModelLoader:
    """Loads and unloads the model of one role."""

    def __init__(self, residency: ModelResidency) -> None:
        """Load the model of a residency."""
        self.residency = residency
        self._role = residency.role
        self._use = residency.use
        key = self._role.role.key("warm_up")
        self._warm_up_enabled: bool = residency.subentry.data.get(key, True)
        self._preparing = SharedTask(
            residency.hass, residency.entry, f"load {self._role.model}"
        )

    @property
    def keeps_ready(self) -> bool:
        """Return whether the model is loaded before a request needs it.

        A model with keep_alive 0 is not: it would be unloaded right after the load.
        """
        return (
            self._warm_up_enabled
            and self.residency.keep_alive.nanoseconds != 0
            and self.residency.may_be_warmed
        )

    @property
    def prepares(self) -> bool:
        """Return whether the model is loaded while somebody speaks or writes.

        False while a turn runs, which loads the model itself.
        """
        return (
            self._warm_up_enabled
            and self.residency.may_be_warmed
            and not self._use.running_turns
        )

    @property
    def load_keep_alive(self) -> KeepAlive:
        """Return the keep_alive of a load before a request needs the model."""
        longest = self._role.keep_alive_to_send(self.residency.keep_alive)
        return longest if longest.nanoseconds != 0 else PREPARE_KEEP_ALIVE

    async def async_load(
        self, keep_alive: KeepAlive | None = None, reason: str = "requested"
    ) -> float:
        """Load the model, or apply keep_alive to a loaded one; return the seconds.

        keep_alive replaces the configured value. reason is logged. Raise a
        ModelServerError if the server fails, NotSupported if a request that nobody
        waits for may cost money there.
        """
        server = await self.residency.coordinator.server()
        if not self.residency.may_be_warmed:
            raise NotSupported(server.http.host, "a request may cost money")
        async with self._use.load_lock:
            if keep_alive is None:
                return await self._async_load(self.load_keep_alive, reason)
            return await self._async_load_again(keep_alive, reason)

    async def async_load_if_needed(self, reason: str) -> float | None:
        """Load the model unless it is loaded and not due within UNLOADS_SOON.

        Return the seconds that loading took, None if the model was loaded already.
        Raise as async_load does.
        """
        async with self._use.load_lock:
            return await self._async_load_if_needed(reason)

    async def async_keep_ready(self, reason: str) -> bool:
        """Load the model as async_load_if_needed does, unless the user unloaded it.

        Return whether it is loaded.
        """
        async with self._use.load_lock:
            # Only here it is certain that no unload is on its way.
            if self._use.unloaded_by_user:
                _LOGGER.debug(
                    "Not loading %s: the user has unloaded it", self._role.model
                )
                return False
            await self._async_load_if_needed(reason)
            return True

    async def _async_load_if_needed(self, reason: str) -> float | None:
        """Load the model if it is needed; the caller holds the load lock."""
        if await self.async_is_loaded() and not self._unloads_soon():
            return None
        return await self._async_load(self.load_keep_alive, reason)

    async def async_apply_keep_alive(self) -> None:
        """Send a keep_alive that has changed to the server, if the model is loaded.

        A model that is not loaded is not loaded for this. The keep_alive is the
        longest one of all roles that use the model; 0 unloads it. Raise a
        ModelServerError if the server fails. While a turn runs, nothing is sent: its
        last request decides.
        """
        use, shared = self._use, self._use.shared
        async with use.load_lock:
            wanted = shared.longest()
            if wanted is None or not shared.has_changed():
                return
            if use.running_requests or use.running_turns:
                return
            if not await self.async_is_loaded():
                shared.note_applied(wanted)
            elif wanted.nanoseconds == 0:
                await self._async_unload("its keep_alive is 0 now")
                shared.note_applied(wanted)
            elif await self._has_own_context():
                await self._async_load_again(wanted, "its keep_alive has changed")

    async def _has_own_context(self) -> bool:
        """Return whether the model is loaded with the context of the role.

        Otherwise Ollama would reload it for a request of the role.
        """
        loaded, role = self.residency.loaded, self._role
        kind = self.residency.coordinator.connection.kind
        if kind is not ServerKind.OLLAMA or role.role is Role.EMBEDDING:
            return True
        await role.async_read_max_context()
        return loaded is None or loaded.context_length in (
            None,
            role.context_size(kind),
        )

    async def async_unload(self) -> None:
        """Unload the model for the user, after a load of it that runs.

        It is not loaded again before a request needs it. The unload goes on if the
        caller is cancelled. Raise a ModelServerError if the server fails,
        NotSupported if it cannot unload.
        """
        hass = self.residency.hass
        # Not a task of the entry: a reload would cancel it.
        unloading = hass.async_create_background_task(
            self._async_unload_for_user(), f"unload {self._role.model}"
        )
        await asyncio.shield(unloading)

    async def _async_unload_for_user(self) -> None:
        """Unload the model, and store that the user wanted it."""
        use = self._use
        async with use.load_lock:
            # Set before the request: a question that comes meanwhile resets it.
            use.unloaded_by_user = True
            try:
                await self._async_unload("requested")
            except HomeAssistantError:
                use.unloaded_by_user = False
                raise
            finally:
                model_uses(self.residency.hass).save_soon()

    async def async_make_room(self) -> None:
        """Unload the model for others, as async_unload does."""
        async with self._use.load_lock:
            await self._async_unload("it does not fit in memory with others")

    async def _async_unload(self, reason: str) -> None:
        """Unload the model; the caller holds the load lock. Raise as async_unload."""
        server = await self._role.server()
        _LOGGER.debug("Unloading %s: %s", self._role.model, reason)
        with self._use.unloading(), self._note_failure():
            await server.unload(self._role.model)
        self.residency.coordinator.async_request_ended()

    async def async_pull(self) -> AsyncGenerator[float]:
        """Let the server download the model; yield the downloaded fraction, 0 to 1.

        Raise a ModelServerError if the download fails, NotSupported if the server
        cannot download models.
        """
        server = await self._role.server()
        with self._note_failure():
            async with aclosing(server.pull(self._role.model)) as shares:
                async for share in shares:
                    yield share

    @contextmanager
    def _note_failure(self, *, is_load: bool = False) -> Iterator[None]:
        """Report a failure as a turn does: a refused key, a model that is missing.

        A poll does not show a refused key: that of a role may be another one.
        """
        try:
            yield
        except ModelServerError as err:
            residency = self.residency
            if isinstance(err, InvalidAuth):
                config = merged_config(residency.entry, residency.subentry)
                async_start_role_reauth(residency.hass, config, self._role.role)
            if isinstance(err, ModelNotFound):
                err.set_model(self._role.model)
            if is_load:
                self._use.request_failed.notify(err)
            raise

    async def async_check_model(self) -> None:
        """Raise ModelNotFound if the server does not have the model.

        Raise another ModelServerError if the server fails otherwise.
        """
        server = await self._role.server()
        with self._note_failure():
            models = await server.list_models()
        if not models and ServerCapability.PULL not in self.residency.capabilities:
            # Only a server that downloads models is known to list all of them.
            return
        if server.find(self._role.model, models) is None:
            err = ModelNotFound(server.http.host, f"there is no {self._role.model}")
            err.set_model(self._role.model)
            raise err

    async def async_prepare(self) -> None:
        """Load the model for a question that is being spoken or written.

        Sends only a poll if the model is loaded. The load goes on if the
        caller does not wait for it.
        """
        await self._preparing.async_run(self._async_prepare)

    async def _async_prepare(self) -> None:
        """Load the model; only log a failure, the request that follows reports it."""
        if not self.prepares:
            return
        try:
            await self.async_load_if_needed("a question is being asked")
        except HomeAssistantError as err:
            _LOGGER.debug("Cannot load %s: %s", self._role.model, err)

    async def async_is_loaded(self) -> bool:
        """Return whether the model is in memory now.

        If the server does not report it, a model is assumed to be loaded while the
        last request for it ended less than its keep_alive ago.
        """
        coordinator = self.residency.coordinator
        if coordinator.lists_models:
            # A request of Home Agent may have changed the result of an earlier poll.
            recent = dt_util.utcnow() - RECENT
            since = max(recent, self._use.last_ended or recent)
            await coordinator.async_refresh_if_older_than(since)
            if coordinator.data is not None:
                loaded = self.residency.loaded
                return loaded is not None and not loaded.is_loading
        if self._use.last_ended is None:
            return False
        seconds = self.load_keep_alive.seconds
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

    async def _async_load_again(self, keep_alive: KeepAlive, reason: str) -> float:
        """Give the model, which may be loaded, another keep_alive; return the seconds.

        A server on which that takes a new load unloads the model first, when no turn
        uses it. The caller holds the load lock.
        """
        server = await self._role.server()
        if server.is_keep_alive_fixed and await self.async_is_loaded():
            await self._use.idle.wait()
            # LM Studio before 0.4 cannot unload.
            with suppress(NotSupported):
                await self._async_unload(reason)
                await self.residency.coordinator.async_refresh()
        return await self._async_load(keep_alive, reason)

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
        request = LoadRequest(
            model=self._role.model,
            keep_alive=keep_alive,
            num_ctx=None if is_embedding else self._role.num_ctx,
            embedding=is_embedding,
        )
        is_configured = self._role.is_configured(keep_alive)
        with (
            self._note_failure(is_load=True),
            self._use.count_request(
                keep_alive, only_loads=True, is_configured=is_configured
            ),
        ):
            try:
                await server.load(request)
            except ModelServerError as err:
                if not await async_may_retry(err):
                    raise
                await server.load(request)
        seconds = monotonic() - started
        if self.residency.coordinator.lists_models:
            await self.residency.coordinator.async_refresh()
        if not was_loaded:
            self._use.primed_prefix = None
            self._use.history.record_load(seconds)
            model_uses(self.residency.hass).save_soon()
        _LOGGER.info("Loaded %s in %.1f s", self._role.model, seconds)
        return seconds

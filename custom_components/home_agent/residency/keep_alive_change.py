"""Send a changed keep_alive to the server for a model that is already loaded."""

from datetime import datetime
import logging
from typing import Final

from homeassistant.core import CALLBACK_TYPE, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.debounce import Debouncer
from homeassistant.helpers.event import async_call_later

from ..servers.base import ServerCapability
from .loader import ModelLoader

_LOGGER = logging.getLogger(__name__)

# Seconds to wait after a role was added or removed: reloading an entry does both.
USERS_COOLDOWN: Final = 5.0
# Seconds from an attempt that has changed nothing to the next one.
RETRY_INTERVAL: Final = 60.0


class KeepAliveUpdater:
    """Applies a changed keep_alive at once, without waiting for the next request.

    It changes when the setting of a role changes, and when a role that shares the model
    is added or removed. A setting may also have changed while Home Assistant was not
    running, and the last request of a turn may have carried the old value. An attempt
    that fails is repeated until the model is gone.
    """

    def __init__(self, loader: ModelLoader) -> None:
        """Store the loader; async_start begins."""
        self._loader = loader
        self._residency = loader.residency
        self._is_available = True
        self._cancel_retry: CALLBACK_TYPE | None = None
        self._is_stopped = False
        self._debouncer = Debouncer(
            self._residency.hass,
            _LOGGER,
            cooldown=USERS_COOLDOWN,
            immediate=False,
            function=self._async_apply,
            background=True,
        )

    @callback
    def async_start(self) -> None:
        """Apply the keep_alive now, and whenever it may have changed.

        A changed setting reloads the entry, so applying the value now covers it.
        """
        residency, entry = self._residency, self._residency.entry
        for stop in (
            self._debouncer.async_shutdown,
            self._stop,
            residency.use.users_changed.add(self._debouncer.async_schedule_call),
            residency.use.requests_changed.add(self._requests_changed),
            residency.coordinator.async_add_listener(self._server_changed),
        ):
            entry.async_on_unload(stop)
        entry.async_create_background_task(
            residency.hass,
            self._async_apply(),
            f"apply the keep_alive of {residency.role.model}",
        )

    @callback
    def _server_changed(self) -> None:
        """Apply the keep_alive if the server has another one, or is available again."""
        residency, shared = self._residency, self._residency.use.shared
        was_available = self._is_available
        self._is_available = residency.coordinator.last_update_success
        if not self._is_available:
            return
        if self._is_poll_after_requests:
            shared.note_reported(residency.time_left)
        is_due = self._cancel_retry is None and residency.loaded is not None
        if not was_available or (is_due and shared.has_changed()):
            self._debouncer.async_schedule_call()

    @property
    def _is_poll_after_requests(self) -> bool:
        """Return whether the last poll shows what the requests before have led to.

        While the model answers another client, its time is that of a request before.
        """
        use, model = self._residency.use, self._residency.loaded
        updated_at = self._residency.coordinator.updated_at
        return (
            not use.running_requests
            and updated_at is not None
            and (use.last_ended is None or updated_at > use.last_ended)
            and (model is None or not (model.is_busy or model.is_loading))
        )

    @callback
    def _requests_changed(self) -> None:
        """Apply the keep_alive if the last request was sent with another one.

        Do nothing after a failed request: the update is a request too, and its failure
        would start the next one.
        """
        use = self._residency.use
        if (
            not use.running_requests
            and use.last_answered == use.last_ended
            and use.shared.has_changed()
        ):
            self._debouncer.async_schedule_call()

    async def _async_apply(self) -> None:
        """Apply the keep_alive if it has changed; log a failure and try again later."""
        shared = self._residency.use.shared
        self._stop_retry()
        if not shared.has_changed():
            return
        try:
            # The capabilities are known only once the server is known.
            await self._residency.coordinator.server()
            if (
                ServerCapability.KEEP_ALIVE not in self._residency.capabilities
                or not self._residency.may_be_warmed
            ):
                return
            await self._loader.async_apply_keep_alive()
        except HomeAssistantError as err:
            model = self._residency.role.model
            _LOGGER.debug("Cannot apply the keep_alive of %s now: %s", model, err)
        if shared.has_changed() and not self._is_stopped:
            self._stop_retry()
            self._cancel_retry = async_call_later(
                self._residency.hass, RETRY_INTERVAL, self._retry
            )

    @callback
    def _retry(self, _: datetime) -> None:
        """Apply the keep_alive again, unless the server is away.

        It is applied when the server is available again.
        """
        self._cancel_retry = None
        if self._is_available:
            self._debouncer.async_schedule_call()

    @callback
    def _stop(self) -> None:
        """Apply nothing any more; an attempt that runs is not repeated."""
        self._is_stopped = True
        self._stop_retry()

    @callback
    def _stop_retry(self) -> None:
        """Do not apply the keep_alive again."""
        if self._cancel_retry is not None:
            self._cancel_retry()
            self._cancel_retry = None

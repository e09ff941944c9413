"""Apply a keep_alive that has changed to a model that is in memory already."""

import logging
from typing import Final

from homeassistant.core import callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.debounce import Debouncer

from ..servers.base import ServerCapability
from .loader import ModelLoader

_LOGGER = logging.getLogger(__name__)

# Seconds to wait after a role has come or gone: a reload removes it and adds it again.
USERS_COOLDOWN: Final = 5.0


class KeepAliveChange:
    """Makes a changed keep_alive effective without waiting for the next request.

    The keep_alive of a model changes with the setting of a role, and when a role that
    shares the model comes or goes.
    """

    def __init__(self, loader: ModelLoader) -> None:
        """Apply the keep_alive of the model of a loader."""
        self._loader = loader
        self._residency = loader.residency
        self._is_available = True
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

        The entry is reloaded when a setting changes, so that is seen at the start.
        """
        residency, entry = self._residency, self._residency.entry
        for stop in (
            self._debouncer.async_shutdown,
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
        """Apply the keep_alive if the server is available again."""
        was_available = self._is_available
        self._is_available = self._residency.coordinator.last_update_success
        if self._is_available and not was_available:
            self._debouncer.async_schedule_call()

    @callback
    def _requests_changed(self) -> None:
        """Apply the keep_alive if it has changed while the last request ran.

        A request that failed is no reason: applying the keep_alive may fail too.
        """
        use = self._residency.use
        if (
            not use.running_requests
            and use.last_answered == use.last_ended
            and use.keep_alive.has_changed()
        ):
            self._debouncer.async_schedule_call()

    async def _async_apply(self) -> None:
        """Apply the keep_alive; only log a failure, the next request sends it again."""
        if not self._residency.use.keep_alive.has_changed():
            return
        try:
            await self._residency.coordinator.server()
            if (
                ServerCapability.KEEP_ALIVE in self._residency.capabilities
                and self._residency.may_be_warmed
            ):
                await self._loader.async_apply_keep_alive()
        except HomeAssistantError as err:
            model = self._residency.role.model
            _LOGGER.debug("Cannot apply the keep_alive of %s now: %s", model, err)

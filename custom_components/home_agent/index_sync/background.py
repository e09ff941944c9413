"""Work in the background that is requested often and done once for all requests."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
from homeassistant.helpers.event import async_call_later


class RequestedWork:
    """Runs work once, some seconds after the first of several requests.

    A request while the work is running leads to another run after it: Home
    Assistant's Debouncer drops such a request if the run outlasts the cooldown.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        name: str,
        cooldown: float,
        work: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Run work cooldown seconds after a request; name is that of its task."""
        self._hass = hass
        self._name = name
        self._cooldown = cooldown
        self._work = work
        self._cancel_timer: CALLBACK_TYPE | None = None
        self._due = 0.0
        self._is_requested_again = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Return whether the work is running now."""
        return self._task is not None and not self._task.done()

    @callback
    def request(self, seconds: float | None = None) -> None:
        """Run the work after some seconds, or the cooldown; earlier if that is due."""
        seconds = self._cooldown if seconds is None else seconds
        due = self._hass.loop.time() + seconds
        if self._cancel_timer is not None:
            if self._due <= due:
                return
            self._cancel_timer()
        self._due = due
        self._cancel_timer = async_call_later(self._hass, seconds, self._timer_fired)

    @callback
    def _timer_fired(self, _now: datetime) -> None:
        """Start the work, or note that it must run again."""
        self._cancel_timer = None
        if self.is_running:
            self._is_requested_again = True
            return
        self._task = self._hass.async_create_background_task(
            self._async_run(), self._name
        )

    async def _async_run(self) -> None:
        """Run the work; request it again if that was requested meanwhile."""
        try:
            await self._work()
        finally:
            if self._is_requested_again:
                self._is_requested_again = False
                self.request()

    async def async_stop(self) -> None:
        """Forget the requests, cancel the work if it runs, and wait for its end."""
        self._is_requested_again = False
        if self._task is not None and self.is_running:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._cancel_timer is not None:
            self._cancel_timer()
            self._cancel_timer = None

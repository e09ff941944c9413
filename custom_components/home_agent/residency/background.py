"""Work that goes on when its caller goes away."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant


class SharedTask:
    """One background task of an entry, shared by all callers while it runs.

    Hanging up would end the load of a model, so a caller that is cancelled does not
    cancel the task. The entry cancels the task when it is unloaded, which does not
    cancel the callers.
    """

    def __init__(self, hass: HomeAssistant, entry: ConfigEntry[Any], name: str) -> None:
        """Start without a task; name is shown in Home Assistant's debug logs."""
        self._hass = hass
        self._entry = entry
        self._name = name
        self._task: asyncio.Task[None] | None = None

    async def async_run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run work, or wait for the work that runs already; raise what it raises."""
        if self._task is None or self._task.done():
            self._task = self._entry.async_create_background_task(
                self._hass, work(), self._name
            )
        task = self._task
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

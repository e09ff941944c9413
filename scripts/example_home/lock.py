"""The locks of the example home."""

from typing import Any, override

from homeassistant.components.lock import LockEntity
from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .entity import ExampleEntity, add_entities
from .home import Room, Thing


async def async_setup_entry(
    hass: HomeAssistant,
    entry: ConfigEntry[list[Room]],
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add the locks of the home."""
    add_entities("lock", entry, ExampleLock, async_add_entities)


class ExampleLock(ExampleEntity, LockEntity):
    """A lock."""

    def __init__(self, thing: Thing) -> None:
        """Begin locked or unlocked."""
        super().__init__(thing)
        self._attr_is_locked = thing.value

    @override
    async def async_lock(self, **kwargs: Any) -> None:
        """Lock the door."""
        self._attr_is_locked = True
        self.async_write_ha_state()

    @override
    async def async_unlock(self, **kwargs: Any) -> None:
        """Unlock the door."""
        self._attr_is_locked = False
        self.async_write_ha_state()

"""The covers of the example home."""

from typing import Any, override

from homeassistant.components.cover import (
    ATTR_POSITION,
    CoverDeviceClass,
    CoverEntity,
    CoverEntityFeature,
)
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
    """Add the covers of the home."""
    add_entities("cover", entry, ExampleCover, async_add_entities)


class ExampleCover(ExampleEntity, CoverEntity):
    """A cover that moves at once."""

    _attr_supported_features = (
        CoverEntityFeature.OPEN
        | CoverEntityFeature.CLOSE
        | CoverEntityFeature.SET_POSITION
    )

    def __init__(self, thing: Thing) -> None:
        """Begin open or closed."""
        super().__init__(thing)
        self._attr_device_class = CoverDeviceClass(thing.device_class or "")
        self._move_to(100 if thing.value else 0)

    def _move_to(self, position: int) -> None:
        """Set the position in percent: 100 is open."""
        self._attr_current_cover_position = position
        self._attr_is_closed = position == 0

    @override
    async def async_open_cover(self, **kwargs: Any) -> None:
        """Open the cover."""
        self._move_to(100)
        self.async_write_ha_state()

    @override
    async def async_close_cover(self, **kwargs: Any) -> None:
        """Close the cover."""
        self._move_to(0)
        self.async_write_ha_state()

    @override
    async def async_set_cover_position(self, **kwargs: Any) -> None:
        """Move the cover to a position."""
        self._move_to(kwargs[ATTR_POSITION])
        self.async_write_ha_state()

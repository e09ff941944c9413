"""The lights of the example home."""

from typing import Any, override

from homeassistant.components.light import ATTR_BRIGHTNESS, ColorMode, LightEntity
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
    """Add the lights of the home."""
    add_entities("light", entry, ExampleLight, async_add_entities)


class ExampleLight(ExampleEntity, LightEntity):
    """A light that can be dimmed."""

    _attr_color_mode = ColorMode.BRIGHTNESS
    _attr_brightness = 255

    def __init__(self, thing: Thing) -> None:
        """Begin on or off."""
        super().__init__(thing)
        self._attr_supported_color_modes = {ColorMode.BRIGHTNESS}
        self._attr_is_on = thing.value

    @override
    async def async_turn_on(self, **kwargs: Any) -> None:
        """Turn the light on, at the brightness that it had unless another is given."""
        self._attr_is_on = True
        self._attr_brightness = kwargs.get(ATTR_BRIGHTNESS, self._attr_brightness)
        self.async_write_ha_state()

    @override
    async def async_turn_off(self, **kwargs: Any) -> None:
        """Turn the light off."""
        self._attr_is_on = False
        self.async_write_ha_state()

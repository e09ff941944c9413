"""The fans of the example home."""

from typing import Any, override

from homeassistant.components.fan import FanEntity, FanEntityFeature
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
    """Add the fans of the home."""
    add_entities("fan", entry, ExampleFan, async_add_entities)


class ExampleFan(ExampleEntity, FanEntity):
    """A fan with one speed."""

    _attr_supported_features = FanEntityFeature.TURN_ON | FanEntityFeature.TURN_OFF

    def __init__(self, thing: Thing) -> None:
        """Begin on or off."""
        super().__init__(thing)
        self._is_running: bool = thing.value

    @property
    @override
    def is_on(self) -> bool:
        """Return whether the fan runs."""
        return self._is_running

    @override
    async def async_turn_on(
        self,
        percentage: int | None = None,
        preset_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Turn the fan on."""
        self._is_running = True
        self.async_write_ha_state()

    @override
    async def async_turn_off(self, **kwargs: Any) -> None:
        """Turn the fan off."""
        self._is_running = False
        self.async_write_ha_state()

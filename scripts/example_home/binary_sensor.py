"""The contacts and motion sensors of the example home."""

from homeassistant.components.binary_sensor import (
    BinarySensorDeviceClass,
    BinarySensorEntity,
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
    """Add the contacts and motion sensors of the home."""
    add_entities("binary_sensor", entry, ExampleBinarySensor, async_add_entities)


class ExampleBinarySensor(ExampleEntity, BinarySensorEntity):
    """A sensor that always shows the same."""

    def __init__(self, thing: Thing) -> None:
        """Show the value of the thing."""
        super().__init__(thing)
        self._attr_device_class = BinarySensorDeviceClass(thing.device_class or "")
        self._attr_is_on = thing.value

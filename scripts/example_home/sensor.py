"""The sensors of the example home."""

from homeassistant.components.sensor import (
    SensorDeviceClass,
    SensorEntity,
    SensorStateClass,
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
    """Add the sensors of the home."""
    add_entities("sensor", entry, ExampleSensor, async_add_entities)


class ExampleSensor(ExampleEntity, SensorEntity):
    """A sensor that always shows the same."""

    _attr_state_class = SensorStateClass.MEASUREMENT

    def __init__(self, thing: Thing) -> None:
        """Show the value of the thing."""
        super().__init__(thing)
        self._attr_device_class = SensorDeviceClass(thing.device_class or "")
        self._attr_native_unit_of_measurement = thing.unit
        self._attr_native_value = thing.value

"""The thermostats of the example home."""

from typing import Any, override

from homeassistant.components.climate import (
    ClimateEntity,
    ClimateEntityFeature,
    HVACMode,
)
from homeassistant.config_entries import ConfigEntry
from homeassistant.const import ATTR_TEMPERATURE, UnitOfTemperature
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .entity import ExampleEntity, add_entities
from .home import Room, Thing


async def async_setup_entry(
    hass: HomeAssistant,
    entry: ConfigEntry[list[Room]],
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add the thermostats of the home."""
    add_entities("climate", entry, ExampleThermostat, async_add_entities)


class ExampleThermostat(ExampleEntity, ClimateEntity):
    """A thermostat of a radiator."""

    _attr_hvac_mode = HVACMode.HEAT
    _attr_native_temperature_unit = UnitOfTemperature.CELSIUS
    _attr_target_temperature_step = 0.5
    _attr_min_temp = 5
    _attr_max_temp = 30
    _attr_supported_features = (
        ClimateEntityFeature.TARGET_TEMPERATURE
        | ClimateEntityFeature.TURN_ON
        | ClimateEntityFeature.TURN_OFF
    )

    def __init__(self, thing: Thing) -> None:
        """Begin with a room that is a little warmer than wanted."""
        super().__init__(thing)
        self._attr_hvac_modes = [HVACMode.OFF, HVACMode.HEAT]
        self._attr_native_target_temperature = thing.value
        self._attr_native_current_temperature = thing.value + 0.5

    @override
    async def async_set_temperature(self, **kwargs: Any) -> None:
        """Set the wanted temperature."""
        self._attr_native_target_temperature = kwargs[ATTR_TEMPERATURE]
        self.async_write_ha_state()

    @override
    async def async_set_hvac_mode(self, hvac_mode: HVACMode) -> None:
        """Heat, or do not."""
        self._attr_hvac_mode = hvac_mode
        self.async_write_ha_state()

"""The vacuum cleaners of the example home."""

from typing import Any, override

from homeassistant.components.vacuum import (
    StateVacuumEntity,
    VacuumActivity,
    VacuumEntityFeature,
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
    """Add the vacuum cleaners of the home."""
    add_entities("vacuum", entry, ExampleVacuum, async_add_entities)


class ExampleVacuum(ExampleEntity, StateVacuumEntity):
    """A vacuum cleaner that is back at its dock at once."""

    _attr_supported_features = (
        VacuumEntityFeature.START
        | VacuumEntityFeature.RETURN_HOME
        | VacuumEntityFeature.STATE
    )

    def __init__(self, thing: Thing) -> None:
        """Begin in the dock."""
        super().__init__(thing)
        self._attr_activity = VacuumActivity.DOCKED

    @override
    async def async_start(self) -> None:
        """Clean."""
        self._attr_activity = VacuumActivity.CLEANING
        self.async_write_ha_state()

    @override
    async def async_return_to_base(self, **kwargs: Any) -> None:
        """Return to the dock."""
        self._attr_activity = VacuumActivity.DOCKED
        self.async_write_ha_state()

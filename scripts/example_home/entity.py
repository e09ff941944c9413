"""What all entities of the example home share."""

from collections.abc import Callable

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import callback
from homeassistant.helpers.device_registry import DeviceInfo
from homeassistant.helpers.entity import Entity
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .home import DOMAIN, Room, Thing


class ExampleEntity(Entity):
    """An entity that has the name of its device and is never polled."""

    _attr_has_entity_name = True
    _attr_name = None
    _attr_should_poll = False

    def __init__(self, thing: Thing) -> None:
        """Show what the thing shows at the start."""
        self.entity_id = thing.entity_id
        self._attr_unique_id = thing.key
        self._attr_device_info = DeviceInfo(identifiers={(DOMAIN, thing.key)})


@callback
def add_entities(
    domain: str,
    entry: ConfigEntry[list[Room]],
    make: Callable[[Thing], ExampleEntity],
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add the entities of one platform."""
    async_add_entities(
        make(thing)
        for room in entry.runtime_data
        for thing in room.things
        if thing.domain == domain
    )

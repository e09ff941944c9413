"""A home without hardware: floors, rooms, and devices that remember their state.

scripts/demo puts this integration into the configuration folder of the demo.
"""

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import (
    area_registry as ar,
    device_registry as dr,
    floor_registry as fr,
)

from .home import DOMAIN, FLOORS, IS_LARGE, PLATFORMS, Room, rooms

type ExampleHomeEntry = ConfigEntry[list[Room]]


async def async_setup_entry(hass: HomeAssistant, entry: ExampleHomeEntry) -> bool:
    """Make the rooms, and the devices in them."""
    entry.runtime_data = rooms(is_large=entry.data[IS_LARGE])
    for room in entry.runtime_data:
        _furnish(hass, entry, room)
    await hass.config_entries.async_forward_entry_setups(entry, PLATFORMS)
    areas = ar.async_get(hass)
    for room in entry.runtime_data:
        if area := areas.async_get_area_by_name(room.name):
            areas.async_update(
                area.id,
                humidity_entity_id=room.sensor_id("humidity"),
                temperature_entity_id=room.sensor_id("temperature"),
            )
    return True


async def async_unload_entry(hass: HomeAssistant, entry: ExampleHomeEntry) -> bool:
    """Remove the entities."""
    return await hass.config_entries.async_unload_platforms(entry, PLATFORMS)


@callback
def _furnish(hass: HomeAssistant, entry: ExampleHomeEntry, room: Room) -> None:
    """Make a room on its floor, and put its devices into it."""
    areas = ar.async_get(hass)
    area = areas.async_get_area_by_name(room.name)
    if area is None:
        area = areas.async_create(room.name)
    areas.async_update(area.id, icon=room.icon)
    if room.floor is not None and area.floor_id is None:
        floors = fr.async_get(hass)
        floor = floors.async_get_floor_by_name(room.floor)
        if floor is None:
            floor = floors.async_create(room.floor, level=FLOORS[room.floor])
        areas.async_update(area.id, floor_id=floor.floor_id)
    devices = dr.async_get(hass)
    for thing in room.things:
        device = devices.async_get_or_create(
            config_entry_id=entry.entry_id,
            identifiers={(DOMAIN, thing.key)},
            manufacturer="Example",
            name=thing.name,
        )
        devices.async_update_device(device.id, area_id=area.id)

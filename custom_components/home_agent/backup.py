"""Write the indexes of entities to their files before Home Assistant makes a backup."""

import asyncio

from homeassistant.core import HomeAssistant

from .const import DOMAIN
from .index_sync.index import Index
from .runtime import HomeAgentConfigEntry


def _indexes(hass: HomeAssistant) -> list[Index]:
    """Return the indexes of all loaded config entries."""
    entries: list[HomeAgentConfigEntry] = hass.config_entries.async_loaded_entries(
        DOMAIN
    )
    return [
        manager.index
        for entry in entries
        for manager in entry.runtime_data.vector_db_managers.values()
    ]


async def async_pre_backup(hass: HomeAssistant) -> None:
    """Write all data to the files of the indexes, and delay writes until the end."""
    await asyncio.gather(*(item.async_hold_writes() for item in _indexes(hass)))


async def async_post_backup(hass: HomeAssistant) -> None:
    """Do the delayed writes, and delay none from now on."""
    for index in _indexes(hass):
        index.release_writes()

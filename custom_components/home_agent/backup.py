"""Home Assistant's backups contain complete indexes."""

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
    """Make the files of all indexes complete, and hold writes until the backup ends."""
    await asyncio.gather(*(item.async_hold_writes() for item in _indexes(hass)))


async def async_post_backup(hass: HomeAssistant) -> None:
    """Let the indexes be written again."""
    for index in _indexes(hass):
        index.release_writes()

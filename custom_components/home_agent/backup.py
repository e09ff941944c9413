"""Home Assistant's backups: the indexes are whole in them."""

import asyncio

from homeassistant.core import HomeAssistant

from .const import DOMAIN
from .runtime import HomeAgentConfigEntry
from .vector_db_manager import VectorDBManager


def _managers(hass: HomeAssistant) -> list[VectorDBManager]:
    """Return the managers of all indexes."""
    entries: list[HomeAgentConfigEntry] = hass.config_entries.async_loaded_entries(
        DOMAIN
    )
    return [
        manager
        for entry in entries
        for manager in entry.runtime_data.vector_db_managers.values()
    ]


async def async_pre_backup(hass: HomeAssistant) -> None:
    """Finish what is being written, and hold what comes."""
    await asyncio.gather(*(item.async_hold_writes() for item in _managers(hass)))


async def async_post_backup(hass: HomeAssistant) -> None:
    """Go on."""
    for manager in _managers(hass):
        manager.release_writes()

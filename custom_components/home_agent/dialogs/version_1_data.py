"""Report what becomes of the data that version 1 has stored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.storage import STORAGE_DIR

from ..const import DOMAIN, SUBENTRY_CONVERSATION

_MEMORIES: Final = "home_agent.memories"
# The collections of version 1 on a Chroma server, unless its settings name another.
_ENTITY_COLLECTION: Final = "home_entities"
_MEMORY_COLLECTION: Final = "home_agent_memories"


async def async_report_version_1_data(
    hass: HomeAssistant, entry: ConfigEntry[Any], old: Mapping[str, Any]
) -> None:
    """Raise an issue for memories and one for collections on a Chroma server.

    old are the settings of version 1. The user closes the issues.
    """
    memories = Path(hass.config.path(STORAGE_DIR, _MEMORIES))
    if await hass.async_add_executor_job(memories.exists):
        _report(hass, entry, "version_1_memories", file=f"{STORAGE_DIR}/{_MEMORIES}")
    if old.get("vector_db_enabled"):
        collection = str(old.get("vector_db_collection") or _ENTITY_COLLECTION)
        _report(
            hass,
            entry,
            "version_1_chroma",
            collections=f"{collection}, {_MEMORY_COLLECTION}",
        )


@callback
def _report(
    hass: HomeAssistant, entry: ConfigEntry[Any], name: str, **placeholders: str
) -> None:
    """Raise an issue that stays until the user has read it."""
    agents = entry.get_subentries_of_type(SUBENTRY_CONVERSATION)
    ir.async_create_issue(
        hass,
        DOMAIN,
        f"{name}_{entry.entry_id}",
        data={
            "entry_id": entry.entry_id,
            "subentry_id": next(agent.subentry_id for agent in agents),
            "is_notice": True,
        },
        is_fixable=True,
        is_persistent=True,
        severity=ir.IssueSeverity.WARNING,
        translation_key=name,
        translation_placeholders={"title": entry.title, **placeholders},
    )

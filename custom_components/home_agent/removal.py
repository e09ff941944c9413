"""Remove what the roles of an entry leave: indexes, and models in memory."""

from collections.abc import Mapping
import logging
from typing import Any

from homeassistant.config_entries import (
    SIGNAL_CONFIG_ENTRY_CHANGED,
    ConfigEntry,
    ConfigEntryChange,
)
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.dispatcher import async_dispatcher_connect

from .const import DOMAIN
from .model.role import ModelRole, Role, merged_config, subentry_role
from .residency.release import async_release_models
from .vector_db_manager import VectorDBManager
from .vector_store.base import StoreError
from .vector_store.engine import async_delete_files_except

_LOGGER = logging.getLogger(__name__)

# Role and flat configuration of each subentry of an entry, by its id.
type _Roles = Mapping[str, tuple[Role, Mapping[str, Any]]]


@callback
def async_follow_removed_roles(hass: HomeAssistant) -> None:
    """Remove what subentries leave that are removed while their entry is not loaded.

    So it is while the entry waits for its server. The update listener of a loaded entry
    does the same after the reload.
    """
    known: dict[str, _Roles] = {
        entry.entry_id: _roles(entry)
        for entry in hass.config_entries.async_entries(DOMAIN)
    }

    @callback
    def entry_changed(change: ConfigEntryChange, entry: ConfigEntry[Any]) -> None:
        if entry.domain != DOMAIN:
            return
        before = known.pop(entry.entry_id, {})
        if change is ConfigEntryChange.REMOVED:
            return
        known[entry.entry_id] = _roles(entry)
        if entry.update_listeners:
            return
        changed = [
            (subentry_id, role, config)
            for subentry_id, (role, config) in before.items()
            if known[entry.entry_id].get(subentry_id) != (role, config)
        ]
        async_release_models(
            hass, [ModelRole(hass, config, role) for _, role, config in changed]
        )
        for subentry_id, role, config in changed:
            if role is Role.EMBEDDING and subentry_id not in entry.subentries:
                hass.async_create_background_task(
                    async_remove_index(VectorDBManager(hass, config)),
                    "remove an index",
                )

    async_dispatcher_connect(hass, SIGNAL_CONFIG_ENTRY_CHANGED, entry_changed)


def _roles(entry: ConfigEntry[Any]) -> _Roles:
    """Return role and flat configuration of each subentry."""
    return {
        subentry_id: (subentry_role(subentry), merged_config(entry, subentry))
        for subentry_id, subentry in entry.subentries.items()
    }


async def async_remove_orphaned_indexes(hass: HomeAssistant) -> None:
    """Remove the files of subentries that are not there any more."""
    entries = hass.config_entries.async_entries(DOMAIN)
    ids = {subentry_id for entry in entries for subentry_id in entry.subentries}
    try:
        await async_delete_files_except(hass, ids)
    except StoreError as err:
        _LOGGER.warning("Cannot remove an index: %s", err.log_text)


async def async_remove_index(manager: VectorDBManager) -> None:
    """Remove an index, if its store can be reached."""
    try:
        await manager.async_delete()
    except StoreError as err:
        _LOGGER.warning("Cannot remove an index: %s", err.log_text)

"""Home Agent: a conversation agent on the user's own model servers."""

import logging
from typing import Any

from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.const import Platform
from homeassistant.core import HomeAssistant, callback
from homeassistant.exceptions import ConfigEntryAuthFailed, ConfigEntryNotReady
from homeassistant.helpers import config_validation as cv
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.helpers.typing import ConfigType

from .const import CONF_LLM_SERVER_KIND, DOMAIN, SUBENTRY_EMBEDDING
from .coordinator import shared_coordinator
from .device import async_register_devices
from .dialogs.migration import (
    async_migrate_from_version_1,
    async_move_credentials,
)
from .model.role import Role, merged_config, role_connection, subentry_role
from .model.use import model_uses
from .residency.checks import ResidencyChecks, check_index, forget_gone
from .residency.loader import ModelLoader
from .residency.state import ModelResidency
from .residency.warm_up import async_keep_warm
from .runtime import HomeAgentConfigEntry, HomeAgentData
from .servers.address import server_id
from .servers.errors import InvalidAuth, ModelServerError
from .servers.factory import connect
from .services import async_setup_actions
from .vector_db_manager import VectorDBManager

_LOGGER = logging.getLogger(__name__)

PLATFORMS = [
    Platform.BUTTON,
    Platform.CONVERSATION,
    Platform.EVENT,
    Platform.SENSOR,
]

CONFIG_SCHEMA = cv.config_entry_only_config_schema(DOMAIN)


async def async_setup(hass: HomeAssistant, config: ConfigType) -> bool:
    """Register the actions."""
    async_setup_actions(hass)
    await model_uses(hass).async_load()
    return True


async def async_setup_entry(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> bool:
    """Connect to the server and set up its model roles."""
    async_move_credentials(hass, entry)
    await _async_connect(hass, entry)
    entry.runtime_data = HomeAgentData()
    for subentry in entry.subentries.values():
        _watch(hass, entry, subentry)
    async_register_devices(hass, entry)
    for subentry in entry.get_subentries_of_type(SUBENTRY_EMBEDDING):
        manager = VectorDBManager(hass, merged_config(entry, subentry))
        residency = entry.runtime_data.residencies[subentry.subentry_id]
        check_index(hass, entry, residency, manager)
        await manager.async_start()
        entry.async_on_unload(manager.async_stop)
        entry.runtime_data.vector_db_managers[subentry.subentry_id] = manager
    await hass.config_entries.async_forward_entry_setups(entry, PLATFORMS)
    entry.async_on_unload(entry.add_update_listener(_async_reload))
    for residency in entry.runtime_data.residencies.values():
        ResidencyChecks(hass, entry, residency)
    forget_gone(hass, entry)
    for coordinator in entry.runtime_data.coordinators.values():
        async_keep_warm(hass, entry, coordinator)
    return True


async def async_unload_entry(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> bool:
    """Unload an entry."""
    return await hass.config_entries.async_unload_platforms(entry, PLATFORMS)


async def async_remove_entry(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> None:
    """Remove the indexes and the issues of an entry that is removed."""
    forget_gone(hass, entry, is_removed=True)
    for subentry in entry.get_subentries_of_type(SUBENTRY_EMBEDDING):
        await _async_delete_index(VectorDBManager(hass, merged_config(entry, subentry)))


async def async_migrate_entry(hass: HomeAssistant, entry: ConfigEntry[Any]) -> bool:
    """Take over an entry of version 1; refuse one of a later version."""
    if entry.version == 1:
        async_migrate_from_version_1(hass, entry)
    return entry.version == 2


@callback
def _watch(
    hass: HomeAssistant, entry: HomeAgentConfigEntry, subentry: ConfigSubentry
) -> None:
    """Make what knows the residency of a subentry's model, and what loads it."""
    data = entry.runtime_data
    connection = role_connection(
        merged_config(entry, subentry), subentry_role(subentry)
    )
    root = server_id(connection.url)
    if root not in data.coordinators:
        data.coordinators[root] = shared_coordinator(hass, entry, connection)
    residency = ModelResidency(hass, entry, subentry, data.coordinators[root])
    data.residencies[subentry.subentry_id] = residency
    data.loaders[subentry.subentry_id] = ModelLoader(hass, entry, residency)


async def _async_connect(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> None:
    """Make sure that the entry's server answers, and store its kind.

    Raise ConfigEntryAuthFailed if it refuses the key and ConfigEntryNotReady if
    it does not answer.
    """
    try:
        server = await connect(
            async_get_clientsession(hass), role_connection(entry.data, Role.LLM)
        )
        await server.check()
    except ModelServerError as err:
        error = (
            ConfigEntryAuthFailed
            if isinstance(err, InvalidAuth)
            else ConfigEntryNotReady
        )
        raise error(
            translation_domain=err.translation_domain,
            translation_key=err.translation_key,
            translation_placeholders=err.translation_placeholders,
        ) from err
    if entry.data.get(CONF_LLM_SERVER_KIND) is None:
        hass.config_entries.async_update_entry(
            entry, data={**entry.data, CONF_LLM_SERVER_KIND: str(server.kind)}
        )


async def _async_reload(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> None:
    """Reload an entry that was changed; the index of a removed subentry goes."""
    managers = entry.runtime_data.vector_db_managers
    gone = [item for key, item in managers.items() if key not in entry.subentries]
    await hass.config_entries.async_reload(entry.entry_id)
    for manager in gone:
        await _async_delete_index(manager)


async def _async_delete_index(manager: VectorDBManager) -> None:
    """Remove an index that nobody needs any more, if its store can be reached."""
    try:
        await manager.async_delete()
    except ModelServerError as err:
        _LOGGER.warning("An index stays where it is: %s", err.log_text)

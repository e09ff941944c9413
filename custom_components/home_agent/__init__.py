"""Home Agent: a conversation agent on the user's own model servers."""

from functools import partial
import logging
from typing import Any

from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.const import Platform
from homeassistant.core import HomeAssistant, callback
from homeassistant.exceptions import ConfigEntryAuthFailed, ConfigEntryNotReady
from homeassistant.helpers import config_validation as cv
from homeassistant.helpers.typing import ConfigType

from .const import (
    CONF_LLM_SERVER_KIND,
    DOMAIN,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
)
from .coordinator import ServerCoordinator
from .device import async_register_devices
from .dialogs.migration import (
    async_migrate_from_version_1,
    async_move_credentials,
    async_remove_obsolete_entities,
)
from .dialogs.server_devices import async_rename_server_devices
from .dialogs.version_1_data import async_report_version_1_data
from .dialogs.voice_assistants import async_check_voice_assistants
from .model.reauth import async_start_role_reauth
from .model.role import (
    ModelRole,
    Role,
    configured_models,
    merged_config,
    role_connection,
    subentry_role,
)
from .model.use import model_uses
from .removal import (
    async_follow_removed_roles,
    async_remove_index,
    async_remove_orphaned_indexes,
)
from .residency.checks import async_start_checks
from .residency.checks.index_stuck import check_index
from .residency.checks.issues import (
    async_clear_issues_of_disabled,
    clear_issues_of_removed,
)
from .residency.keep_alive_change import KeepAliveUpdater
from .residency.loader import ModelLoader
from .residency.primer import Primer
from .residency.release import async_release_models
from .residency.state import ModelResidency
from .residency.warm_up import WarmUp
from .runtime import HomeAgentConfigEntry, HomeAgentData
from .servers.address import server_id
from .servers.errors import InvalidAuth, ModelServerError
from .servers.factory import connect
from .servers.session import async_get_session
from .services import async_setup_actions
from .vector_db_manager import VectorDBManager

_LOGGER = logging.getLogger(__name__)

PLATFORMS = [
    Platform.AI_TASK,
    Platform.BUTTON,
    Platform.CONVERSATION,
    Platform.EVENT,
    Platform.SENSOR,
]

CONFIG_SCHEMA = cv.config_entry_only_config_schema(DOMAIN)


async def async_setup(hass: HomeAssistant, config: ConfigType) -> bool:
    """Register the actions and read how the models were used."""
    async_setup_actions(hass)
    async_clear_issues_of_disabled(hass)
    async_follow_removed_roles(hass)
    await model_uses(hass).async_load()
    return True


async def async_setup_entry(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> bool:
    """Connect to the server and set up its model roles."""
    async_move_credentials(hass, entry)
    await async_remove_orphaned_indexes(hass)
    await _async_connect(hass, entry)
    data = entry.runtime_data = HomeAgentData()
    for subentry in entry.subentries.values():
        _add_role(hass, entry, subentry)
    async_register_devices(hass, entry)
    for subentry in entry.get_subentries_of_type(SUBENTRY_EMBEDDING):
        manager = VectorDBManager(hass, merged_config(entry, subentry))
        check_index(data.residencies[subentry.subentry_id], manager)
        manager.schedule.async_start()
        entry.async_on_unload(manager.async_stop)
        data.vector_db_managers[subentry.subentry_id] = manager
    await hass.config_entries.async_forward_entry_setups(entry, PLATFORMS)
    entry.async_on_unload(entry.add_update_listener(_async_reload))
    for loader in data.loaders.values():
        async_start_checks(loader)
        KeepAliveUpdater(loader).async_start()
    clear_issues_of_removed(hass, entry)
    async_check_voice_assistants(hass, entry)
    for coordinator in data.coordinators.values():
        WarmUp(
            hass,
            entry,
            coordinator,
            (
                loader
                for loader in data.loaders.values()
                if loader.residency.coordinator is coordinator
            ),
            (
                primer
                for primer in data.primers.values()
                if primer.loader.residency.coordinator is coordinator
            ),
        ).async_start()
    return True


async def async_unload_entry(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> bool:
    """Unload an entry, and its models in memory if the user has disabled it."""
    if not await hass.config_entries.async_unload_platforms(entry, PLATFORMS):
        return False
    if entry.disabled_by is not None:
        residencies = entry.runtime_data.residencies.values()
        async_release_models(hass, [residency.role for residency in residencies])
    return True


async def async_remove_entry(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> None:
    """Remove what a removed entry leaves.

    That is its models in memory, its indexes, its repair issues and its histories.
    """
    clear_issues_of_removed(hass, entry, is_removed=True)
    async_release_models(
        hass,
        [
            ModelRole(hass, merged_config(entry, subentry), subentry_role(subentry))
            for subentry in entry.subentries.values()
        ],
    )
    await model_uses(hass).async_keep_only(configured_models(hass))
    for subentry in entry.get_subentries_of_type(SUBENTRY_EMBEDDING):
        await async_remove_index(VectorDBManager(hass, merged_config(entry, subentry)))
    await async_remove_orphaned_indexes(hass)


async def async_migrate_entry(hass: HomeAssistant, entry: ConfigEntry[Any]) -> bool:
    """Migrate an entry of version 1; refuse one of a later version than ours."""
    if entry.version == 1:
        old = {**entry.data, **entry.options}
        async_migrate_from_version_1(hass, entry)
        if entry.version == 2:
            await async_report_version_1_data(hass, entry, old)
    if entry.version == 2 and entry.minor_version < 2:
        async_remove_obsolete_entities(hass, entry)
    if entry.version == 2 and entry.minor_version < 3:
        async_rename_server_devices(hass, entry)
    return entry.version == 2


@callback
def _add_role(
    hass: HomeAssistant, entry: HomeAgentConfigEntry, subentry: ConfigSubentry
) -> None:
    """Add the objects of a subentry's model to the data of its entry."""
    data = entry.runtime_data
    role = subentry_role(subentry)
    config = merged_config(entry, subentry)
    connection = role_connection(config, role)
    root = server_id(connection.url)
    if root not in data.coordinators:
        ask_for_key = partial(async_start_role_reauth, hass, config, role)
        own = role_connection(entry.data, Role.LLM)
        if root == server_id(own.url):
            # Not the key of one of its roles: a wrong one is no outage for the others.
            connection, ask_for_key = own, partial(entry.async_start_reauth, hass)
        data.coordinators[root] = ServerCoordinator(
            hass, entry, connection, ask_for_key
        )
    residency = ModelResidency(hass, entry, subentry, data.coordinators[root])
    residency.async_add_user()
    loader = ModelLoader(residency)
    data.residencies[subentry.subentry_id] = residency
    data.loaders[subentry.subentry_id] = loader
    if subentry.subentry_type == SUBENTRY_CONVERSATION:
        data.primers[subentry.subentry_id] = Primer(loader)


async def _async_connect(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> None:
    """Check that the entry's server answers, and store its kind.

    Raise ConfigEntryAuthFailed if it refuses the key and ConfigEntryNotReady if
    it does not answer.
    """
    try:
        server = await connect(
            async_get_session(hass), role_connection(entry.data, Role.LLM)
        )
        await server.check()
    except ModelServerError as err:
        _LOGGER.debug(
            "Cannot connect to the server of %s: %s", entry.title, err.log_text
        )
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
    """Reload a changed entry; remove what removed subentries leave.

    That is their indexes, and models in memory, also of subentries whose model has
    changed.
    """
    data = entry.runtime_data
    managers = data.vector_db_managers
    gone = [item for key, item in managers.items() if key not in entry.subentries]
    await hass.config_entries.async_reload(entry.entry_id)
    roles = (residency.role for residency in data.residencies.values())
    async_release_models(hass, roles)
    for manager in gone:
        await async_remove_index(manager)

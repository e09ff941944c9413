"""Ask the user for a new API key after a role's server has refused it."""

from collections.abc import Mapping
import logging
from typing import Any

from homeassistant.core import HomeAssistant, callback

from ..const import CONF_SUBENTRY_ID, DOMAIN
from .role import Role

_LOGGER = logging.getLogger(__name__)


@callback
def async_start_role_reauth(
    hass: HomeAssistant, config: Mapping[str, Any], role: Role
) -> None:
    """Open Home Assistant's dialog for the key that a role's server refused.

    The dialog asks for the role's own key if the role has an address or a key of its
    own, and else for the key of the config entry, which the role uses then. Nothing
    happens for a configuration that belongs to no config entry, or while the entry's
    dialog is already open.
    """
    subentry_id = config.get(CONF_SUBENTRY_ID)
    has_own_key = config.get(role.key("base_url")) or config.get(role.key("api_key"))
    for entry in hass.config_entries.async_entries(DOMAIN):
        if subentry_id not in entry.subentries:
            continue
        refused = role if has_own_key else Role.LLM
        _LOGGER.debug("Asking for a new key of %s: the server refused it", refused)
        data = {CONF_SUBENTRY_ID: subentry_id} if has_own_key else None
        entry.async_start_reauth(hass, data=data)

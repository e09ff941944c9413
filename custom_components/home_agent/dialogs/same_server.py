"""Config entries for the same server: one for each key."""

from collections.abc import Mapping
from typing import Any

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback

from ..const import CONF_LLM_BASE_URL, DOMAIN
from ..model.role import Role, role_connection
from ..servers.address import server_id


@callback
def entry_of_server(
    hass: HomeAssistant,
    data: Mapping[str, Any],
    changed: ConfigEntry[Any] | None = None,
) -> ConfigEntry[Any] | None:
    """Return the entry for the server and the key in data, None if there is none.

    Headers count like the key: some proxies have a key in a header of their own.
    changed is the entry that gets data.
    """
    root, headers = server_id(data[CONF_LLM_BASE_URL]), _headers(data)
    return next(
        (
            entry
            for entry in hass.config_entries.async_entries(DOMAIN)
            if entry is not changed
            and server_id(entry.data[CONF_LLM_BASE_URL]) == root
            and _headers(entry.data) == headers
        ),
        None,
    )


@callback
def free_unique_id(
    hass: HomeAssistant,
    data: Mapping[str, Any],
    changed: ConfigEntry[Any] | None = None,
) -> str | None:
    """Return the unique id of an entry with data, None if another entry has it.

    So it is for the second key of a server.
    """
    unique_id = server_id(data[CONF_LLM_BASE_URL])
    other = hass.config_entries.async_entry_for_domain_unique_id(DOMAIN, unique_id)
    return unique_id if other in (None, changed) else None


def _headers(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of all requests to the server in data, the key among them."""
    return role_connection(data, Role.LLM).all_headers()

"""Migrate the devices of servers whose address has https or a path."""

from typing import Any

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import device_registry as dr, entity_registry as er

from ..const import CONF_LLM_BASE_URL, DOMAIN
from ..model.role import merged_config, role_connection, subentry_role
from ..servers.address import shown_host, shown_server_id


@callback
def async_rename_server_devices(hass: HomeAssistant, entry: ConfigEntry[Any]) -> None:
    """Give the devices of an entry's servers the identifiers of minor version 3.

    Until then they had only the host and port, which two servers may share.
    """
    urls = [entry.data[CONF_LLM_BASE_URL]]
    urls += [
        role_connection(merged_config(entry, subentry), subentry_role(subentry)).url
        for subentry in entry.subentries.values()
    ]
    keys = {shown_server_id(url): shown_host(url) for url in urls}
    devices, entities = dr.async_get(hass), er.async_get(hass)
    for key, host in keys.items():
        if host in keys:
            # The server that is identified by its host keeps the device.
            continue
        old, new = f"{entry.entry_id}_{host}", f"{entry.entry_id}_{key}"
        if device := devices.async_get_device(identifiers={(DOMAIN, old)}):
            devices.async_update_device(device.id, new_identifiers={(DOMAIN, new)})
        unique_id = f"{old}_memory_held"
        if entity_id := entities.async_get_entity_id("sensor", DOMAIN, unique_id):
            entities.async_update_entity(entity_id, new_unique_id=f"{new}_memory_held")
    hass.config_entries.async_update_entry(entry, minor_version=3)

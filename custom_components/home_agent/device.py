"""The devices of an entry: one for each server, one for each model role."""

from homeassistant.config_entries import ConfigSubentry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import device_registry as dr

from .const import DOMAIN
from .coordinator import ServerCoordinator
from .model.role import subentry_role
from .runtime import HomeAgentConfigEntry
from .servers.address import shown_server_id
from .servers.detect import server_name
from .servers.model_names import shown_model


@callback
def async_register_devices(hass: HomeAssistant, entry: HomeAgentConfigEntry) -> None:
    """Register the devices of the servers and roles of an entry.

    The device of a server that no role uses any more is removed. Home Assistant
    removes the device of a role with its subentry.
    """
    registry = dr.async_get(hass)
    servers = {
        coordinator: registry.async_get_or_create(
            config_entry_id=entry.entry_id, **server_device_info(entry, coordinator)
        ).id
        for coordinator in entry.runtime_data.coordinators.values()
    }
    for device in dr.async_entries_for_config_entry(registry, entry.entry_id):
        is_role = any(key in entry.subentries for _, key in device.identifiers)
        if not is_role and device.id not in servers.values():
            registry.async_remove_device(device.id)
    for subentry_id, residency in entry.runtime_data.residencies.items():
        registry.async_get_or_create(
            config_entry_id=entry.entry_id,
            config_subentry_id=subentry_id,
            via_device_id=servers[residency.coordinator],
            **device_info(entry, residency.subentry),
        )


def device_info(entry: HomeAgentConfigEntry, subentry: ConfigSubentry) -> dr.DeviceInfo:
    """Return the device of a model role."""
    return dr.DeviceInfo(
        identifiers={(DOMAIN, subentry.subentry_id)},
        # The dialog has made the model's name the title.
        name=shown_model(subentry.title),
        manufacturer="Home Agent",
        model=shown_model(subentry.data[subentry_role(subentry).key("model")]),
        entry_type=dr.DeviceEntryType.SERVICE,
    )


def server_device_info(
    entry: HomeAgentConfigEntry, coordinator: ServerCoordinator
) -> dr.DeviceInfo:
    """Return the device of a server."""
    connection = coordinator.connection
    name = coordinator.host
    if connection.kind is not None:
        name = server_name(connection.kind, connection.url)
    return dr.DeviceInfo(
        identifiers={(DOMAIN, server_identifier(entry, coordinator))},
        name=f"{name} ({coordinator.host})" if name != coordinator.host else name,
        manufacturer="Home Agent",
        model=name,
        entry_type=dr.DeviceEntryType.SERVICE,
    )


def server_identifier(
    entry: HomeAgentConfigEntry, coordinator: ServerCoordinator
) -> str:
    """Return what identifies the device of a server."""
    return f"{entry.entry_id}_{shown_server_id(coordinator.connection.url)}"

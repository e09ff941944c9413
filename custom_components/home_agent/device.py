"""The devices: one for each server, one for each model role."""

from homeassistant.config_entries import ConfigSubentry
from homeassistant.helpers import device_registry as dr

from .const import DOMAIN
from .coordinator import ServerCoordinator
from .data import HomeAgentConfigEntry, subentry_role
from .servers.detect import server_name


def device_info(entry: HomeAgentConfigEntry, subentry: ConfigSubentry) -> dr.DeviceInfo:
    """Return the device that stands for a model role."""
    return dr.DeviceInfo(
        identifiers={(DOMAIN, subentry.subentry_id)},
        name=subentry.title,
        manufacturer="Home Agent",
        model=subentry.data[subentry_role(subentry).key("model")],
        entry_type=dr.DeviceEntryType.SERVICE,
    )


def server_device_info(
    entry: HomeAgentConfigEntry, coordinator: ServerCoordinator
) -> dr.DeviceInfo:
    """Return the device that stands for a server."""
    connection = coordinator.connection
    name = coordinator.host
    if connection.kind is not None:
        name = server_name(connection.kind, connection.url)
    return dr.DeviceInfo(
        identifiers={(DOMAIN, f"{entry.entry_id}_{coordinator.host}")},
        name=f"{name} ({coordinator.host})" if name != coordinator.host else name,
        manufacturer="Home Agent",
        model=name,
        entry_type=dr.DeviceEntryType.SERVICE,
    )

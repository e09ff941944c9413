"""The device of a subentry."""

from homeassistant.config_entries import ConfigSubentry
from homeassistant.helpers import device_registry as dr

from .const import DOMAIN
from .data import HomeAgentConfigEntry, subentry_role


def device_info(entry: HomeAgentConfigEntry, subentry: ConfigSubentry) -> dr.DeviceInfo:
    """Return the device that stands for a model role."""
    return dr.DeviceInfo(
        identifiers={(DOMAIN, subentry.subentry_id)},
        name=subentry.title,
        manufacturer="Home Agent",
        model=subentry.data[subentry_role(subentry).key("model")],
        entry_type=dr.DeviceEntryType.SERVICE,
    )

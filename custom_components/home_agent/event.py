"""What happens to a model: loaded, unloaded, evicted."""

from typing import override

from homeassistant.components.event import EventEntity
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .entity import ModelEntity
from .residency.state import ModelResidency, ResidencyEvent
from .runtime import HomeAgentConfigEntry
from .servers.base import ServerCapability

# Events come in; nothing is asked.
PARALLEL_UPDATES = 0


async def async_setup_entry(
    hass: HomeAssistant,
    config_entry: HomeAgentConfigEntry,
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add an event entity for each model that can be seen."""
    for subentry_id, residency in config_entry.runtime_data.residencies.items():
        if ServerCapability.LIST in residency.capabilities:
            async_add_entities(
                [ResidencyEventEntity(config_entry, residency)],
                config_subentry_id=subentry_id,
            )


class ResidencyEventEntity(ModelEntity, EventEntity):
    """Fires when the model comes into memory or leaves it."""

    _attr_event_types = [str(event) for event in ResidencyEvent]  # noqa: RUF012

    def __init__(self, entry: HomeAgentConfigEntry, residency: ModelResidency) -> None:
        """Watch a model."""
        super().__init__(entry, residency, "residency_change")

    @override
    async def async_added_to_hass(self) -> None:
        """Be told what happens."""
        await super().async_added_to_hass()
        self.async_on_remove(self.residency.happened.add(self._happened))

    @callback
    def _happened(self, event: ResidencyEvent) -> None:
        """Fire an event."""
        self._trigger_event(event, {"model": self.residency.role.model})
        self.async_write_ha_state()

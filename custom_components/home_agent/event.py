"""Events of a model: loaded, unloaded, evicted."""

from typing import override

from homeassistant.components.event import EventEntity
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .entity import ModelEntity
from .residency.state import ModelResidency, ResidencyEvent
from .runtime import HomeAgentConfigEntry
from .servers.base import ServerCapability

# The coordinator polls the server; entities do not.
PARALLEL_UPDATES = 0


async def async_setup_entry(
    hass: HomeAssistant,
    config_entry: HomeAgentConfigEntry,
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add an event entity for each model whose server reports what is loaded."""
    for subentry_id, residency in config_entry.runtime_data.residencies.items():
        if ServerCapability.LIST in residency.capabilities:
            async_add_entities(
                [ResidencyEventEntity(config_entry, residency)],
                config_subentry_id=subentry_id,
            )


class ResidencyEventEntity(ModelEntity, EventEntity):
    """Fires when the model is loaded into memory or leaves it."""

    _attr_entity_registry_enabled_default = False
    _attr_event_types = [str(event) for event in ResidencyEvent]  # noqa: RUF012

    def __init__(self, entry: HomeAgentConfigEntry, residency: ModelResidency) -> None:
        """Report the events of a model."""
        super().__init__(entry, residency, "residency_change")

    @override
    async def async_added_to_hass(self) -> None:
        """Listen to the events."""
        await super().async_added_to_hass()
        self.async_on_remove(self.residency.event_occurred.add(self._event_occurred))

    @callback
    def _event_occurred(self, event: ResidencyEvent) -> None:
        """Fire an event."""
        self._trigger_event(event, {"model": self.residency.role.model})
        self.async_write_ha_state()

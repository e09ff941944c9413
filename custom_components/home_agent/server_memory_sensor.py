"""The sensor of a server: how much memory its models use."""

from collections.abc import Mapping
from typing import Any, override

from homeassistant.components.sensor import SensorEntity, SensorEntityDescription
from homeassistant.const import EntityCategory
from homeassistant.helpers.update_coordinator import CoordinatorEntity

from .coordinator import ServerCoordinator
from .device import server_device_info
from .runtime import HomeAgentConfigEntry
from .servers.address import shown_server_id


class ServerMemorySensor(CoordinatorEntity[ServerCoordinator], SensorEntity):
    """The memory used by all models of a server, also by those of other clients."""

    _attr_has_entity_name = True
    _attr_entity_category = EntityCategory.DIAGNOSTIC
    _unrecorded_attributes = frozenset({"models"})

    def __init__(
        self,
        entry: HomeAgentConfigEntry,
        coordinator: ServerCoordinator,
        description: SensorEntityDescription,
    ) -> None:
        """Show the memory that a server uses for models."""
        super().__init__(coordinator)
        self.entity_description = description
        self._attr_device_info = server_device_info(entry, coordinator)
        key = shown_server_id(coordinator.connection.url)
        self._attr_unique_id = f"{entry.entry_id}_{key}_{description.key}"

    @property
    @override
    def native_value(self) -> int | None:
        """Return the size of all models together, in bytes."""
        if self.coordinator.data is None:
            return None
        return sum(model.size_bytes or 0 for model in self.coordinator.data)

    @property
    @override
    def extra_state_attributes(self) -> Mapping[str, Any]:
        """Return the names of the models in memory."""
        return {"models": sorted(model.name for model in self.coordinator.data or ())}

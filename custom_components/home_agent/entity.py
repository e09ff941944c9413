"""What the entities of a model role share."""

from typing import override

from homeassistant.const import EntityCategory
from homeassistant.helpers.entity import Entity

from .device import device_info
from .residency.state import ModelResidency
from .runtime import HomeAgentConfigEntry


class ModelEntity(Entity):
    """An entity on the device of a model role."""

    _attr_has_entity_name = True
    _attr_should_poll = False

    def __init__(
        self, entry: HomeAgentConfigEntry, residency: ModelResidency, key: str
    ) -> None:
        """Stand on the device of a residency; key is its translation's too."""
        self.residency = residency
        self._attr_translation_key = key
        self._attr_unique_id = f"{residency.subentry.subentry_id}_{key}"
        self._attr_device_info = device_info(entry, residency.subentry)


class ResidencyEntity(ModelEntity):
    """An entity that shows what the server tells of the model."""

    _attr_entity_category = EntityCategory.DIAGNOSTIC

    @override
    async def async_added_to_hass(self) -> None:
        """Be told when it may have changed."""
        await super().async_added_to_hass()
        self.async_on_remove(
            self.residency.state_changed.add(self.async_write_ha_state)
        )

    @property
    @override
    def available(self) -> bool:
        """Return whether the server answers."""
        return self.residency.coordinator.last_update_success

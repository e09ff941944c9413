"""The base of the entities of a model role."""

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
        """Belong to the device of a role; key is the translation key too."""
        self.residency = residency
        self._attr_translation_key = key
        self._attr_unique_id = f"{residency.subentry.subentry_id}_{key}"
        self._attr_device_info = device_info(entry, residency.subentry)


class ServerEntity(ModelEntity):
    """An entity that is available while the server of the model answers."""

    @override
    async def async_added_to_hass(self) -> None:
        """Listen to changes of the model's state."""
        await super().async_added_to_hass()
        self.async_on_remove(self.residency.changed.add(self.async_write_ha_state))

    @property
    @override
    def available(self) -> bool:
        """Return whether the server answers."""
        return self.residency.coordinator.last_update_success


class ResidencyEntity(ServerEntity):
    """An entity that shows what the server reports of the model."""

    _attr_entity_category: EntityCategory | None = EntityCategory.DIAGNOSTIC

"""Load a model now, or unload it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, override

from homeassistant.components.button import ButtonEntity, ButtonEntityDescription
from homeassistant.const import EntityCategory
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .entity import ModelEntity
from .residency.loader import ModelLoader
from .runtime import HomeAgentConfigEntry
from .servers.base import ServerCapability

# The server decides what it can do at once.
PARALLEL_UPDATES = 0


@dataclass(frozen=True, kw_only=True)
class ModelButtonDescription(ButtonEntityDescription):
    """A button, on the devices of models whose server has the means."""

    capability: ServerCapability
    press: Callable[[ModelLoader], Awaitable[Any]]


BUTTONS: Final = (
    ModelButtonDescription(
        key="load",
        capability=ServerCapability.LOAD,
        press=lambda loader: loader.async_load(),
    ),
    ModelButtonDescription(
        key="unload",
        capability=ServerCapability.UNLOAD,
        press=lambda loader: loader.async_unload(),
    ),
)


async def async_setup_entry(
    hass: HomeAssistant,
    config_entry: HomeAgentConfigEntry,
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add the buttons of each model."""
    for subentry_id, loader in config_entry.runtime_data.loaders.items():
        async_add_entities(
            [
                ModelButton(config_entry, loader, description)
                for description in BUTTONS
                if description.capability in loader.residency.capabilities
            ],
            config_subentry_id=subentry_id,
        )


class ModelButton(ModelEntity, ButtonEntity):
    """A button of a model."""

    _attr_entity_category = EntityCategory.CONFIG
    entity_description: ModelButtonDescription

    def __init__(
        self,
        entry: HomeAgentConfigEntry,
        loader: ModelLoader,
        description: ModelButtonDescription,
    ) -> None:
        """Do what a description says."""
        super().__init__(entry, loader.residency, description.key)
        self._loader = loader
        self.entity_description = description

    @override
    async def async_press(self) -> None:
        """Load or unload; raise a ModelServerError, which is shown."""
        await self.entity_description.press(self._loader)

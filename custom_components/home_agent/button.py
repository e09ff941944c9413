"""Buttons that load and unload models."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, override

from homeassistant.components.button import ButtonEntity, ButtonEntityDescription
from homeassistant.const import EntityCategory
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .entity import ServerEntity
from .residency.loader import ModelLoader
from .runtime import HomeAgentConfigEntry
from .servers.base import ServerCapability

# Home Assistant need not queue the presses: the server queues its requests.
PARALLEL_UPDATES = 0


@dataclass(frozen=True, kw_only=True)
class ModelButtonDescription(ButtonEntityDescription):
    """A button of each model whose server has the capability."""

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


class ModelButton(ServerEntity, ButtonEntity):
    """A button on the device of a model."""

    _attr_entity_category = EntityCategory.CONFIG
    entity_description: ModelButtonDescription

    def __init__(
        self,
        entry: HomeAgentConfigEntry,
        loader: ModelLoader,
        description: ModelButtonDescription,
    ) -> None:
        """Set up a button from its description."""
        super().__init__(entry, loader.residency, description.key)
        self._loader = loader
        self.entity_description = description

    @override
    async def async_press(self) -> None:
        """Load or unload the model; raise a ModelServerError if the server fails."""
        await self.entity_description.press(self._loader)

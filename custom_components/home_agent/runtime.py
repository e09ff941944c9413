"""What a loaded config entry holds."""

from dataclasses import dataclass, field

from homeassistant.config_entries import ConfigEntry

from .coordinator import ServerCoordinator
from .residency.loader import ModelLoader
from .residency.state import ModelResidency
from .vector_db_manager import VectorDBManager


@dataclass(slots=True)
class HomeAgentData:
    """What an entry holds while it is loaded.

    coordinators are by the root of the server's address, the others by subentry.
    """

    coordinators: dict[str, ServerCoordinator] = field(default_factory=dict)
    residencies: dict[str, ModelResidency] = field(default_factory=dict)
    loaders: dict[str, ModelLoader] = field(default_factory=dict)
    vector_db_managers: dict[str, VectorDBManager] = field(default_factory=dict)


type HomeAgentConfigEntry = ConfigEntry[HomeAgentData]

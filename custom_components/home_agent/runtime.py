"""What a config entry holds while it is loaded."""

from dataclasses import dataclass, field

from homeassistant.config_entries import ConfigEntry

from .coordinator import ServerCoordinator
from .residency.loader import ModelLoader
from .residency.primer import Primer
from .residency.state import ModelResidency
from .vector_db_manager import VectorDBManager


@dataclass(slots=True)
class HomeAgentData:
    """The objects of a loaded entry.

    coordinators are keyed by the root address of their server, the others by the id
    of their subentry.
    """

    coordinators: dict[str, ServerCoordinator] = field(default_factory=dict)
    residencies: dict[str, ModelResidency] = field(default_factory=dict)
    loaders: dict[str, ModelLoader] = field(default_factory=dict)
    primers: dict[str, Primer] = field(default_factory=dict)
    vector_db_managers: dict[str, VectorDBManager] = field(default_factory=dict)


type HomeAgentConfigEntry = ConfigEntry[HomeAgentData]

"""What a loaded config entry holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.core import HomeAssistant, callback
from homeassistant.util import slugify

from .const import (
    CONF_EXTERNAL_LLMS,
    CONF_SUBENTRY_ID,
    DOMAIN,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from .model.role import Role
from .tools.external_llm import ExternalLLMTool
from .vector_db_manager import VectorDBManager

if TYPE_CHECKING:
    from .coordinator import ServerCoordinator
    from .residency.loader import ModelLoader
    from .residency.state import ModelResidency

SUBENTRY_ROLES: Final = {
    SUBENTRY_CONVERSATION: Role.LLM,
    SUBENTRY_EXTERNAL_LLM: Role.EXTERNAL_LLM,
    SUBENTRY_EMBEDDING: Role.EMBEDDING,
}


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


def merged_config(
    entry: ConfigEntry[Any], subentry: ConfigSubentry
) -> Mapping[str, Any]:
    """Return an entry's and a subentry's data as one flat configuration."""
    return {**entry.data, **subentry.data, CONF_SUBENTRY_ID: subentry.subentry_id}


def subentry_role(subentry: ConfigSubentry) -> Role:
    """Return the role of a subentry's model."""
    return SUBENTRY_ROLES[subentry.subentry_type]


@callback
def embedding_manager(
    hass: HomeAssistant, subentry_id: str | None = None
) -> VectorDBManager | None:
    """Return the embeddings to search with, None where there are none.

    Those of the entry that a subentry belongs to, else the first: all indexes
    hold the same entities.
    """
    entries: list[HomeAgentConfigEntry] = hass.config_entries.async_loaded_entries(
        DOMAIN
    )
    entries.sort(key=lambda entry: subentry_id not in entry.subentries)
    for entry in entries:
        for manager in entry.runtime_data.vector_db_managers.values():
            return manager
    return None


def external_llm_tools(
    hass: HomeAssistant, entry: HomeAgentConfigEntry, subentry: ConfigSubentry
) -> list[ExternalLLMTool]:
    """Return the tools for the external LLMs that a conversation agent may ask.

    Where there are several, each tool's name tells its subentry's title.
    """
    chosen = [
        external
        for subentry_id in subentry.data.get(CONF_EXTERNAL_LLMS, ())
        if (external := entry.subentries.get(subentry_id))
    ]
    if len(chosen) == 1:
        return [ExternalLLMTool(hass, merged_config(entry, chosen[0]))]
    tools: dict[str, ExternalLLMTool] = {}
    for external in chosen:
        name = base = f"{DOMAIN}__ask_{slugify(external.title)}"[:60]
        number = 1
        while name in tools:
            number += 1
            name = f"{base}_{number}"
        config = merged_config(entry, external)
        tools[name] = ExternalLLMTool(hass, config, name=name)
    return list(tools.values())

"""Home Assistant's llm platform: the search tool for every assistant."""

from homeassistant.components.llm import LLMTools
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.llm import LLM_API_ASSIST, LLMContext

from .const import CONF_EMBEDDING_SEARCH_TOOL, DOMAIN
from .runtime import HomeAgentConfigEntry
from .tools.search_entities import SearchEntitiesTool


@callback
def async_get_tools(
    hass: HomeAssistant, llm_context: LLMContext, api_id: str
) -> LLMTools | None:
    """Return the search tool if an embedding model has it switched on.

    Only the Assist API gets it: the tool reads exposed entities only.
    """
    if api_id != LLM_API_ASSIST:
        return None
    entries: list[HomeAgentConfigEntry] = hass.config_entries.async_loaded_entries(
        DOMAIN
    )
    for entry in entries:
        for subentry_id in entry.runtime_data.vector_db_managers:
            data = entry.subentries[subentry_id].data
            if data.get(CONF_EMBEDDING_SEARCH_TOOL, True):
                # One tool is enough: all indexes hold the same entities.
                return LLMTools(tools=[SearchEntitiesTool()])
    return None

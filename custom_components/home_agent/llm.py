"""Home Agent's tools for every assistant, by Home Assistant's llm platform."""

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
    """Return the search tool where entities are indexed and it is switched on.

    It reads exposed entities only, so it belongs to the Assist API.
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
                # One is enough: all indexes hold the same entities.
                return LLMTools(tools=[SearchEntitiesTool()])
    return None

"""Home Assistant's llm platform: the tools for every assistant."""

from homeassistant.components.llm import LLMTools
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.llm import LLM_API_ASSIST, LLMContext, Tool

from .const import CONF_EMBEDDING_SEARCH_TOOL, DOMAIN
from .runtime import HomeAgentConfigEntry
from .tools.external_llm import tools_for_all_agents
from .tools.search_entities import SearchEntitiesTool


@callback
def async_get_tools(
    hass: HomeAssistant, llm_context: LLMContext, api_id: str
) -> LLMTools | None:
    """Return the search tool, and external LLMs that are offered to all agents.

    Only the Assist API gets them. The search tool reads exposed entities only; it is
    there if an embedding model has it switched on. Home Agent's own conversation
    agents add the external LLMs themselves (prompt/llm_api.py): an agent may have a
    tool for one of them already.
    """
    if api_id != LLM_API_ASSIST:
        return None
    tools: list[Tool] = []
    if _offers_search(hass):
        tools.append(SearchEntitiesTool())
    if llm_context.platform != DOMAIN:
        tools += tools_for_all_agents(hass)
    return LLMTools(tools=tools) if tools else None


@callback
def _offers_search(hass: HomeAssistant) -> bool:
    """Return whether an embedding model has the search tool switched on.

    One tool is enough: all indexes hold the same entities.
    """
    entries: list[HomeAgentConfigEntry] = hass.config_entries.async_loaded_entries(
        DOMAIN
    )
    return any(
        entry.subentries[subentry_id].data.get(CONF_EMBEDDING_SEARCH_TOOL, True)
        for entry in entries
        for subentry_id in entry.runtime_data.vector_db_managers
    )

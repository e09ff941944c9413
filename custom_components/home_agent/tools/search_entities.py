"""The tool by which a model searches the exposed entities."""

from typing import Any, Final, override

from homeassistant.core import HomeAssistant
from homeassistant.helpers import config_validation as cv, llm
import probatio as vol

from ..const import DOMAIN
from ..home.live_state import live_state
from ..search.entity_search import EntityFilter, EntityMatch, entity_search
from ..vector_db_manager import embedding_manager

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 50


class SearchEntitiesTool(llm.Tool):
    """A tool that searches the exposed entities by meaning and by words."""

    name = f"{DOMAIN}__search_entities"
    title = "Search entities"
    description = (
        "Find the devices, sensors and other entities of this home that fit a"
        " description, with their names, areas and present states. Use it when it"
        " is not clear from the context which entity is meant."
    )
    integration = DOMAIN
    annotations = llm.ToolAnnotations(
        read_only=True, destructive=False, idempotent=True, open_world=False
    )
    parameters = vol.Schema(
        {
            vol.Required(
                "query", description="What to look for, such as 'reading lamp'"
            ): vol.All(str, vol.Length(min=1)),
            vol.Optional("domain", description="Only these, such as 'light'"): vol.All(
                cv.ensure_list, [str]
            ),
            vol.Optional("area", description="Only in these areas or floors"): vol.All(
                cv.ensure_list, [str]
            ),
            vol.Optional(
                "device_class", description="Only these kinds, such as 'window'"
            ): vol.All(cv.ensure_list, [str]),
            vol.Optional(
                "state", description="Only those that are so now, such as 'on'"
            ): vol.All(cv.ensure_list, [str]),
            vol.Optional("limit", default=DEFAULT_LIMIT): vol.All(
                vol.Coerce(int), vol.Range(min=1, max=MAX_LIMIT)
            ),
        }
    )

    @override
    async def async_call(
        self,
        hass: HomeAssistant,
        tool_input: llm.ToolInput,
        llm_context: llm.LLMContext,
    ) -> llm.ToolResult:
        """Search, and return {"entities": [...]}, the best first; see for_model.

        Raise vol.Invalid for arguments that do not fit the parameters; Home
        Assistant's chat log turns it into a tool error for the model.
        """
        arguments = self.parameters(tool_input.tool_args)
        result = await entity_search(hass).async_search(
            arguments["query"],
            arguments["limit"],
            manager=embedding_manager(hass),
            where=EntityFilter.from_arguments(arguments),
        )
        return llm.ToolResult(
            data={"entities": [for_model(hass, match) for match in result.matches]}
        )


def for_model(hass: HomeAssistant, match: EntityMatch) -> dict[str, Any]:
    """Return a match as a model reads it: names, domain, areas, floor and state.

    names and areas are lists, since a model that gets them as one text gives the
    whole text to the next tool as one name. Absent parts are left out.
    """
    entity = match.entity
    result: dict[str, Any] = {"names": list(entity.names), "domain": entity.domain}
    if entity.areas:
        result["areas"] = list(entity.areas)
    if entity.floor:
        result["floor"] = entity.floor
    if state := live_state(hass, entity.entity_id):
        result["state"] = state
    return result

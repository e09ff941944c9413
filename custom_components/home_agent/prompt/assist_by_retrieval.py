"""The Assist API without its list of all entities, for retrieval."""

import logging
from typing import Any, Final, override

from homeassistant.components import homeassistant as ha
from homeassistant.components.llm import LLMTools
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import llm
from homeassistant.util.hass_dict import HassKey

from ..home.exposed_tracker import exposed_entity_tracker
from ..tools.search_entities import SearchEntitiesTool

_LOGGER = logging.getLogger(__name__)

# Where Home Assistant keeps the platforms that add tools to Assist (2026.11,
# components/llm/__init__.py).
_PLATFORMS: Final[HassKey[Any]] = HassKey("llm_platforms")
_PROMPT: Final = f"""\
Before each request of the user stands a list of the entities of this home that may \
be meant, each with its names, its domain, its area and its state at that moment. \
Some of them are not meant, and some that are meant may be missing: look for those, \
and for their present states, with {SearchEntitiesTool.name} before you say that \
there is no such thing. Give tools the names and areas as they are written there."""


class AssistByRetrieval(llm.API):
    """Assist with all its tools for control, but without the list of all entities.

    Home Assistant's own platform adds that list, and a tool that returns the states
    of all entities: too much for a large home. The search tool replaces both.
    All other platforms add to the prompt and the tools as they do for Assist.
    """

    def __init__(self, hass: HomeAssistant) -> None:
        """Replace Assist, under the same id."""
        super().__init__(hass=hass, id=llm.LLM_API_ASSIST, name="Assist by retrieval")

    @staticmethod
    def is_possible(hass: HomeAssistant) -> bool:
        """Return whether this Home Assistant builds Assist from such platforms."""
        return _PLATFORMS in hass.data

    @override
    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> llm.APIInstance:
        """Return the tools, with a prompt that names areas but no entities."""
        platforms = await self.hass.data[_PLATFORMS].async_get_platforms()
        tools: list[llm.Tool] = []
        prompts = [_PROMPT, _overview(self.hass)]
        for domain, platform in sorted(platforms.items()):
            if domain == ha.DOMAIN:
                continue
            if added := _added_by(domain, platform, self.hass, llm_context):
                tools += added.tools
                prompts.append(added.prompt or "")
        if all(tool.name != SearchEntitiesTool.name for tool in tools):
            tools.append(SearchEntitiesTool())
        return llm.APIInstance(
            api=self,
            api_prompt="\n".join(filter(None, prompts)),
            llm_context=llm_context,
            tools=tools,
            custom_serializer=llm.selector_serializer,
        )


@callback
def _added_by(
    domain: str, platform: Any, hass: HomeAssistant, llm_context: llm.LLMContext
) -> LLMTools | None:
    """Return what a platform adds to Assist, None if it fails."""
    try:
        added: LLMTools | None = platform.async_get_tools(
            hass, llm_context, llm.LLM_API_ASSIST
        )
    except Exception:
        _LOGGER.exception("Error getting tools from LLM platform %s", domain)
        return None
    return added


@callback
def _overview(hass: HomeAssistant) -> str:
    """Return the areas of the exposed entities, with the domains in each."""
    areas: dict[str, set[str]] = {}
    for entity in exposed_entity_tracker(hass).async_entities().values():
        if entity.areas:
            name = ", ".join(entity.areas)
            place = f"{name} (floor {entity.floor})" if entity.floor else name
            areas.setdefault(place, set()).add(entity.domain)
    if not areas:
        return ""
    lines = [f"- {place}: {', '.join(sorted(areas[place]))}" for place in sorted(areas)]
    return "\n".join(["Areas of this home, and the domains of their entities:", *lines])

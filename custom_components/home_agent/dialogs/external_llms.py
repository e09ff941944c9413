"""The models that a conversation agent may ask, as the options of its field."""

from typing import Any

from homeassistant.components import ai_task, conversation
from homeassistant.config_entries import ConfigEntry
from homeassistant.const import ATTR_SUPPORTED_FEATURES
from homeassistant.core import HomeAssistant, State, callback
from homeassistant.helpers import entity_registry as er
from homeassistant.helpers.selector import SelectOptionDict

from ..const import DOMAIN, SUBENTRY_EXTERNAL_LLM
from ..tools.external_entity import ENTITY_DOMAINS


@callback
def external_llm_options(
    hass: HomeAssistant, entry: ConfigEntry[Any], subentry_id: str | None
) -> list[SelectOptionDict]:
    """Return the external LLMs of an entry, then AI task and conversation entities.

    subentry_id is that of the agent, None if it is new: it cannot ask itself. An
    entity's value is its id in the registry, which stays if the user renames it.
    """
    registry = er.async_get(hass)
    own = registry.async_get_entity_id(conversation.DOMAIN, DOMAIN, subentry_id or "")
    options = [
        SelectOptionDict(value=external.subentry_id, label=external.title)
        for external in entry.get_subentries_of_type(SUBENTRY_EXTERNAL_LLM)
    ]
    states = hass.states.async_all(ENTITY_DOMAINS)
    for state in sorted(states, key=lambda state: state.entity_id):
        if state.entity_id == own or not _can_answer(state):
            continue
        registered = registry.async_get(state.entity_id)
        options.append(
            SelectOptionDict(
                value=registered.id if registered else state.entity_id,
                label=f"{state.name} ({state.entity_id})",
            )
        )
    return options


@callback
def _can_answer(state: State) -> bool:
    """Return whether an entity is a language model that answers in text.

    Home Assistant's own agent is none: it matches sentences.
    """
    if state.domain == conversation.DOMAIN:
        return state.entity_id != conversation.HOME_ASSISTANT_AGENT
    features = state.attributes.get(ATTR_SUPPORTED_FEATURES, 0)
    return bool(features & ai_task.AITaskEntityFeature.GENERATE_DATA)

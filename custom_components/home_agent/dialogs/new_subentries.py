"""The subentries that the first dialog makes, one for each model."""

from collections.abc import Mapping
from itertools import chain, count
from typing import Any, Final

from homeassistant.config_entries import ConfigSubentryDataWithId
from homeassistant.const import CONF_LLM_HASS_API
from homeassistant.core import HomeAssistant, callback
from homeassistant.util.ulid import ulid_now

from ..const import (
    CONF_EXTERNAL_LLMS,
    CONF_LLM_KEEP_ALIVE,
    CONF_LLM_MODEL,
    CONF_LLM_SERVER_KIND,
    CONF_LLM_THINK,
    DOMAIN,
    SUBENTRY_AI_TASK,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from ..model.role import Role, role_connection
from ..servers.base import ServerKind
from ..servers.factory import takes_keep_alive
from .fields import default_think, new_subentry_values

_AGENT_NAME: Final = "Home Agent"
# The optional roles of the first dialog, each in a section of the form.
OPTIONAL_ROLES: Final = {
    SUBENTRY_EXTERNAL_LLM: Role.EXTERNAL_LLM,
    SUBENTRY_EMBEDDING: Role.EMBEDDING,
}


@callback
def default_agent_name(hass: HomeAssistant) -> str:
    """Return a name for a new conversation agent that no other agent has."""
    return free_title(hass, SUBENTRY_CONVERSATION, _AGENT_NAME)


@callback
def free_title(hass: HomeAssistant, subentry_type: str, title: str) -> str:
    """Return title, with a number if a subentry of the same type has it already.

    Subentries of all entries count: the user tells agents apart by their names only.
    """
    taken = {
        subentry.title
        for entry in hass.config_entries.async_entries(DOMAIN)
        for subentry in entry.get_subentries_of_type(subentry_type)
    }
    numbered = (f"{title} {number}" for number in count(2))
    return next(name for name in chain((title,), numbered) if name not in taken)


def new_subentries(
    config: Mapping[str, Any], agent_name: str
) -> list[ConfigSubentryDataWithId]:
    """Return the subentries of a flat configuration.

    The conversation agent may ask the external LLM, if there is one. The AI task entity
    uses the model of the conversation agent with the same settings.
    """
    subentries = [
        _subentry(subentry_type, model, _role_data(config, role))
        for subentry_type, role in OPTIONAL_ROLES.items()
        if (model := config.get(role.key("model")))
    ]
    externals = [
        subentry["subentry_id"]
        for subentry in subentries
        if subentry["subentry_type"] == SUBENTRY_EXTERNAL_LLM
    ]
    agent = agent_data(config, externals)
    ai_task = {
        key: value
        for key, value in agent.items()
        if key.startswith("llm_") and key != CONF_LLM_HASS_API
    }
    return [
        *subentries,
        _subentry(SUBENTRY_CONVERSATION, agent_name, agent),
        _subentry(SUBENTRY_AI_TASK, f"{agent_name} AI Task", ai_task),
    ]


def agent_data(config: Mapping[str, Any], externals: list[str]) -> dict[str, Any]:
    """Return the data of a new conversation agent that may ask the external LLMs.

    It controls the home by Assist, unless config has other LLM APIs, or none.
    """
    agent = {
        **new_subentry_values(Role.LLM),
        CONF_LLM_THINK: default_think(
            Role.LLM, ServerKind(config[CONF_LLM_SERVER_KIND])
        ),
        CONF_LLM_MODEL: config[CONF_LLM_MODEL],
        CONF_EXTERNAL_LLMS: externals,
    }
    for key in (CONF_LLM_KEEP_ALIVE, CONF_LLM_HASS_API):
        if value := config.get(key):
            agent[key] = value
        elif key == CONF_LLM_KEEP_ALIVE or key in config:
            del agent[key]
    return agent


def _role_data(config: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """Return the data of a role, without a keep_alive that its server ignores."""
    data = {key: value for key, value in config.items() if key.startswith(f"{role}_")}
    kind = role_connection(config, role).kind
    if kind and not takes_keep_alive(kind):
        data.pop(role.key("keep_alive"), None)
    return data


def _subentry(
    subentry_type: str, title: str, data: Mapping[str, Any]
) -> ConfigSubentryDataWithId:
    """Return a new subentry, with its id, so that others can refer to it."""
    return ConfigSubentryDataWithId(
        subentry_id=ulid_now(),
        subentry_type=subentry_type,
        title=title,
        unique_id=None,
        data=data,
    )

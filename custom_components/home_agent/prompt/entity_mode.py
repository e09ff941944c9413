"""How an agent learns about the home: by a list of all entities, or by retrieval."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from homeassistant.core import HomeAssistant, callback

from ..const import (
    CONF_ENTITY_MODE,
    CONF_RETRIEVAL_THRESHOLD,
    DEFAULT_RETRIEVAL_THRESHOLD,
)
from ..home.exposed import is_exposed


class EntityMode(StrEnum):
    """What the prompt says of the entities.

    ASSIST: Home Assistant's list of all exposed entities is in the system prompt.
    RETRIEVAL: each question is sent with the entities that fit it best. AUTOMATIC:
    RETRIEVAL from a number of exposed entities on, else ASSIST.
    """

    AUTOMATIC = "automatic"
    ASSIST = "assist"
    RETRIEVAL = "retrieval"


@callback
def uses_retrieval(hass: HomeAssistant, config: Mapping[str, Any]) -> bool:
    """Return whether retrieval is used, by the settings and the size of the home."""
    mode = config.get(CONF_ENTITY_MODE, EntityMode.AUTOMATIC)
    if mode != EntityMode.AUTOMATIC:
        return bool(mode == EntityMode.RETRIEVAL)
    threshold = config.get(CONF_RETRIEVAL_THRESHOLD, DEFAULT_RETRIEVAL_THRESHOLD)
    states = hass.states.async_all()
    return sum(is_exposed(hass, state.entity_id) for state in states) >= int(threshold)

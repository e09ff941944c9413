"""How an agent gets to know the home: by a list of everything, or by retrieval."""

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
    """What stands in the prompt.

    ASSIST: Home Assistant's list of all exposed entities. RETRIEVAL: with each
    question those that fit it best. AUTOMATIC: the list in a small home.
    """

    AUTOMATIC = "automatic"
    ASSIST = "assist"
    RETRIEVAL = "retrieval"


@callback
def uses_retrieval(hass: HomeAssistant, config: Mapping[str, Any]) -> bool:
    """Return whether an agent gets its entities by retrieval now."""
    mode = config.get(CONF_ENTITY_MODE, EntityMode.AUTOMATIC)
    if mode != EntityMode.AUTOMATIC:
        return bool(mode == EntityMode.RETRIEVAL)
    threshold = config.get(CONF_RETRIEVAL_THRESHOLD, DEFAULT_RETRIEVAL_THRESHOLD)
    states = hass.states.async_all()
    return sum(is_exposed(hass, state.entity_id) for state in states) >= int(threshold)

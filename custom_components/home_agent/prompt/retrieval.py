"""The context sent with a question: the entities that match it, and the time."""

from collections.abc import Mapping
import logging
from typing import Any, Final

from homeassistant.components.conversation import ChatLog
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import device_registry as dr
from homeassistant.util import dt as dt_util

from ..const import (
    CONF_RETRIEVAL_LIMIT,
    CONF_SUBENTRY_ID,
    CONF_TELL_TIME,
    DEFAULT_RETRIEVAL_LIMIT,
)
from ..home.live_state import live_state
from ..search.entity_search import EntityMatch, entity_search
from ..vector_db_manager import embedding_manager
from .history import TurnContext
from .llm_api import AgentAPIInstance
from .messages import has_clock

_LOGGER = logging.getLogger(__name__)

# Maximum seconds that a turn waits for the embedding of its question. Loading the
# embedding model takes longer, but that begins while the user still speaks.
EMBEDDING_TIMEOUT: Final = 5.0


class Retrieval:
    """Makes the context of each question."""

    def __init__(self, hass: HomeAssistant, config: Mapping[str, Any]) -> None:
        """Read the settings from a flat configuration."""
        self._hass = hass
        self._subentry_id: str | None = config.get(CONF_SUBENTRY_ID)
        self._limit = int(config.get(CONF_RETRIEVAL_LIMIT, DEFAULT_RETRIEVAL_LIMIT))
        self._adds_time: bool = config.get(CONF_TELL_TIME, False)

    async def async_context(self, chat_log: ChatLog, question: str) -> TurnContext:
        """Return the context of a question.

        It contains the matching entities if the system prompt has no list of all
        entities. It contains the time if the user enabled that, or if Home Assistant
        wrote the time into the system prompt because no tool reports it.
        """
        context = TurnContext()
        api = chat_log.llm_api
        if isinstance(api, AgentAPIInstance) and api.uses_retrieval and question:
            result = await entity_search(self._hass).async_search(
                question,
                self._limit,
                manager=embedding_manager(self._hass, self._subentry_id),
                asking_area_id=_area_of_device(self._hass, api.llm_context.device_id),
                embedding_timeout=EMBEDDING_TIMEOUT,
            )
            context.entities = {
                match.entity.entity_id: _entity_text(self._hass, match)
                for match in result.matches
            }
            found = list(context.entities)
            chat_log.async_trace({"retrieved": found, "search_mode": str(result.mode)})
            _LOGGER.debug("Retrieved %d entities (%s)", len(found), result.mode)
        if self._adds_time or has_clock(chat_log.content):
            context.time = f"It is {dt_util.now():%A, %Y-%m-%d, %H:%M}."
        return context


@callback
def _area_of_device(hass: HomeAssistant, device_id: str | None) -> str | None:
    """Return the id of the area of a device, None if it has none."""
    device = dr.async_get(hass).async_get(device_id) if device_id else None
    return dr.async_get_effective_area_id(hass, device) if device else None


def _entity_text(hass: HomeAssistant, match: EntityMatch) -> str:
    """Return the lines that describe an entity: name, state, and one line per alias.

    Small models pass several names in one line to a tool as if they were one name.
    """
    entity = match.entity
    # An entity may have no name at all; tools accept its entity id instead.
    name, *aliases = entity.names or (entity.entity_id,)
    kind = ", ".join((entity.domain, *entity.areas[:1]))
    lines = [f"- {name} ({kind}): {live_state(hass, entity.entity_id)}"]
    return "\n".join([*lines, *(f"  alias: {alias}" for alias in aliases)])

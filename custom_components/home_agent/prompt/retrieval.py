"""What of the home is told to a model beside a question."""

from collections.abc import Mapping
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

# Seconds that a question waits to be embedded; a cold model takes longer, but it is
# loaded while the user speaks.
PATIENCE: Final = 5.0


class Retrieval:
    """Finds what a question is about."""

    def __init__(self, hass: HomeAssistant, config: Mapping[str, Any]) -> None:
        """Take how much to find from a flat configuration."""
        self._hass = hass
        self._subentry_id: str | None = config.get(CONF_SUBENTRY_ID)
        self._limit = int(config.get(CONF_RETRIEVAL_LIMIT, DEFAULT_RETRIEVAL_LIMIT))
        self._tells_time: bool = config.get(CONF_TELL_TIME, False)

    async def async_context(self, chat_log: ChatLog, question: str) -> TurnContext:
        """Return what to tell beside a question.

        Entities, where the conversation began without a list of all; the time,
        if that is wanted or no tool tells it.
        """
        context = TurnContext()
        api = chat_log.llm_api
        if isinstance(api, AgentAPIInstance) and api.retrieves and question:
            result = await entity_search(self._hass).async_search(
                question,
                self._limit,
                manager=embedding_manager(self._hass, self._subentry_id),
                asking_area_id=_area_of(self._hass, api.llm_context.device_id),
                embedding_timeout=PATIENCE,
            )
            context.entities = {
                match.entity.entity_id: _line(self._hass, match)
                for match in result.matches
            }
            # Who looks for a fault sees what was found, and whether by words only.
            found = list(context.entities)
            chat_log.async_trace({"retrieved": found, "search_mode": str(result.mode)})
        if self._tells_time or has_clock(chat_log.content):
            context.time = f"It is {dt_util.now():%A, %Y-%m-%d, %H:%M}."
        return context


@callback
def _area_of(hass: HomeAssistant, device_id: str | None) -> str | None:
    """Return the area of the device that heard a question."""
    device = dr.async_get(hass).async_get(device_id) if device_id else None
    return dr.async_get_effective_area_id(hass, device) if device else None


def _line(hass: HomeAssistant, match: EntityMatch) -> str:
    """Return an entity in a line: the names that tools take, and its state."""
    entity = match.entity
    names = " ".join(", ".join(entity.names).split())
    kind = ", ".join((entity.domain, *entity.areas[:1]))
    return f"- {names} ({kind}): {live_state(hass, entity.entity_id)}"

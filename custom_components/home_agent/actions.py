"""The actions that Home Agent offers to automations and scripts."""

from typing import Final, cast

from homeassistant.const import ATTR_CONFIG_ENTRY_ID
from homeassistant.core import (
    HomeAssistant,
    ServiceCall,
    ServiceResponse,
    SupportsResponse,
    callback,
)
from homeassistant.exceptions import ServiceValidationError
from homeassistant.helpers import config_validation as cv
from homeassistant.helpers.service import async_get_config_entry
import probatio as vol

from .const import DOMAIN
from .data import HomeAgentConfigEntry
from .tools.search_entities import DEFAULT_LIMIT, MAX_LIMIT
from .vector_db_manager import VectorDBManager

SERVICE_SEARCH_ENTITIES: Final = "search_entities"

_SEARCH_ENTITIES_SCHEMA: Final = vol.Schema(
    {
        vol.Required("query"): vol.All(cv.string, vol.Length(min=1)),
        vol.Optional("limit", default=DEFAULT_LIMIT): vol.All(
            vol.Coerce(int), vol.Range(min=1, max=MAX_LIMIT)
        ),
        vol.Optional(ATTR_CONFIG_ENTRY_ID): cv.string,
    }
)


@callback
def async_setup_actions(hass: HomeAssistant) -> None:
    """Register the actions; they are there even while no entry is loaded."""
    hass.services.async_register(
        DOMAIN,
        SERVICE_SEARCH_ENTITIES,
        _async_search_entities,
        schema=_SEARCH_ENTITIES_SCHEMA,
        supports_response=SupportsResponse.ONLY,
    )


async def _async_search_entities(call: ServiceCall) -> ServiceResponse:
    """Return {"entities": [...]}, the exposed entities that fit best, first.

    Raise ServiceValidationError where there is no index, a ModelServerError if
    the question cannot be embedded.
    """
    manager = _manager(call.hass, call.data.get(ATTR_CONFIG_ENTRY_ID))
    matches = await manager.async_search(call.data["query"], call.data["limit"])
    return {
        "entities": [
            {
                "entity_id": match.entity.entity_id,
                "names": list(match.entity.names),
                "areas": list(match.entity.areas),
                "floor": match.entity.floor,
                "score": round(match.score, 4),
            }
            for match in matches
        ]
    }


@callback
def _manager(hass: HomeAssistant, entry_id: str | None) -> VectorDBManager:
    """Return the index to search in: that of an entry, else the first."""
    entries: list[HomeAgentConfigEntry]
    if entry_id is None:
        entries = hass.config_entries.async_loaded_entries(DOMAIN)
    else:
        entries = [
            cast("HomeAgentConfigEntry", async_get_config_entry(hass, DOMAIN, entry_id))
        ]
    for entry in entries:
        for manager in entry.runtime_data.vector_db_managers.values():
            return manager
    raise ServiceValidationError(
        translation_domain=DOMAIN, translation_key="no_embedding_model"
    )

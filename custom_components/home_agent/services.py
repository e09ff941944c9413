"""The actions of Home Agent for automations and scripts."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
import itertools
import logging
from typing import Final, cast

from homeassistant.const import ATTR_CONFIG_ENTRY_ID, ATTR_DEVICE_ID
from homeassistant.core import (
    HomeAssistant,
    ServiceCall,
    ServiceResponse,
    SupportsResponse,
    callback,
)
from homeassistant.exceptions import HomeAssistantError, ServiceValidationError
from homeassistant.helpers import config_validation as cv, device_registry as dr
from homeassistant.helpers.service import async_get_config_entry
from homeassistant.util.json import JsonValueType
import probatio as vol

from .const import DOMAIN
from .device import server_identifier
from .keep_alive import InvalidKeepAlive, KeepAlive
from .residency.loader import ModelLoader
from .runtime import HomeAgentConfigEntry
from .search.entity_search import EntityFilter, entity_search
from .servers.base import ServerCapability
from .servers.errors import ModelServerError
from .tools.search_entities import DEFAULT_LIMIT, MAX_LIMIT
from .vector_db_manager import VectorDBManager, embedding_manager

_LOGGER = logging.getLogger(__name__)

SERVICE_LOAD_MODEL: Final = "load_model"
SERVICE_REINDEX: Final = "reindex"
SERVICE_SEARCH_ENTITIES: Final = "search_entities"
SERVICE_UNLOAD_MODEL: Final = "unload_model"
ATTR_KEEP_ALIVE: Final = "keep_alive"

_TEXTS: Final = vol.All(cv.ensure_list, [cv.string])
_SEARCH_ENTITIES_SCHEMA: Final = vol.Schema(
    {
        vol.Required("query"): vol.All(cv.string, vol.Length(min=1)),
        vol.Optional("limit", default=DEFAULT_LIMIT): vol.All(
            vol.Coerce(int), vol.Range(min=1, max=MAX_LIMIT)
        ),
        vol.Optional("domain"): _TEXTS,
        vol.Optional("area"): _TEXTS,
        vol.Optional("device_class"): _TEXTS,
        vol.Optional("state"): _TEXTS,
        vol.Optional("all_categories", default=False): cv.boolean,
        vol.Optional(ATTR_CONFIG_ENTRY_ID): cv.string,
    }
)
_REINDEX_SCHEMA: Final = vol.Schema({vol.Optional(ATTR_CONFIG_ENTRY_ID): cv.string})
_UNLOAD_MODEL_SCHEMA: Final = vol.Schema(
    {vol.Optional(ATTR_DEVICE_ID): vol.All(cv.ensure_list, [cv.string])}
)
_LOAD_MODEL_SCHEMA: Final = _UNLOAD_MODEL_SCHEMA.extend(
    {vol.Optional(ATTR_KEEP_ALIVE): vol.Any(str, int)}
)


@callback
def async_setup_actions(hass: HomeAssistant) -> None:
    """Register the actions, which exist even if no entry is loaded."""
    hass.services.async_register(
        DOMAIN,
        SERVICE_SEARCH_ENTITIES,
        _async_search_entities,
        schema=_SEARCH_ENTITIES_SCHEMA,
        supports_response=SupportsResponse.ONLY,
    )
    hass.services.async_register(
        DOMAIN,
        SERVICE_REINDEX,
        _async_reindex,
        schema=_REINDEX_SCHEMA,
        supports_response=SupportsResponse.OPTIONAL,
    )
    hass.services.async_register(
        DOMAIN,
        SERVICE_LOAD_MODEL,
        _async_load_model,
        schema=_LOAD_MODEL_SCHEMA,
        supports_response=SupportsResponse.OPTIONAL,
    )
    hass.services.async_register(
        DOMAIN,
        SERVICE_UNLOAD_MODEL,
        _async_unload_model,
        schema=_UNLOAD_MODEL_SCHEMA,
    )


async def _async_search_entities(call: ServiceCall) -> ServiceResponse:
    """Return {"entities": [...], "mode": ...}, the best exposed entities first.

    mode is the name of the ranking: it is "lexical" without an embedding model, or
    while its server is unavailable.
    """
    data = call.data
    result = await entity_search(call.hass).async_search(
        data["query"],
        data["limit"],
        manager=_manager(call.hass, data.get(ATTR_CONFIG_ENTRY_ID)),
        where=EntityFilter.from_arguments(data),
    )
    return {
        "entities": [
            {
                "entity_id": match.entity.entity_id,
                "names": list(match.entity.names),
                "areas": list(match.entity.areas),
                "floor": match.entity.floor,
                "score": round(match.score, 4),
            }
            for match in result.matches
        ],
        "mode": str(result.mode),
    }


async def _async_reindex(call: ServiceCall) -> ServiceResponse:
    """Embed all exposed entities again; return {"indexed": n, "removed": n}.

    Raise ServiceValidationError if there is no embedding model, a ModelServerError if
    its server fails, and a StoreError if the index cannot be used.
    """
    if (manager := _manager(call.hass, call.data.get(ATTR_CONFIG_ENTRY_ID))) is None:
        raise ServiceValidationError(
            translation_domain=DOMAIN, translation_key="no_embedding_model"
        )
    result = await manager.schedule.async_sync_now(embed_all=True)
    return {"indexed": result.indexed, "removed": result.removed}


@callback
def _manager(hass: HomeAssistant, entry_id: str | None) -> VectorDBManager | None:
    """Return the vector database of an entry, or the first one if entry_id is None.

    Raise ServiceValidationError if the entry has no embedding model; return None if
    no entry has one.
    """
    if entry_id is None:
        return embedding_manager(hass)
    entry = cast("HomeAgentConfigEntry", async_get_config_entry(hass, DOMAIN, entry_id))
    for manager in entry.runtime_data.vector_db_managers.values():
        return manager
    raise ServiceValidationError(
        translation_domain=DOMAIN, translation_key="no_embedding_model"
    )


async def _async_load_model(call: ServiceCall) -> ServiceResponse:
    """Load models one after the other; return {"models": [{"model", "seconds"}]}.

    Of models that are not named by their own device, those are skipped whose requests
    may cost money. Raise ServiceValidationError for an invalid keep_alive and for a
    device that is not one of Home Agent's, NotSupported for the device of a model whose
    requests may cost money, and another error if a server fails, as _async_for_each
    does.
    """
    keep_alive = _keep_alive(call)
    loaders = _loaders(call, ServerCapability.WARM)
    loaded: list[JsonValueType] = []

    async def load(loader: ModelLoader) -> None:
        if not loaders[loader]:
            # Only a server that is connected can say which models are the user's own.
            await loader.residency.coordinator.server()
            if not loader.residency.may_be_warmed:
                return
        seconds = await loader.async_load(keep_alive)
        model = loader.residency.role.model
        loaded.append({"model": model, "seconds": round(seconds, 3)})

    await _async_for_each(list(loaders), load)
    return {"models": loaded}


def _keep_alive(call: ServiceCall) -> KeepAlive | None:
    """Return the keep_alive of a call, None if it has none.

    Raise ServiceValidationError if it is invalid, or 0: that would unload the model
    which the call loads.
    """
    if (value := call.data.get(ATTR_KEEP_ALIVE)) is None:
        return None
    try:
        keep_alive = KeepAlive.parse(value)
    except InvalidKeepAlive as err:
        raise ServiceValidationError(
            translation_domain=DOMAIN,
            translation_key="invalid_keep_alive",
            translation_placeholders={"value": str(value)},
        ) from err
    if keep_alive.nanoseconds == 0:
        raise ServiceValidationError(
            translation_domain=DOMAIN, translation_key="load_for_nothing"
        )
    return keep_alive


async def _async_unload_model(call: ServiceCall) -> None:
    """Unload models.

    Raise ServiceValidationError for a device that is not one of Home Agent's, and
    another error if a server fails or cannot unload, as _async_for_each does.
    """
    loaders = _loaders(call, ServerCapability.UNLOAD)
    await _async_for_each(list(loaders), ModelLoader.async_unload)


async def _async_for_each(
    loaders: Sequence[ModelLoader], work: Callable[[ModelLoader], Awaitable[None]]
) -> None:
    """Do work for one loader after the other; one that fails stops no other.

    Raise the error itself if there is only one loader. If there are several, raise one
    HomeAssistantError that names the models for which the work has failed.
    """
    failed: list[str] = []
    for loader in loaders:
        try:
            await work(loader)
        except HomeAssistantError as err:
            if len(loaders) == 1:
                raise
            residency = loader.residency
            name = f"{residency.role.model} ({residency.coordinator.host})"
            reason = err.log_text if isinstance(err, ModelServerError) else err
            _LOGGER.warning("The action failed for %s: %s", name, reason)
            failed.append(name)
    if failed:
        raise HomeAssistantError(
            translation_domain=DOMAIN,
            translation_key="models_failed",
            translation_placeholders={"models": ", ".join(dict.fromkeys(failed))},
        )


@callback
def _loaders(
    call: ServiceCall, capability: ServerCapability
) -> dict[ModelLoader, bool]:
    """Return the loaders of the models that a call selects.

    The value is true if the call names the model by its own device. The device of a
    server stands for all its models, and a call without devices for all models, if
    their servers have the capability. Raise ServiceValidationError for another device.
    """
    entries: list[HomeAgentConfigEntry] = call.hass.config_entries.async_loaded_entries(
        DOMAIN
    )
    by_model: dict[str, ModelLoader] = {}
    by_server: defaultdict[str, list[ModelLoader]] = defaultdict(list)
    for entry in entries:
        for subentry_id, loader in entry.runtime_data.loaders.items():
            by_model[subentry_id] = loader
            coordinator = loader.residency.coordinator
            if capability in coordinator.capabilities:
                by_server[server_identifier(entry, coordinator)].append(loader)
    if (device_ids := call.data.get(ATTR_DEVICE_ID)) is None:
        return dict.fromkeys(itertools.chain(*by_server.values()), False)
    found: dict[ModelLoader, bool] = {}
    registry = dr.async_get(call.hass)
    for device_id in device_ids:
        device = registry.async_get(device_id)
        keys = {key for _, key in device.identifiers} if device else set()
        named = [by_model[key] for key in keys & by_model.keys()]
        on_server = [loader for key in keys for loader in by_server.get(key, ())]
        if not named and not on_server:
            raise ServiceValidationError(
                translation_domain=DOMAIN,
                translation_key="no_model_device",
                translation_placeholders={"device": device_id},
            )
        found = dict.fromkeys(on_server, False) | found | dict.fromkeys(named, True)
    return found

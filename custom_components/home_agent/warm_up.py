"""Load the models of a server ahead: at start, and when the server comes back."""

from collections.abc import Coroutine
import logging
from typing import Any, Final

from homeassistant.core import HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError

from .coordinator import ServerCoordinator
from .data import HomeAgentConfigEntry
from .issues import model_missing
from .residency import ModelResidency, async_started
from .role import Role
from .servers.errors import ModelNotFound, ModelServerError

_LOGGER = logging.getLogger(__name__)

# Who answers every question comes first.
_ORDER: Final = (Role.LLM, Role.EMBEDDING, Role.EXTERNAL_LLM)


@callback
def async_keep_warm(
    hass: HomeAssistant, entry: HomeAgentConfigEntry, coordinator: ServerCoordinator
) -> None:
    """Warm the models of a server up, now and whenever it was away."""
    residencies = sorted(
        (
            item
            for item in entry.runtime_data.residencies.values()
            if item.coordinator is coordinator
        ),
        key=lambda item: _ORDER.index(item.kind),
    )
    was_away = False

    async def first() -> None:
        await coordinator.async_refresh()
        for residency in residencies:
            residency.async_store_kind()
        await _async_warm_up(hass, residencies)

    def asked() -> None:
        nonlocal was_away
        is_away = not coordinator.last_update_success
        if was_away and not is_away:
            in_background(_async_warm_up(hass, residencies))
        was_away = is_away

    def in_background(work: Coroutine[Any, Any, None]) -> None:
        name = f"warm up {coordinator.name}"
        entry.async_create_background_task(hass, work, name)

    for residency in residencies:
        residency.async_start()
    entry.async_on_unload(coordinator.async_add_listener(asked))
    in_background(first())


async def _async_warm_up(
    hass: HomeAssistant, residencies: list[ModelResidency]
) -> None:
    """Load each model once, one after the other, and then evaluate the prompts."""
    warm = [item for item in residencies if await _async_load(hass, item)]
    await async_started(hass)
    for residency in warm:
        try:
            await residency.async_prime()
        except HomeAssistantError as err:
            _LOGGER.warning(
                "Cannot evaluate the prompt of %s ahead: %s", residency.role.model, err
            )


async def _async_load(hass: HomeAssistant, residency: ModelResidency) -> bool:
    """Load a model; return whether its prompt may be evaluated."""
    try:
        await residency.async_warm_up()
    except ModelNotFound as err:
        model_missing(hass, residency, err)
        _LOGGER.warning("%s does not have the model %s", err.host, residency.role.model)
    except ModelServerError as err:
        _LOGGER.warning("Cannot load %s: %s", residency.role.model, err.log_text)
    else:
        model_missing(hass, residency, None)
        return residency.is_warmed
    return False

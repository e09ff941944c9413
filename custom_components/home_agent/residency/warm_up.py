"""Load the models of a server ahead: at start, and when the server comes back."""

import asyncio
from collections.abc import Coroutine
import logging
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.start import async_at_started

from ..coordinator import ServerCoordinator
from ..model.role import Role
from ..servers.errors import ModelNotFound, ModelServerError
from .checks import model_missing
from .loader import ModelLoader

_LOGGER = logging.getLogger(__name__)

# Who answers every question comes first.
_ORDER: Final = (Role.LLM, Role.EMBEDDING, Role.EXTERNAL_LLM)


@callback
def async_keep_warm(
    hass: HomeAssistant, entry: ConfigEntry[Any], coordinator: ServerCoordinator
) -> None:
    """Warm the models of a server up, now and whenever it was away."""
    loaders = sorted(
        (
            loader
            for loader in entry.runtime_data.loaders.values()
            if loader.residency.coordinator is coordinator
        ),
        key=lambda loader: _ORDER.index(loader.residency.kind),
    )
    was_away = False

    async def first() -> None:
        await coordinator.async_refresh()
        for loader in loaders:
            loader.residency.async_store_kind()
        await _async_warm_up(hass, loaders)

    def asked() -> None:
        nonlocal was_away
        is_away = not coordinator.last_update_success
        if was_away and not is_away:
            in_background(_async_warm_up(hass, loaders))
        was_away = is_away

    def in_background(work: Coroutine[Any, Any, None]) -> None:
        name = f"warm up {coordinator.name}"
        entry.async_create_background_task(hass, work, name)

    for loader in loaders:
        loader.residency.async_start()
        loader.async_start()
    entry.async_on_unload(coordinator.async_add_listener(asked))
    in_background(first())


async def _async_warm_up(hass: HomeAssistant, loaders: list[ModelLoader]) -> None:
    """Load each model once, one after the other, and then evaluate the prompts."""
    warm = [loader for loader in loaders if await _async_load(hass, loader)]
    await async_started(hass)
    for loader in warm:
        try:
            await loader.async_prime()
        except HomeAssistantError as err:
            why = err.log_text if isinstance(err, ModelServerError) else err
            model = loader.residency.role.model
            _LOGGER.warning("Cannot evaluate the prompt of %s ahead: %s", model, why)


async def _async_load(hass: HomeAssistant, loader: ModelLoader) -> bool:
    """Load a model; return whether its prompt may be evaluated."""
    residency = loader.residency
    try:
        await loader.async_warm_up()
    except ModelNotFound as err:
        model_missing(hass, residency, err)
        _LOGGER.warning("%s does not have the model %s", err.host, residency.role.model)
    except ModelServerError as err:
        _LOGGER.warning("Cannot load %s: %s", residency.role.model, err.log_text)
    else:
        model_missing(hass, residency, None)
        return loader.is_warmed
    return False


async def async_started(hass: HomeAssistant) -> None:
    """Wait until Home Assistant has started: only then the prompt is whole."""
    started = asyncio.Event()

    async def at_started(_: HomeAssistant) -> None:
        started.set()

    cancel = async_at_started(hass, at_started)
    try:
        await started.wait()
    finally:
        cancel()

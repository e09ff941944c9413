"""Load and prime the models of a server: at start, and when the server comes back."""

import asyncio
from collections.abc import Coroutine, Iterable
import logging
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.start import async_at_started

from ..coordinator import ServerCoordinator
from ..model.role import Role
from ..servers.errors import ModelNotFound, ModelServerError
from .checks.model_missing import check_model_missing
from .loader import ModelLoader
from .primer import Primer

_LOGGER = logging.getLogger(__name__)

# The model that answers every question is loaded first.
_ORDER: Final = (Role.LLM, Role.EMBEDDING, Role.EXTERNAL_LLM)


class WarmUp:
    """Keeps the models of one server ready, as far as their settings say so."""

    def __init__(
        self,
        hass: HomeAssistant,
        entry: ConfigEntry[Any],
        coordinator: ServerCoordinator,
        loaders: Iterable[ModelLoader],
        primers: Iterable[Primer],
    ) -> None:
        """Take the loaders and primers of the models on the coordinator's server."""
        self._hass = hass
        self._entry = entry
        self._coordinator = coordinator
        self._loaders = sorted(
            loaders, key=lambda loader: _ORDER.index(loader.residency.role.role)
        )
        self._primers = list(primers)
        self._was_available = True

    @callback
    def async_start(self) -> None:
        """Warm up now, and whenever the server is available again."""
        for loader in self._loaders:
            loader.residency.async_start()
        for primer in self._primers:
            primer.async_start()
        self._entry.async_on_unload(
            self._coordinator.async_add_listener(self._server_changed)
        )
        self._in_background(self._async_first_warm_up())

    async def _async_first_warm_up(self) -> None:
        """Poll the server for the first time, then warm up."""
        await self._coordinator.async_refresh()
        for loader in self._loaders:
            loader.residency.async_store_server_kind()
        await self._async_warm_up()

    @callback
    def _server_changed(self) -> None:
        """Warm up if the server is available again."""
        is_available = self._coordinator.last_update_success
        if is_available and not self._was_available:
            _LOGGER.debug("%s is available again", self._coordinator.name)
            self._in_background(self._async_warm_up())
        self._was_available = is_available

    @callback
    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work until the entry is unloaded."""
        self._entry.async_create_background_task(
            self._hass, work, f"warm up {self._coordinator.name}"
        )

    async def _async_warm_up(self) -> None:
        """Load the models one after the other, then prime those that are loaded."""
        ready = [loader for loader in self._loaders if await self._async_load(loader)]
        await async_started(self._hass)
        for primer in self._primers:
            if primer.loader in ready:
                await self._async_prime(primer)

    async def _async_load(self, loader: ModelLoader) -> bool:
        """Load a model, log how long it took, and return whether to prime it."""
        residency = loader.residency
        model = residency.role.model
        if not residency.may_be_warmed:
            return False
        try:
            await loader.async_check_model()
            check_model_missing(residency, None)
            if not loader.keeps_ready:
                return False
            if residency.use.unload_requested:
                _LOGGER.debug("Not loading %s: the user has unloaded it", model)
                return False
            seconds = await loader.async_load_if_needed("it is kept ready")
        except ModelNotFound as err:
            check_model_missing(residency, err)
            _LOGGER.warning("%s does not have the model %s", err.host, model)
            return False
        except ModelServerError as err:
            _LOGGER.warning("Cannot load %s: %s", model, err.log_text)
            return False
        if seconds is not None:
            _LOGGER.info("Loaded %s in %.1f s", model, seconds)
        return True

    async def _async_prime(self, primer: Primer) -> None:
        """Prime a model; a failure is a warning."""
        try:
            await primer.async_prime()
        except HomeAssistantError as err:
            reason = err.log_text if isinstance(err, ModelServerError) else err
            model = primer.loader.residency.role.model
            _LOGGER.warning("Cannot prime %s with its prompt: %s", model, reason)


async def async_started(hass: HomeAssistant) -> None:
    """Wait until Home Assistant has started: only then all entities are there."""
    started = asyncio.Event()

    async def at_started(_: HomeAssistant) -> None:
        started.set()

    cancel = async_at_started(hass, at_started)
    try:
        await started.wait()
    finally:
        cancel()

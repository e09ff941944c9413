"""Load and prime the models of a server: at start, and after it was restarted."""

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
import logging
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.event import async_call_later
from homeassistant.helpers.start import async_at_started
from homeassistant.util import dt as dt_util

from ..const import (
    SUBENTRY_AI_TASK,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from ..coordinator import AWAY_INTERVAL, ServerCoordinator
from ..servers.base import ServerCapability
from ..servers.errors import ModelNotFound, ModelServerError
from .checks.model_missing import check_model_missing
from .checks.models_do_not_fit import (
    clear_models_do_not_fit,
    is_known_not_to_fit,
    report_models_do_not_fit,
)
from .loader import ModelLoader
from .primer import Primer
from .state import ModelResidency, ResidencyEvent

_LOGGER = logging.getLogger(__name__)

# The models that every question needs are loaded first.
_ORDER: Final = (
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
    SUBENTRY_AI_TASK,
)
# After a longer outage a server with an empty memory counts as restarted: more than
# one poll was lost.
LONG_OUTAGE: Final = 1.5 * AWAY_INTERVAL
# The least time between two warm-ups after a model was lost between two polls.
LOST_MODEL_PAUSE: Final = timedelta(hours=1)
# Wait after the first failed load. It doubles with each further failure, up to
# RETRY_LAST.
RETRY_FIRST: Final = timedelta(minutes=1)
RETRY_LAST: Final = timedelta(hours=1)


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
            loaders,
            key=lambda loader: _ORDER.index(loader.residency.subentry.subentry_type),
        )
        self._primers = {primer.loader: primer for primer in primers}
        self._lock = asyncio.Lock()
        # False before the first warm-up, and after one in which a load failed.
        self._has_warmed_up = False
        self._away_since: datetime | None = None
        self._loaded_before: list[ModelLoader] = []
        self._last_lost_model: datetime | None = None
        self._retry_in = RETRY_FIRST
        self._cancel_retry: CALLBACK_TYPE | None = None

    @property
    def _kept_ready(self) -> list[ModelLoader]:
        """Return the loaders of the models to keep ready, by priority.

        Without the model of an agent that the user has disabled.
        """
        return [
            loader
            for loader in self._loaders
            if loader.keeps_ready and self._is_enabled(loader)
        ]

    def _is_enabled(self, loader: ModelLoader) -> bool:
        """Return False if the model belongs to an agent that the user has disabled."""
        primer = self._primers.get(loader)
        return primer is None or primer.make_prefix is not None

    @callback
    def async_start(self) -> None:
        """Warm up now, and whenever the server has probably been restarted."""
        for loader in self._loaders:
            loader.residency.async_start()
            self._entry.async_on_unload(
                loader.residency.event_occurred.add(self._event_occurred)
            )
        for primer in self._primers.values():
            primer.async_start()
        self._entry.async_on_unload(
            self._coordinator.async_add_listener(self._server_changed)
        )
        self._entry.async_on_unload(self._async_stop)
        self._in_background(self._async_first_warm_up())

    async def _async_first_warm_up(self) -> None:
        """Poll the server for the first time, then warm up."""
        await self._coordinator.async_refresh()
        for loader in self._loaders:
            loader.residency.async_store_server_kind()
        if self._coordinator.last_update_success:
            await self._async_warm_up()

    @callback
    def _server_changed(self) -> None:
        """Handle the result of a poll."""
        if not self._coordinator.last_update_success:
            self._note_outage()
            return
        self._end_outage()
        self._clear_models_do_not_fit()

    @callback
    def _note_outage(self) -> None:
        """Note when an outage begins, and which models were in memory until then."""
        if self._away_since is None:
            self._away_since = dt_util.utcnow()
            self._loaded_before = self._in_memory()

    @callback
    def _end_outage(self) -> None:
        """Warm up if there was an outage, and the models need a warm-up after it."""
        if self._away_since is None:
            return
        if self._needs_warm_up(dt_util.utcnow() - self._away_since):
            _LOGGER.debug("%s is back: warming up", self._coordinator.name)
            for loader in self._loaders:
                loader.residency.use.primed_prefix = None
            self._in_background(self._async_warm_up())
        self._away_since = None

    @callback
    def _clear_models_do_not_fit(self) -> None:
        """Clear the notice if all models to keep ready are in memory together."""
        kept, in_memory = self._kept_ready, self._in_memory()
        if all(loader in in_memory for loader in kept):
            clear_models_do_not_fit(loader.residency for loader in kept)

    def _in_memory(self) -> list[ModelLoader]:
        """Return the loaders of the models in memory, as of the last good poll."""
        return [
            loader
            for loader in self._loaders
            if (model := loader.residency.loaded) and not model.is_loading
        ]

    def _needs_warm_up(self, away: timedelta) -> bool:
        """Return whether a server needs a warm-up after an outage.

        It does if the last one failed, if the server cannot unload models, or if its
        memory is empty after a long outage. After a short outage, only if a model
        disappeared before its keep_alive was over and not at Home Agent's request.
        """
        if not self._has_warmed_up:
            return True
        if ServerCapability.UNLOAD not in self._coordinator.capabilities:
            # Its models are always in memory, but its prompt cache may be lost.
            return True
        if self._in_memory():
            return False
        return away > LONG_OUTAGE or any(
            loader.residency.was_pushed_out for loader in self._loaded_before
        )

    @callback
    def _event_occurred(self, event: ResidencyEvent) -> None:
        """Warm up if the server was probably restarted between two polls.

        A restart unloads a model before its keep_alive is over, and no model is in
        memory afterwards. The same happens if another client unloads the only model in
        memory: therefore at most one such warm-up every LOST_MODEL_PAUSE.
        """
        is_lost = event is ResidencyEvent.EVICTED and not self._coordinator.data
        if not is_lost or self._away_since is not None:
            return
        now, last = dt_util.utcnow(), self._last_lost_model
        if last is not None and now - last < LOST_MODEL_PAUSE:
            return
        self._last_lost_model = now
        _LOGGER.debug("%s seems to have been restarted", self._coordinator.name)
        self._in_background(self._async_warm_up())

    @callback
    def _schedule_retry(self) -> None:
        """Schedule another warm-up after a failed load."""
        if self._cancel_retry is None:
            _LOGGER.debug("The next warm-up is in %s", self._retry_in)
            self._cancel_retry = async_call_later(
                self._hass, self._retry_in, self._async_retry
            )
            self._retry_in = min(2 * self._retry_in, RETRY_LAST)

    @callback
    def _async_retry(self, _now: datetime) -> None:
        """Warm up unless the server is away: its return causes a warm-up too."""
        self._cancel_retry = None
        if self._coordinator.last_update_success:
            self._in_background(self._async_warm_up())

    @callback
    def _async_stop(self) -> None:
        """Cancel the warm-up that is scheduled."""
        if self._cancel_retry is not None:
            self._cancel_retry()

    @callback
    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in a background task that ends when the entry is unloaded."""
        self._entry.async_create_background_task(
            self._hass, work, f"warm up {self._coordinator.name}"
        )

    async def _async_warm_up(self) -> None:
        """Load the models by priority, and prime each before the next is loaded.

        If a model does not fit in memory next to those before it, it is not kept
        loaded, and those after it are not loaded.
        """
        async with self._lock:
            self._has_warmed_up = True
            await self._async_load_by_priority()
            if self._has_warmed_up:
                self._retry_in = RETRY_FIRST

    async def _async_load_by_priority(self) -> None:
        """Load and prime models until all are loaded or one does not fit.

        The server is asked whether it has each of them in any case.
        """
        kept: list[ModelLoader] = []
        wanted = [loader.residency for loader in self._kept_ready]
        do_all_fit = True
        for loader in self._loaders:
            is_known = is_known_not_to_fit(loader.residency, wanted)
            if not await self._async_has_model(loader):
                continue
            if is_known or not do_all_fit:
                _LOGGER.debug(
                    "Not loading %s: it does not fit in memory with %s",
                    loader.residency.role.model,
                    ", ".join(other.residency.role.model for other in kept),
                )
                do_all_fit = False
                continue
            if not await self._async_load(loader):
                continue
            if lost := [other for other in kept if other.residency.was_pushed_out]:
                await self._async_make_room(loader, lost)
                do_all_fit = False
                continue
            await self._async_prime(loader)
            kept.append(loader)

    async def _async_make_room(
        self, loader: ModelLoader, lost: list[ModelLoader]
    ) -> None:
        """Unload a model that made the server unload others, and load those again."""
        residency = loader.residency
        _LOGGER.info(
            "%s does not fit in the memory of %s with %s",
            residency.role.model,
            self._coordinator.name,
            ", ".join(other.residency.role.model for other in lost),
        )
        wanted = [other.residency for other in self._kept_ready]
        report_models_do_not_fit(
            residency, kept=wanted[: wanted.index(residency)], wanted=wanted
        )
        with suppress(ModelServerError):
            await loader.async_make_room()
        for other in lost:
            if await self._async_load(other):
                await self._async_prime(other)

    async def _async_has_model(self, loader: ModelLoader) -> bool:
        """Return whether the model may be loaded, and the server has it.

        Raise or clear the repair for a missing model.
        """
        residency = loader.residency
        if not residency.may_be_warmed or not self._is_enabled(loader):
            return False
        try:
            await loader.async_check_model()
        except ModelServerError as err:
            self._note_failed_load(residency, err)
            return False
        check_model_missing(residency, None)
        return True

    async def _async_load(self, loader: ModelLoader) -> bool:
        """Load a model if it is to be kept ready; return whether it is now."""
        if not loader.keeps_ready:
            return False
        try:
            return await loader.async_keep_ready("Keep ready is on")
        except ModelServerError as err:
            self._note_failed_load(loader.residency, err)
            return False

    @callback
    def _note_failed_load(
        self, residency: ModelResidency, err: ModelServerError
    ) -> None:
        """Log why a load has failed; try again later unless the model is missing."""
        model = residency.role.model
        if isinstance(err, ModelNotFound):
            check_model_missing(residency, err)
            _LOGGER.warning("%s does not have the model %s", err.host, model)
            return
        _LOGGER.warning("Cannot load %s: %s", model, err.log_text)
        self._has_warmed_up = False
        self._schedule_retry()

    async def _async_prime(self, loader: ModelLoader) -> None:
        """Prime a model once Home Assistant has started; a failure is a warning."""
        if (primer := self._primers.get(loader)) is None:
            return
        await async_wait_until_started(self._hass)
        try:
            await primer.async_prime()
        except HomeAssistantError as err:
            reason = err.log_text if isinstance(err, ModelServerError) else err
            model = loader.residency.role.model
            _LOGGER.warning("Cannot prime %s with its prompt: %s", model, reason)


async def async_wait_until_started(hass: HomeAssistant) -> None:
    """Wait until Home Assistant has started: only then all entities are loaded."""
    started = asyncio.Event()

    async def at_started(_: HomeAssistant) -> None:
        started.set()

    cancel = async_at_started(hass, at_started)
    try:
        await started.wait()
    finally:
        cancel()

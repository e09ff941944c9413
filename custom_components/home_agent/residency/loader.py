"""Load a role's model ahead of the question, and let it read its prompt."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
import logging
from time import monotonic
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.debounce import Debouncer
from homeassistant.helpers.dispatcher import async_dispatcher_connect
from homeassistant.util import dt as dt_util

from ..home.exposed import async_track_exposed_entities
from ..keep_alive import KeepAlive
from ..model.role import Role
from ..model.use import SIGNAL_TURN, TurnFigures, announce_prompt, model_uses
from ..prompt.prefix import Prefix, prefix_key
from ..servers.base import ServerCapability
from ..servers.errors import ModelNotFound
from ..servers.messages import LoadRequest, text_length
from .state import FRESH, ModelResidency, ResidencyEvent

_LOGGER = logging.getLogger(__name__)

# A model that shall not stay is held so long for a question that is being spoken.
HOLD_FOR_A_QUESTION: Final = KeepAlive.parse("1m")
# Loaded, but it may leave before the question is asked.
LEAVES_SOON: Final = timedelta(seconds=30)
# Changes come in crowds: a renamed area changes the prompt once.
PREFIX_COOLDOWN: Final = 10.0
# A prompt that is another one each time (a clock in it) is not worth reading ahead.
MISSES: Final = 2


class ModelLoader:
    """Loads and unloads the model of a residency."""

    def __init__(
        self,
        hass: HomeAssistant,
        entry: ConfigEntry[Any],
        residency: ModelResidency,
    ) -> None:
        """Load for a role of an entry; prefix is that of an agent, if it is one."""
        self.hass = hass
        self.prefix: Prefix | None = None
        self._entry = entry
        self.residency = residency
        self._role = residency.role
        self._use = residency.use
        key = residency.kind.key("warm_up")
        self._is_wanted: bool = residency.subentry.data.get(key, True)
        self._preparing: asyncio.Task[None] | None = None
        self._expected: int | None = None
        self._misses = 0
        self._debouncer = Debouncer(
            hass,
            _LOGGER,
            cooldown=PREFIX_COOLDOWN,
            immediate=False,
            function=self._async_prime_again,
            background=True,
        )

    @callback
    def async_start(self) -> None:
        """Prime anew, whenever that is needed, until the entry is unloaded."""
        self._entry.async_on_unload(self._debouncer.async_shutdown)
        if self.prefix is None:
            return
        owner = self.residency.subentry.subentry_id
        for end in (
            async_track_exposed_entities(self.hass, self._prefix_may_have_changed),
            self.residency.happened.add(self._happened),
            async_dispatcher_connect(
                self.hass, SIGNAL_TURN.format(owner), self._turn_ended
            ),
        ):
            self._entry.async_on_unload(end)

    @property
    def is_warmed(self) -> bool:
        """Return whether the model is loaded ahead: one that leaves at once is not."""
        wanted = self._is_wanted and self.residency.keep_alive.nanoseconds != 0
        return wanted and ServerCapability.WARM in self.residency.capabilities

    async def async_load(self, keep_alive: KeepAlive | None = None) -> float:
        """Load the model, or hold one that is loaded for longer; return seconds.

        keep_alive takes the place of the configured one; a model that is loaded
        on request for none at all is held for a minute. Raise a ModelServerError
        if the server fails, NotSupported if it loads by its own rules.
        """
        async with self._use.lock:
            return await self._async_load(keep_alive or self._hold)

    async def async_unload(self) -> None:
        """Unload the model; raise a ModelServerError as for loading."""
        server = await self._role.server()
        await server.unload(self._role.model)
        self._use.is_leaving = True
        self._use.primed = None
        self.residency.coordinator.refresh_soon()

    async def async_pull(self) -> AsyncGenerator[float]:
        """Let the server get the model, and yield how much of it is there.

        Raise a ModelServerError if it fails, NotSupported if it cannot.
        """
        server = await self._role.server()
        async with aclosing(server.pull(self._role.model)) as parts:
            async for fraction in parts:
                yield fraction

    async def async_warm_up(self) -> None:
        """Load the model, unless it shall not stay; log how long it took.

        Raise ModelNotFound if the server does not have the model, and another
        ModelServerError if it fails otherwise.
        """
        if ServerCapability.WARM not in self.residency.capabilities:
            return
        server = await self._role.server()
        models = await server.list_models()
        if models and server.find(self._role.model, models) is None:
            raise ModelNotFound(server.http.host, f"there is no {self._role.model}")
        if not self.is_warmed:
            return
        async with self._use.lock:
            if not await self._async_is_loaded():
                seconds = await self._async_load(self._hold)
                _LOGGER.info("Loaded %s in %.1f s", self._role.model, seconds)

    async def async_prepare(self, language: str | None = None) -> None:
        """Make ready for a question that is being spoken.

        Costs one small request where all is warm. The work goes on if the caller
        does not wait for it: hanging up would end the load.
        """
        if self._preparing is None or self._preparing.done():
            self._preparing = self._entry.async_create_background_task(
                self.hass,
                self._async_prepare(language),
                f"prepare {self._role.model}",
            )
        await asyncio.shield(self._preparing)

    async def _async_prepare(self, language: str | None) -> None:
        """Load what has left, and evaluate its prompt."""
        if (
            ServerCapability.WARM not in self.residency.capabilities
            or not self._is_wanted
            or self._use.turns
        ):
            return
        try:
            async with self._use.lock:
                if not await self._async_is_loaded() or self._leaves_soon():
                    await self._async_load(self._hold)
            await self.async_prime(language)
        except HomeAssistantError as err:
            _LOGGER.debug("Cannot prepare %s: %s", self._role.model, err)

    async def async_prime(self, language: str | None = None) -> None:
        """Let the server evaluate the prompt's prefix, unless it has.

        Never while a turn runs: it evaluates its own.
        """
        if self.prefix is None:
            return
        messages, tools = await self.prefix.async_make(language)
        characters = text_length(messages, tools)
        tokens = self._use.history.tokens(characters)
        owner = self.residency.subentry.subentry_id
        announce_prompt(self.hass, owner, tokens, of_turn=False)
        self._expected = key = prefix_key(messages, tools)
        if self._misses >= MISSES:
            return
        async with self._use.lock:
            while self._use.turns:
                await self._use.idle.wait()
            if self._use.primed == key:
                return
            request = self._role.chat_request(messages, self._hold, tools)
            server = await self._role.server()
            started = monotonic()
            with self._use.request():
                # Not 0: on Ollama that is no limit.
                answer = await server.chat(replace(request, max_tokens=1))
            self._use.primed = key
            self._use.history.calibrate(
                characters,
                answer.stats.prompt_tokens,
                self._use.context_length or self._role.num_ctx,
            )
            _LOGGER.debug(
                "Evaluated the prompt of %s in %.1f s (%s tokens)",
                self._role.model,
                monotonic() - started,
                answer.stats.prompt_tokens,
            )

    @property
    def _hold(self) -> KeepAlive:
        """Return how long to hold a model that is loaded ahead."""
        stays = self.residency.keep_alive.nanoseconds != 0
        return self.residency.keep_alive if stays else HOLD_FOR_A_QUESTION

    def _leaves_soon(self) -> bool:
        """Return whether the model may leave while somebody speaks."""
        model = self.residency.loaded
        return (
            model is not None
            and model.expires_at is not None
            and model.expires_at - dt_util.utcnow() < LEAVES_SOON
        )

    async def _async_is_loaded(self) -> bool:
        """Return whether the model is in memory now.

        Where a server does not tell, one that was asked within its keep_alive is
        taken to be there.
        """
        if self.residency.coordinator.lists_models:
            # What we asked since then may have changed it.
            fresh = dt_util.utcnow() - FRESH
            since = max(fresh, self._use.last_ended or fresh)
            await self.residency.coordinator.async_refresh_if_before(since)
            if self.residency.coordinator.data is not None:
                return (
                    self.residency.loaded is not None
                    and not self.residency.loaded.is_loading
                )
        if self._use.last_ended is None:
            return False
        seconds = self._hold.seconds
        idle = dt_util.utcnow() - self._use.last_ended
        return seconds is None or idle.total_seconds() < seconds

    async def _async_load(self, keep_alive: KeepAlive) -> float:
        """Load the model and return the seconds it took; the lock is held."""
        server = await self._role.server()
        was_loaded = self.residency.loaded is not None
        started = monotonic()
        embedding = self.residency.kind is Role.EMBEDDING
        with self._use.request(loads=True):
            self.residency.coordinator.refresh_soon()
            await server.load(
                LoadRequest(
                    model=self._role.model,
                    keep_alive=keep_alive,
                    num_ctx=None if embedding else self._role.num_ctx,
                    embedding=embedding,
                )
            )
        seconds = monotonic() - started
        if self.residency.coordinator.lists_models:
            await self.residency.coordinator.async_refresh()
        if not was_loaded:
            self._use.primed = None
            self._use.history.record_load(seconds)
            model_uses(self.hass).save_soon()
        return seconds

    @callback
    def _happened(self, event: ResidencyEvent) -> None:
        """Prime a model that somebody else has loaded."""
        if event is ResidencyEvent.LOADED:
            self._prefix_may_have_changed()

    @callback
    def _turn_ended(self, figures: TurnFigures) -> None:
        """See whether a turn began with what was made ready for it."""
        if self._expected is not None:
            missed = figures.prefix != self._expected
            self._misses = self._misses + 1 if missed else 0
            self._expected = None

    @callback
    def _prefix_may_have_changed(self) -> None:
        """Prime soon, once for all changes until then."""
        if self.is_warmed and self.hass.is_running:
            self._debouncer.async_schedule_call()

    async def _async_prime_again(self) -> None:
        """Evaluate a changed prefix, if the model is there anyway."""
        try:
            if await self._async_is_loaded():
                await self.async_prime()
        except HomeAssistantError as err:
            _LOGGER.debug("Cannot prime %s: %s", self._role.model, err)

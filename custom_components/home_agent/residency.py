"""Whether a role's model is in memory: seen, loaded ahead, primed, unloaded."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
import logging
from time import monotonic
from typing import Final, Self, cast

from homeassistant.config_entries import ConfigSubentry
from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.debounce import Debouncer
from homeassistant.helpers.start import async_at_started
from homeassistant.util import dt as dt_util

from .coordinator import ServerCoordinator
from .data import HomeAgentConfigEntry, merged_config, subentry_role
from .exposed_entities import async_track_exposed_entities
from .keep_alive import InvalidKeepAlive, KeepAlive, default_keep_alive
from .model_use import announce_prompt, model_uses
from .priming import Prefix, prefix_key
from .prompt import text_length
from .role import ModelRole, Role
from .servers.base import LOAD_TIMEOUT, LoadedModel, Means
from .servers.errors import ModelNotFound
from .servers.factory import means_of

_LOGGER = logging.getLogger(__name__)

# A model that shall not stay is held so long for a question that is being spoken.
HOLD_FOR_A_QUESTION: Final = KeepAlive.parse("1m")
# What a server said so short a time ago is still true.
FRESH: Final = timedelta(seconds=2)
# Loaded, but it may leave before the question is asked.
LEAVES_SOON: Final = timedelta(seconds=30)
# Changes come in crowds: a renamed area changes the prompt once.
PREFIX_COOLDOWN: Final = 10.0


class ResidencyState(StrEnum):
    """Whether a model is in memory."""

    LOADED = "loaded"
    LOADING = "loading"
    BUSY = "busy"
    UNLOADED = "unloaded"
    UNKNOWN = "unknown"


class ResidencyEvent(StrEnum):
    """What happens to a model; evicted: it left before its time, and not by us."""

    LOADED = "loaded"
    UNLOADED = "unloaded"
    EVICTED = "evicted"


class ModelResidency:
    """The residency of one role's model."""

    def __init__(
        self,
        hass: HomeAssistant,
        entry: HomeAgentConfigEntry,
        subentry: ConfigSubentry,
        coordinator: ServerCoordinator,
    ) -> None:
        """Watch the model of a subentry on the coordinator's server."""
        self.hass = hass
        self.subentry = subentry
        self.coordinator = coordinator
        self.kind = subentry_role(subentry)
        config = merged_config(entry, subentry)
        # Nobody waits here, and a cold load is long.
        config = {**config, self.kind.key("idle_timeout"): LOAD_TIMEOUT}
        self.role = ModelRole(hass, config, self.kind)
        self.use = self.role.use
        key = self.kind.key("keep_alive")
        try:
            self.keep_alive = KeepAlive.for_role(key, config)
        except InvalidKeepAlive:
            # Each turn says so; the entities should be there all the same.
            self.keep_alive = KeepAlive.parse(default_keep_alive(key))
        self.warms_up: bool = config.get(self.kind.key("warm_up"), True)
        self.prefix: Prefix | None = None
        self._entry = entry
        self._was: LoadedModel | None = None
        self._was_seen = False
        self._told: tuple[ResidencyState, LoadedModel | None, bool] | None = None
        self._event_listeners: list[Callable[[ResidencyEvent], None]] = []
        self._state_listeners: list[CALLBACK_TYPE] = []
        self._preparing: asyncio.Task[None] | None = None
        self._debouncer = Debouncer(
            hass,
            _LOGGER,
            cooldown=PREFIX_COOLDOWN,
            immediate=False,
            function=self._async_prime_again,
            background=True,
        )

    @property
    def entry_id(self) -> str:
        """Return the id of the entry that the role belongs to."""
        return self._entry.entry_id

    @property
    def others(self) -> list[Self]:
        """Return the entry's other models on the same server."""
        residencies = cast("list[Self]", self._entry.runtime_data.residencies.values())
        return [
            other
            for other in residencies
            if other.coordinator is self.coordinator and other is not self
        ]

    @property
    def means(self) -> Means:
        """Return what can be done about the model."""
        kind = self.coordinator.connection.kind
        return Means.NONE if kind is None else means_of(kind)

    @property
    def is_warmed(self) -> bool:
        """Return whether the model is loaded ahead: one that leaves at once is not."""
        wanted = self.warms_up and self.keep_alive.nanoseconds != 0
        return wanted and Means.WARM in self.means

    @property
    def loaded(self) -> LoadedModel | None:
        """Return the model as it is in memory, None where it is not."""
        server = self.coordinator.known_server
        if server is None:
            return None
        for model in self.coordinator.data or ():
            if server.is_model(self.role.model, model):
                return model
        return None

    @property
    def state(self) -> ResidencyState:
        """Return whether the model is in memory."""
        if self.coordinator.data is None or not self.coordinator.last_update_success:
            return ResidencyState.UNKNOWN
        model = self.loaded
        if model is None:
            running = self.use.running
            return ResidencyState.LOADING if running else ResidencyState.UNLOADED
        if model.is_loading:
            return ResidencyState.LOADING
        if model.is_busy or self.use.running > self.use.loading:
            return ResidencyState.BUSY
        return ResidencyState.LOADED

    # --- The life of an entry ---

    @callback
    def async_start(self) -> None:
        """Watch, and load the model ahead if that is wanted."""
        entry = self._entry
        entry.async_on_unload(self.coordinator.async_add_listener(self._server_asked))
        entry.async_on_unload(self.use.listen(self._use_changed))
        entry.async_on_unload(self._debouncer.async_shutdown)
        if self.prefix is not None:
            entry.async_on_unload(
                async_track_exposed_entities(self.hass, self._prefix_may_have_changed)
            )

    @callback
    def async_store_kind(self) -> None:
        """Store the kind of the role's own server, once it is found out.

        That sets the entry up anew, with the entities that belong to the kind.
        """
        kind = self.coordinator.connection.kind
        key = self.kind.key("server_kind")
        if kind and self.subentry.data.get(self.kind.key("base_url")):
            data = self.subentry.data
            if data.get(key) is None:
                self.hass.config_entries.async_update_subentry(
                    self._entry, self.subentry, data={**data, key: str(kind)}
                )

    @callback
    def listen(self, listener: CALLBACK_TYPE) -> CALLBACK_TYPE:
        """Call listener when the state has changed; return the end of it."""
        self._state_listeners.append(listener)
        return lambda: self._state_listeners.remove(listener)

    @callback
    def listen_events(
        self, listener: Callable[[ResidencyEvent], None]
    ) -> CALLBACK_TYPE:
        """Call listener with what happens to the model; return the end of it."""
        self._event_listeners.append(listener)
        return lambda: self._event_listeners.remove(listener)

    # --- Steering ---

    async def async_load(self, keep_alive: KeepAlive | None = None) -> float:
        """Load the model, or hold one that is loaded for longer; return seconds.

        keep_alive takes the place of the configured one; a model that is loaded
        on request for none at all is held for a minute. Raise a ModelServerError
        if the server fails, NotSupported if it loads by its own rules.
        """
        async with self.use.lock:
            return await self._async_load(keep_alive or self._hold)

    async def async_unload(self) -> None:
        """Unload the model; raise a ModelServerError as for loading."""
        server = await self.role.server()
        await server.unload(self.role.model)
        self.use.is_leaving = True
        self.use.primed = None
        self.coordinator.hurry()

    async def async_warm_up(self) -> None:
        """Load the model, unless it shall not stay; log how long it took.

        Raise ModelNotFound if the server does not have the model, and another
        ModelServerError if it fails otherwise.
        """
        if Means.WARM not in self.means:
            return
        server = await self.role.server()
        names = {model.name for model in await server.list_models()}
        if names and not {self.role.model, f"{self.role.model}:latest"} & names:
            raise ModelNotFound(server.http.host, f"there is no {self.role.model}")
        if not self.is_warmed:
            return
        async with self.use.lock:
            if not await self._async_is_loaded():
                seconds = await self._async_load(self._hold)
                _LOGGER.info("Loaded %s in %.1f s", self.role.model, seconds)

    async def async_prepare(self, language: str | None = None) -> None:
        """Make ready for a question that is being spoken.

        Costs one small request where all is warm. The work goes on if the caller
        does not wait for it: hanging up would end the load.
        """
        if self._preparing is None or self._preparing.done():
            self._preparing = self._entry.async_create_background_task(
                self.hass,
                self._async_prepare(language),
                f"prepare {self.role.model}",
            )
        await asyncio.shield(self._preparing)

    async def _async_prepare(self, language: str | None) -> None:
        """Load what has left, and evaluate its prompt."""
        if Means.WARM not in self.means or not self.warms_up or self.use.turns:
            return
        try:
            async with self.use.lock:
                if not await self._async_is_loaded() or self._leaves_soon():
                    await self._async_load(self._hold)
            await self.async_prime(language)
        except HomeAssistantError as err:
            _LOGGER.debug("Cannot prepare %s: %s", self.role.model, err)

    async def async_prime(self, language: str | None = None) -> None:
        """Let the server evaluate the prompt's prefix, unless it has.

        Never while a turn runs: it evaluates its own.
        """
        if self.prefix is None:
            return
        messages, tools = await self.prefix.async_make(language)
        characters = text_length(messages, tools)
        announce_prompt(self.hass, self.subentry.subentry_id, characters)
        key = prefix_key(messages, tools)
        async with self.use.lock:
            await self.use.idle.wait()
            if self.use.primed == key:
                return
            request = self.role.chat_request(messages, self._hold, tools)
            server = await self.role.server()
            started = monotonic()
            with self.use.request():
                # Not 0: on Ollama that is no limit.
                answer = await server.chat(replace(request, max_tokens=1))
            self.use.primed = key
            self.use.history.calibrate(
                characters, answer.stats.prompt_tokens, self.role.num_ctx
            )
            _LOGGER.debug(
                "Evaluated the prompt of %s in %.1f s (%s tokens)",
                self.role.model,
                monotonic() - started,
                answer.stats.prompt_tokens,
            )

    # --- Inside ---

    @property
    def _hold(self) -> KeepAlive:
        """Return how long to hold a model that is loaded ahead."""
        stays = self.keep_alive.nanoseconds != 0
        return self.keep_alive if stays else HOLD_FOR_A_QUESTION

    def _leaves_soon(self) -> bool:
        """Return whether the model may leave while somebody speaks."""
        model = self.loaded
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
        if self.coordinator.tells:
            # What we asked since then may have changed it.
            fresh = dt_util.utcnow() - FRESH
            since = max(fresh, self.use.last_ended or fresh)
            await self.coordinator.async_refresh_if_before(since)
            if self.coordinator.data is not None:
                return self.loaded is not None and not self.loaded.is_loading
        if self.use.last_ended is None:
            return False
        seconds = self._hold.seconds
        idle = dt_util.utcnow() - self.use.last_ended
        return seconds is None or idle.total_seconds() < seconds

    async def _async_load(self, keep_alive: KeepAlive) -> float:
        """Load the model and return the seconds it took; the lock is held."""
        server = await self.role.server()
        was_loaded = self.loaded is not None
        started = monotonic()
        embedding = self.kind is Role.EMBEDDING
        with self.use.request(loads=True):
            self.coordinator.hurry()
            await server.load(
                self.role.model,
                keep_alive,
                num_ctx=None if embedding else self.role.num_ctx,
                embedding=embedding,
            )
        seconds = monotonic() - started
        if self.coordinator.tells:
            await self.coordinator.async_refresh()
        if not was_loaded:
            self.use.primed = None
            self.use.history.record_load(seconds)
            model_uses(self.hass).save_soon()
        return seconds

    @callback
    def _server_asked(self) -> None:
        """Tell what became of the model since the last poll."""
        coordinator = self.coordinator
        if coordinator.last_update_success and coordinator.data is not None:
            self._compare(self.loaded)
        self._tell()

    @callback
    def _compare(self, model: LoadedModel | None) -> None:
        """Tell the event that lies between two polls."""
        if model is not None and model.is_loading:
            model = None
        before, self._was = self._was, model
        is_first, self._was_seen = not self._was_seen, True
        if before is None and model is not None:
            self.use.is_leaving = False
            if not is_first:
                self._happened(ResidencyEvent.LOADED)
            # Loaded by somebody else, or by a question of another prompt.
            self._prefix_may_have_changed()
        elif before is not None and model is None:
            self.use.primed = None
            event = ResidencyEvent.EVICTED
            if self.use.is_leaving or self._was_due(before):
                event = ResidencyEvent.UNLOADED
            self._happened(event)

    def _was_due(self, before: LoadedModel) -> bool:
        """Return whether a model had to leave by now, as far as can be known."""
        if self.keep_alive.nanoseconds == 0 or Means.KEEP_ALIVE not in self.means:
            return True
        if before.expires_at is not None:
            return before.expires_at <= dt_util.utcnow() + FRESH
        if before.forever or self.keep_alive.seconds is None:
            return False
        # Where the server tells no time, our own last use does.
        ended = self.use.last_ended
        held = timedelta(seconds=self.keep_alive.seconds)
        return ended is None or ended + held <= dt_util.utcnow() + FRESH

    @callback
    def _happened(self, event: ResidencyEvent) -> None:
        """Tell an event."""
        for listener in list(self._event_listeners):
            listener(event)

    @callback
    def _use_changed(self) -> None:
        """Look what the server made of a request that began or ended."""
        if self.use.running or not self.coordinator.tells:
            self._tell()
        else:
            # What it was before the request is true no more.
            self.coordinator.hurry()

    @callback
    def _tell(self) -> None:
        """Tell that the state has changed, if it has."""
        told = (self.state, self.loaded, self.coordinator.last_update_success)
        if told == self._told:
            return
        self._told = told
        for listener in list(self._state_listeners):
            listener()

    @callback
    def _prefix_may_have_changed(self) -> None:
        """Prime soon, once for all changes until then."""
        if self.prefix is not None and self.warms_up and self.hass.is_running:
            self._debouncer.async_schedule_call()

    async def _async_prime_again(self) -> None:
        """Evaluate a changed prefix, if the model is there anyway."""
        try:
            if await self._async_is_loaded():
                await self.async_prime()
        except HomeAssistantError as err:
            _LOGGER.debug("Cannot prime %s: %s", self.role.model, err)


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

"""Whether a role's model is in memory, and what happens to it."""

from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Self, cast

from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.core import HomeAssistant, callback
from homeassistant.util import dt as dt_util

from ..coordinator import ServerCoordinator
from ..keep_alive import InvalidKeepAlive, KeepAlive, default_keep_alive
from ..model.listeners import Listeners
from ..model.role import ModelRole, merged_config, subentry_role
from ..servers.base import LOAD_TIMEOUT, LoadedModel, ServerCapability
from ..servers.factory import server_capabilities

# What a server said so short a time ago is still true.
FRESH: Final = timedelta(seconds=2)


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
        entry: ConfigEntry[Any],
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
        coordinator.model_names.add(self.role.model)
        key = self.kind.key("keep_alive")
        try:
            self.keep_alive = KeepAlive.for_role(key, config)
        except InvalidKeepAlive:
            # Each turn says so; the entities should be there all the same.
            self.keep_alive = KeepAlive.parse(default_keep_alive(key))
        self._entry = entry
        self._was: LoadedModel | None = None
        self._was_seen = False
        self._told: tuple[ResidencyState, LoadedModel | None, bool] | None = None
        # Told when the state has changed, and what happens to the model.
        self.state_changed = Listeners[()]()
        self.happened = Listeners[ResidencyEvent]()

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
    def capabilities(self) -> ServerCapability:
        """Return what can be done about the model."""
        kind = self.coordinator.connection.kind
        return ServerCapability.NONE if kind is None else server_capabilities(kind)

    @property
    def loaded(self) -> LoadedModel | None:
        """Return the model as it is in memory, None where it is not."""
        for model in self.coordinator.data or ():
            if self.role.model in model.names:
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

    @callback
    def async_start(self) -> None:
        """Watch the server and our own requests until the entry is unloaded."""
        entry = self._entry
        entry.async_on_unload(self.coordinator.async_add_listener(self._server_asked))
        entry.async_on_unload(self.use.changed.add(self._use_changed))

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
    def _server_asked(self) -> None:
        """Tell what became of the model since the last poll."""
        coordinator = self.coordinator
        if coordinator.last_update_success and coordinator.data is not None:
            self._compare(self.loaded)
            if self.loaded and self.loaded.context_length:
                self.use.context_length = self.loaded.context_length
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
                self.happened.notify(ResidencyEvent.LOADED)
        elif before is not None and model is None:
            self.use.primed = None
            event = ResidencyEvent.EVICTED
            if self.use.is_leaving or self._was_due(before):
                event = ResidencyEvent.UNLOADED
            self.happened.notify(event)

    def _was_due(self, before: LoadedModel) -> bool:
        """Return whether a model had to leave by now, as far as can be known."""
        if (
            self.keep_alive.nanoseconds == 0
            or ServerCapability.KEEP_ALIVE not in self.capabilities
        ):
            return True
        if before.expires_at is not None:
            return before.expires_at <= dt_util.utcnow() + FRESH
        if before.is_indefinite or self.keep_alive.seconds is None:
            return False
        # Where the server tells no time, our own last use does.
        ended = self.use.last_ended
        held = timedelta(seconds=self.keep_alive.seconds)
        return ended is None or ended + held <= dt_util.utcnow() + FRESH

    @callback
    def _use_changed(self) -> None:
        """Look what the server made of a request that began or ended."""
        if self.use.running or not self.coordinator.lists_models:
            self._tell()
        else:
            # What it was before the request is true no more.
            self.coordinator.refresh_soon()

    @callback
    def _tell(self) -> None:
        """Tell that the state has changed, if it has."""
        told = (self.state, self.loaded, self.coordinator.last_update_success)
        if told != self._told:
            self._told = told
            self.state_changed.notify()

"""The state of a role's model on its server, and when that changes."""

from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.core import HomeAssistant, callback
from homeassistant.util import dt as dt_util

from ..coordinator import ServerCoordinator
from ..keep_alive import InvalidKeepAlive, KeepAlive, default_keep_alive
from ..listeners import Listeners
from ..model.role import ModelRole, Role, merged_config, subentry_role
from ..model.shared_model import ModelUser
from ..model.use import model_uses
from ..servers.base import LOAD_TIMEOUT, LoadedModel, ServerCapability
from ..servers.errors import ModelServerError, is_away

# A poll that is at most this old is still used, and expiry times differ by as much.
RECENT: Final = timedelta(seconds=2)


class ResidencyState(StrEnum):
    """The state of a model on its server.

    A model that answers is LOADED: it does so many times a day, and each change of a
    state is shown and stored.
    """

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    UNKNOWN = "unknown"


class ResidencyEvent(StrEnum):
    """A change of a model's state.

    EVICTED: the server unloaded it before its keep_alive was over, and not by a
    request of Home Agent.
    """

    LOADED = "loaded"
    UNLOADED = "unloaded"
    EVICTED = "evicted"


class ModelResidency:
    """The model of one role in the memory of its server.

    changed is notified when the state may have changed, event_occurred when the model
    was loaded or unloaded between two polls. was_pushed_out says that the model is not
    loaded any more, although its keep_alive was not over and Home Agent did not unload
    it; on a server without keep_alive, that Home Agent did not unload it.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        entry: ConfigEntry[Any],
        subentry: ConfigSubentry,
        coordinator: ServerCoordinator,
    ) -> None:
        """Describe the model of a subentry on the server of the coordinator."""
        self.hass = hass
        self.entry = entry
        self.subentry = subentry
        self.coordinator = coordinator
        kind = subentry_role(subentry)
        config = merged_config(entry, subentry)
        # Loading takes minutes, so the role's own timeout does not apply to it.
        config = {**config, kind.key("idle_timeout"): LOAD_TIMEOUT}
        self.role = ModelRole(hass, config, kind)
        self.use = self.role.use
        coordinator.model_names.add(self.role.model)
        key = kind.key("keep_alive")
        try:
            self.keep_alive = KeepAlive.for_role(key, config)
        except InvalidKeepAlive:
            # Each turn raises this error; the entities use the default meanwhile.
            self.keep_alive = KeepAlive.parse(default_keep_alive(key))
        self._previous: LoadedModel | None = None
        self._was_polled = False
        self.was_pushed_out = False
        self.changed = Listeners[()]()
        self.event_occurred = Listeners[ResidencyEvent]()

    @property
    def capabilities(self) -> ServerCapability:
        """Return what the server can do about the model in its memory."""
        return self.coordinator.capabilities

    @property
    def may_be_warmed(self) -> bool:
        """Return whether the model may be loaded before a request needs it."""
        return self.coordinator.may_be_warmed(self.role.model)

    @property
    def loaded(self) -> LoadedModel | None:
        """Return the model as the server reports it, None if it does not.

        A model that is still loading is reported too.
        """
        for model in self.coordinator.data or ():
            if self.role.model in model.names:
                return model
        return None

    @property
    def state(self) -> ResidencyState:
        """Return the state of the model."""
        if self.coordinator.data is None or not self.coordinator.last_update_success:
            return ResidencyState.UNKNOWN
        model = self.loaded
        if model is None:
            is_running = self.use.running_requests
            return ResidencyState.LOADING if is_running else ResidencyState.UNLOADED
        return ResidencyState.LOADING if model.is_loading else ResidencyState.LOADED

    @callback
    def async_start(self) -> None:
        """Follow polls and requests until the entry is unloaded."""
        for stop in (
            self.coordinator.async_add_listener(self._server_changed),
            self.use.requests_changed.add(self._requests_changed),
            self.use.answer_began.add(self._answer_began),
            self.use.request_failed.add(self._request_failed),
        ):
            self.entry.async_on_unload(stop)

    @callback
    def async_add_user(self) -> None:
        """Count the role as a user of its model until the entry is unloaded."""
        is_embedding = self.role.role is Role.EMBEDDING
        user = ModelUser(
            self.subentry.subentry_id,
            self.subentry.title,
            self.keep_alive,
            None if is_embedding else self.role.num_ctx,
        )
        self.entry.async_on_unload(self.use.add_user(user))

    @property
    def keep_alive_in_effect(self) -> KeepAlive | None:
        """Return the keep_alive that was sent last, None if none was sent yet."""
        return self.use.shared.sent

    @property
    def _expected_keep_alive(self) -> KeepAlive:
        """Return the keep_alive that was sent last, else the one that will be sent."""
        return self.use.shared.sent or self.use.shared.to_send(
            self.keep_alive, self.subentry.subentry_id
        )

    @property
    def time_left(self) -> timedelta | None:
        """Return the time until the server unloads the model, by the last poll.

        It is timedelta.max if the server never does, None if it does not report that.
        """
        model = self.loaded
        if model is None or (model.expires_at is None and not model.is_indefinite):
            return None
        if model.expires_at is None:
            return timedelta.max
        return model.expires_at - dt_util.utcnow()

    @property
    def kept_by(self) -> list[str]:
        """Return the titles of the roles that have the keep_alive that is in effect.

        None has it if an action or the preparation of a question set another value.
        """
        if (sent := self.keep_alive_in_effect) is None:
            return []
        return [
            user.title
            for user in self.use.users
            if user.keep_alive.length == sent.length
        ]

    @callback
    def async_store_server_kind(self) -> None:
        """Store the kind of the role's own server once it is known.

        That reloads the entry, with the entities that fit the kind.
        """
        kind = self.coordinator.connection.kind
        role = self.role.role
        key = role.key("server_kind")
        if kind and self.subentry.data.get(role.key("base_url")):
            data = self.subentry.data
            if data.get(key) is None:
                self.hass.config_entries.async_update_subentry(
                    self.entry, self.subentry, data={**data, key: str(kind)}
                )

    @callback
    def _server_changed(self) -> None:
        """Compare what the server reports with the previous poll."""
        coordinator = self.coordinator
        if coordinator.last_update_success and coordinator.data is not None:
            for model in coordinator.data:
                model_uses(self.hass).async_compare_name(
                    coordinator.connection.url,
                    self.use,
                    model.name,
                    is_same=self.role.model in model.names,
                )
            loaded = self.loaded
            self._compare(loaded)
            if loaded is not None and loaded.context_length:
                self.use.context_length = loaded.context_length
        self.changed.notify()

    @callback
    def _compare(self, model: LoadedModel | None) -> None:
        """Notify of what has happened to the model between two polls."""
        if model is not None and model.is_loading:
            model = None
        previous, self._previous = self._previous, model
        is_first, self._was_polled = not self._was_polled, True
        if previous is None and model is not None:
            if not (is_first and self.use.unload_requested):
                # After a reload of the entry, an unload may still be on its way.
                self.use.unload_requested = self.use.unloaded_by_user = False
            self.was_pushed_out = False
            if not is_first:
                self.event_occurred.notify(ResidencyEvent.LOADED)
        elif previous is not None and model is None:
            self.use.primed_prefix = None
            was_due = self.use.unload_requested or self._was_due(previous)
            follows_keep_alive = ServerCapability.KEEP_ALIVE in self.capabilities
            self.was_pushed_out = not (
                was_due if follows_keep_alive else self.use.unload_requested
            )
            self.event_occurred.notify(
                ResidencyEvent.UNLOADED if was_due else ResidencyEvent.EVICTED
            )

    def _was_due(self, model: LoadedModel) -> bool:
        """Return whether an unload was expected.

        Its keep_alive was over, or the server does not follow keep_alive.
        """
        keep_alive = self._expected_keep_alive
        if (
            keep_alive.nanoseconds == 0
            or ServerCapability.KEEP_ALIVE not in self.capabilities
        ):
            return True
        if model.expires_at is not None:
            return model.expires_at <= dt_util.utcnow() + RECENT
        if model.is_indefinite or keep_alive.seconds is None:
            return False
        # The server does not report the time: estimate it from the last request.
        ended = self.use.last_ended
        stay = timedelta(seconds=keep_alive.seconds)
        return ended is None or ended + stay <= dt_util.utcnow() + RECENT

    @callback
    def _answer_began(self) -> None:
        """Poll the server if the model was not in memory: now it is.

        An answer may take minutes, and the next poll follows only when it has ended.
        """
        if self.loaded is None:
            self.coordinator.async_poll_soon()

    @callback
    def _request_failed(self, err: ModelServerError) -> None:
        """Find out whether the server is away, if no poll does that."""
        if is_away(err) and not self.coordinator.lists_models:
            self.entry.async_create_background_task(
                self.hass, self.coordinator.async_refresh(), "contact the server"
            )

    @callback
    def _requests_changed(self) -> None:
        """Notify that a request has started, or poll the server if all have ended."""
        if self.use.running_requests or not self.coordinator.lists_models:
            self.changed.notify()
        else:
            self.coordinator.async_request_ended()

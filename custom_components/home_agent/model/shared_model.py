"""What holds for one model on one server, by all names that its roles use."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from homeassistant.core import callback

from ..keep_alive import KeepAlive
from ..listeners import Listeners
from ..servers.base import ModelServer

# Seconds by which a reported time may be longer: clocks differ.
_TOLERANCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class ModelUser:
    """The settings of one role, of a loaded entry, that uses a model.

    keep_alive is the one that is configured for the role. num_ctx is the context size
    that it asks for, in tokens; None for an embedding model, whose requests have no
    num_ctx.
    """

    subentry_id: str
    title: str
    keep_alive: KeepAlive
    num_ctx: int | None


@dataclass(slots=True, eq=False)
class UsersOfName:
    """The roles that use a model by one of its names.

    changed is notified when a role begins or ends to use the model, by any name.
    """

    roles: list[ModelUser] = field(default_factory=list)
    changed: Listeners[()] = field(default_factory=Listeners[()])


@dataclass(slots=True, eq=False)
class SharedModel:
    """What all names of one model on one server share: its users and its keep_alive.

    A server applies the keep_alive of the last request of any client. So each request
    sends the longest keep_alive of all roles that use the model: a role with a short
    one then does not unload the model while another role still needs it.

    names are the users by each name of the model. sent is the keep_alive of the last
    request that has reached the server, None if there was none. settled is the value
    of longest() for which nothing is to be sent, None if it is not known what holds on
    the server. unload_requested says that Home Agent itself asked the server to unload
    the model; unloaded_by_user that the user wanted that. prompt_tokens are those of
    the last prompt of each subentry, counted by the server. kept_on is the server on
    which the model has keep_alive 0 and stays loaded until the running turns have
    ended, None if it does not.
    """

    names: list[UsersOfName]
    sent: KeepAlive | None = None
    settled: KeepAlive | None = None
    unload_requested: bool = False
    unloaded_by_user: bool = False
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    kept_on: ModelServer | None = None

    @property
    def users(self) -> list[ModelUser]:
        """Return the roles of all loaded config entries that use the model."""
        return [role for name in self.names for role in name.roles]

    @callback
    def notify_users_changed(self) -> None:
        """Notify the listeners of all names that a role was added or removed."""
        for name in self.names:
            name.changed.notify()

    def longest(self) -> KeepAlive | None:
        """Return the longest keep_alive of the users, None if there is no user."""
        values = (user.keep_alive for user in self.users)
        return max(values, key=lambda value: value.length, default=None)

    def to_send(self, own: KeepAlive, subentry_id: str | None = None) -> KeepAlive:
        """Return the keep_alive for a request of a role.

        own is the keep_alive of the role of the subentry, or what replaces it for one
        request. subentry_id is left out of the comparison.
        """
        others = (
            user.keep_alive for user in self.users if user.subentry_id != subentry_id
        )
        return max((own, *others), key=lambda value: value.length)

    @callback
    def has_changed(self) -> bool:
        """Return whether the roles want another keep_alive than the server has."""
        wanted, settled = self.longest(), self.settled
        return (
            wanted is not None
            and settled is not None
            and settled.nanoseconds != wanted.nanoseconds
        )

    @callback
    def note_sent(
        self, keep_alive: KeepAlive, settled: KeepAlive | None, *, is_answered: bool
    ) -> None:
        """Store the keep_alive of a request that has ended.

        settled is the value of longest() that needs no request after this one. If the
        request was not answered, it is not known whether the server has applied it.
        """
        self.sent = keep_alive
        if is_answered:
            self.settled = settled
        else:
            self.note_unanswered(settled)

    @callback
    def note_unanswered(self, settled: KeepAlive | None) -> None:
        """Store that the server may have applied the keep_alive of a failed request.

        A change that was to be applied before still is.
        """
        wanted = self.longest()
        if settled is None or wanted is None or self.has_changed():
            return
        if settled.nanoseconds != wanted.nanoseconds:
            self.settled = None

    @callback
    def note_reported(self, left: timedelta | None) -> None:
        """Settle what holds on the server, if it is not known, by what it reports.

        left is the time until the server unloads the model, timedelta.max if it never
        does, None if the server does not report it. A longer time than any role wants
        comes from a setting that has changed, or from another client; a shorter one
        may be what is left of the right time.
        """
        wanted = self.longest()
        if self.settled is not None or wanted is None:
            return
        self.settled = wanted
        if left is not None and left.total_seconds() > wanted.length + _TOLERANCE:
            is_indefinite = left == timedelta.max
            self.settled = KeepAlive.parse(
                "-1" if is_indefinite else f"{left.total_seconds():.0f}s"
            )

    @callback
    def note_applied(self, keep_alive: KeepAlive) -> None:
        """Store that the model is not in memory: a change needs no request."""
        self.settled = keep_alive
        self.sent = None

"""The keep_alive of one model that several roles use."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from homeassistant.core import callback

from ..keep_alive import KeepAlive
from .listeners import Listeners


@dataclass(frozen=True, slots=True)
class ModelUser:
    """A role of a loaded entry that uses a model.

    keep_alive is the one that is configured for the role. num_ctx is the context size
    that it asks for, in tokens; None for an embedding model, whose requests have no
    num_ctx.
    """

    subentry_id: str
    title: str
    keep_alive: KeepAlive
    num_ctx: int | None


@dataclass(slots=True)
class SharedKeepAlive:
    """The keep_alive of one model on one server, with the roles that use it.

    On a server the keep_alive of the last request counts, whoever sent it. So each
    request sends the longest one of all roles that use the model: no role then unloads
    the model of another one early.

    users are the roles of all loaded config entries that use the model. sent is the
    keep_alive of the last request that was answered, None if there was none.
    configured is what longest() was when that request began. refusal is why the server
    has refused the keep_alive of the last request, in its own words without secrets,
    None if it did not; listeners to answered hear when that changes.
    """

    users: Sequence[ModelUser]
    sent: KeepAlive | None = None
    configured: KeepAlive | None = None
    refusal: str | None = None
    answered: Listeners[()] = field(default_factory=Listeners[()])

    def longest(self) -> KeepAlive | None:
        """Return the longest keep_alive of the users, None if there is no user."""
        values = (user.keep_alive for user in self.users)
        return max(values, key=lambda value: value.length, default=None)

    def to_send(self, own: KeepAlive, subentry_id: str | None = None) -> KeepAlive:
        """Return the keep_alive for a request of a role.

        own is that of the role with this subentry, or what replaces it for a request.
        """
        others = (
            user.keep_alive for user in self.users if user.subentry_id != subentry_id
        )
        return max((own, *others), key=lambda value: value.length)

    @callback
    def has_changed(self) -> bool:
        """Return whether the roles want another keep_alive than at the last request.

        Before the first request nothing is known of it, and the model is taken to be
        loaded as the roles want it.
        """
        wanted = self.longest()
        if self.configured is None:
            self.configured = wanted
        before = self.configured
        return (
            wanted is not None
            and before is not None
            and before.nanoseconds != wanted.nanoseconds
        )

    @callback
    def note_applied(self, keep_alive: KeepAlive) -> None:
        """Store that a changed keep_alive needs no request any more."""
        self.configured = keep_alive
        self.sent = None

    @callback
    def note_answer(self, refusal: str | None) -> None:
        """Store whether the server has refused a keep_alive, and why."""
        if refusal != self.refusal:
            self.refusal = refusal
            self.answered.notify()

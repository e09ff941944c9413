"""The issue "keep_alive_differs": roles that share a model have other keep_alives."""

from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.start import async_at_started

from ...servers.base import ServerCapability
from ..state import ModelResidency
from .issues import clear_issue, raise_issue


class KeepAliveDiffersCheck:
    """Finds a role whose keep_alive is shorter than that of another role.

    Each request sends the longest keep_alive of the roles that share a model, so the
    setting of this one has no effect.
    """

    def __init__(self, residency: ModelResidency) -> None:
        """Check now, and when a user of the model comes or goes."""
        self._residency = residency
        for stop in (
            residency.use.users_changed.add(self._users_changed),
            async_at_started(residency.hass, self._async_started),
        ):
            residency.entry.async_on_unload(stop)

    @callback
    def _async_started(self, _: HomeAssistant) -> None:
        """Check: until Home Assistant has started, some users are not there yet."""
        self._check()

    @callback
    def _users_changed(self) -> None:
        """Check again, because a role that uses the model has come or gone."""
        if self._residency.hass.is_running:
            self._check()

    @callback
    def _check(self) -> None:
        """Raise the issue if another role has a longer keep_alive, else clear it."""
        residency = self._residency
        own, longest = residency.keep_alive, residency.use.shared.longest()
        if (
            longest is None
            or longest.length <= own.length
            or ServerCapability.KEEP_ALIVE not in residency.capabilities
        ):
            clear_issue("keep_alive_differs", residency)
            return
        others = [
            user.title
            for user in residency.use.users
            if user.keep_alive.length == longest.length
        ]
        raise_issue(
            "keep_alive_differs",
            residency,
            fix={"keep_alive": longest.text},
            keep_alive=own.text,
            longest=longest.text,
            others=", ".join(others),
        )

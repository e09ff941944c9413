"""The issue "keep_alive_differs": roles that share a model have other keep_alives."""

from homeassistant.core import callback

from ...servers.base import ServerCapability
from ..state import ModelResidency
from .issues import check_with_users, clear_issue, raise_issue


class KeepAliveDiffersCheck:
    """Finds a role whose keep_alive is shorter than that of another role.

    Each request sends the longest keep_alive of the roles that share a model, so the
    setting of this one has no effect.
    """

    def __init__(self, residency: ModelResidency) -> None:
        """Check now, and when a role that uses the model is added or removed."""
        self._residency = residency
        check_with_users(residency, self._check)

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

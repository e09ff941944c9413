"""The issue "keep_alive_refused": the server has refused the keep_alive of a request.

A refusal that the dialog has seen is stored with the server: see no_effect.py.
"""

from homeassistant.core import callback

from ..state import ModelResidency
from .issues import clear_issue, raise_issue


class KeepAliveRefusedCheck:
    """Shows the words with which a server refuses the keep_alive of a role."""

    def __init__(self, residency: ModelResidency) -> None:
        """Check whenever a server begins or ceases to refuse it."""
        self._residency = residency
        residency.entry.async_on_unload(residency.use.refusal_changed.add(self._check))
        if not self._is_set:
            clear_issue("keep_alive_refused", residency)

    @property
    def _is_set(self) -> bool:
        """Return whether the user has set a keep_alive for the role."""
        residency = self._residency
        return residency.role.role.key("keep_alive") in residency.subentry.data

    @callback
    def _check(self) -> None:
        """Raise the issue if the server has refused the keep_alive, else clear it."""
        residency = self._residency
        if (error := residency.use.keep_alive_refusal) is None or not self._is_set:
            clear_issue("keep_alive_refused", residency)
            return
        raise_issue(
            "keep_alive_refused",
            residency,
            fix={"keep_alive": None},
            keep_alive=residency.keep_alive.text,
            error=error,
        )

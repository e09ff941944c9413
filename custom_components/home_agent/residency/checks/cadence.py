"""The issue "cadence": a model is unloaded each time shortly before its next use."""

from homeassistant.core import callback

from ...model.turn_record import TurnRecord
from ...servers.base import ServerCapability
from ..state import ModelResidency
from .issues import check_hourly, clear_issue, raise_issue


class CadenceCheck:
    """Looks for regular uses of a model that its keep_alive does not outlast."""

    def __init__(self, residency: ModelResidency) -> None:
        """Check now, after each turn of the role, and hourly: uses become old."""
        self._residency = residency
        residency.entry.async_on_unload(
            residency.use.turn_ended.add(self._turn_ended),
        )
        check_hourly(residency, self._check)
        self._check()

    @callback
    def _turn_ended(self, record: TurnRecord) -> None:
        """Check again with the new use."""
        if record.subentry_id == self._residency.subentry.subentry_id:
            self._check()

    @callback
    def _check(self) -> None:
        """Raise or clear the issue, by the role's uses of the model."""
        residency, history = self._residency, self._residency.use.history
        subentry_id = residency.subentry.subentry_id
        keep_alive = residency.role.keep_alive_to_send(residency.keep_alive)
        suggestion = None
        if ServerCapability.KEEP_ALIVE in residency.capabilities:
            suggestion = history.suggestion(keep_alive, subentry_id)
        cadence = history.cadence(subentry_id)
        if suggestion is None or cadence is None:
            clear_issue("cadence", residency)
            return
        raise_issue(
            "cadence",
            residency,
            fix={"keep_alive": suggestion},
            keep_alive=keep_alive.text,
            suggestion=suggestion,
            minutes=f"{max(cadence.seconds / 60, 1):.0f}",
            cold_starts=str(history.waits(keep_alive, subentry_id)),
            seconds=f"{history.load_seconds or 0:.0f}",
        )

"""The issue "not_held": the model stays for another time than was sent."""

from datetime import datetime, timedelta
from typing import Final

from homeassistant.core import callback
from homeassistant.util import dt as dt_util

from ...model.turn_record import TurnRecord
from ...servers.base import LoadedModel, ServerKind
from ..state import ModelResidency
from .issues import clear_issue, raise_issue

# Mismatches in a row before the issue is raised; another client can cause one.
_OFTEN: Final = 3
# Tolerance of the comparison: clocks differ, and a response takes its time.
_TOLERANCE_SECONDS: Final = 10.0
_TOLERANCE_SHARE: Final = 0.1


class NotHeldCheck:
    """Compares after each turn what Ollama reports with the keep_alive that was sent.

    Only Ollama reports an expiry that follows from the keep_alive of a request.
    """

    def __init__(self, residency: ModelResidency) -> None:
        """Check after each turn of the role until the entry is unloaded."""
        self._residency = residency
        self._mismatches = 0
        # When the last request of the turn to check ended, None if there is none.
        self._ended: datetime | None = None
        for stop in (
            residency.use.turn_ended.add(self._turn_ended),
            residency.changed.add(self._check),
        ):
            residency.entry.async_on_unload(stop)

    @callback
    def _turn_ended(self, record: TurnRecord) -> None:
        """Check a turn of this role on Ollama with the poll that follows it."""
        residency = self._residency
        if (
            record.subentry_id == residency.subentry.subentry_id
            and residency.coordinator.connection.kind is ServerKind.OLLAMA
            and residency.keep_alive.nanoseconds != 0
        ):
            self._ended = residency.use.last_ended

    @callback
    def _check(self) -> None:
        """Compare, unless another request has changed the time meanwhile."""
        residency, ended = self._residency, self._ended
        polled = residency.coordinator.updated_at
        if ended is None or polled is None or polled <= ended:
            return
        self._ended = None
        model, use = residency.loaded, residency.use
        if model is None or model.is_busy or use.last_ended != ended:
            return
        if use.last_subentry_id != residency.subentry.subentry_id:
            return
        if self._is_held(model, ended):
            self._mismatches = 0
            clear_issue("not_held", residency)
            return
        self._mismatches += 1
        if self._mismatches >= _OFTEN:
            raise_issue(
                "not_held",
                residency,
                keep_alive=residency.keep_alive.text,
                held="-1" if model.is_indefinite else f"{_minutes(model)} min",
            )

    def _is_held(self, model: LoadedModel, ended: datetime) -> bool:
        """Return whether the model stays for the keep_alive of the role."""
        seconds = self._residency.keep_alive.seconds
        if seconds is None:
            return model.is_indefinite
        if model.expires_at is None:
            return False
        expected = ended + timedelta(seconds=seconds)
        tolerance = max(_TOLERANCE_SECONDS, _TOLERANCE_SHARE * seconds)
        return abs((model.expires_at - expected).total_seconds()) < tolerance


def _minutes(model: LoadedModel) -> int:
    """Return the minutes until the model is unloaded."""
    if model.expires_at is None:
        return 0
    return round((model.expires_at - dt_util.utcnow()).total_seconds() / 60)

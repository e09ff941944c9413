"""The issue "not_held": Ollama does not apply the keep_alive that was sent."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from homeassistant.core import callback
from homeassistant.util import dt as dt_util

from ...keep_alive import KeepAlive
from ...model.turn_record import TurnRecord
from ...servers.base import LoadedModel, ServerKind
from ...servers.ollama_answers import INDEFINITE
from ..state import ModelResidency
from .issues import clear_issue, raise_issue

# Turns with a mismatch before the issue is raised: one can happen by chance. A turn
# without a mismatch for _SETTLED resets the count.
_MISMATCHES: Final = 3
# A turn without a mismatch for this long counts as right.
_SETTLED: Final = timedelta(minutes=1)
# For some milliseconds after an answer, Ollama (0.24) reports the old expiry time.
_REPORT_DELAY: Final = timedelta(seconds=0.1)
# Allowed difference, the larger of both: clocks differ, and responses take time.
_TOLERANCE_SECONDS: Final = 10.0
_TOLERANCE_SHARE: Final = 0.1


@dataclass(slots=True)
class _LastTurn:
    """The last turn of the role: when it ended, and whether a mismatch was seen."""

    ended: datetime
    has_mismatch: bool = False


class NotHeldCheck:
    """Compares what Ollama reports with the keep_alive that was sent last.

    Only Ollama reports an expiry time that follows from the keep_alive of a request.
    All polls after a turn are compared: another client may use the model later.
    """

    def __init__(self, residency: ModelResidency) -> None:
        """If the server is Ollama, check until the entry is unloaded."""
        self._residency = residency
        self._use = residency.use
        self._last: _LastTurn | None = None
        self._mismatches = 0
        if residency.coordinator.connection.kind is ServerKind.OLLAMA:
            for stop in (
                residency.use.turn_ended.add(self._turn_ended),
                residency.coordinator.async_add_listener(self._server_changed),
            ):
                residency.entry.async_on_unload(stop)

    @callback
    def _turn_ended(self, record: TurnRecord) -> None:
        """Decide about the previous turn, and begin to watch this one."""
        if record.subentry_id != self._residency.subentry.subentry_id:
            return
        now = dt_util.utcnow()
        last = self._last
        if last and not last.has_mismatch and now - last.ended >= _SETTLED:
            self._mismatches = 0
            clear_issue("not_held", self._residency)
        # It is not known when the server has ended a request that failed.
        is_answered = self._use.last_answered == self._use.last_ended
        self._last = _LastTurn(now) if is_answered else None

    @callback
    def _server_changed(self) -> None:
        """Compare a poll with what was sent; count one mismatch a turn at most."""
        coordinator = self._residency.coordinator
        if not coordinator.last_update_success or self._use.unload_requested:
            # The server is away, or Home Agent has unloaded the model: do not compare.
            self._last = None
        sent, ended = self._use.shared.sent, self._use.last_ended
        if (
            self._last is None
            or self._last.has_mismatch
            or sent is None
            or sent.nanoseconds == 0
            or self._use.running_requests
            or ended is None
            or ended != self._use.last_answered
            or coordinator.updated_at is None
            or coordinator.updated_at - ended < _REPORT_DELAY
        ):
            return
        model = self._residency.loaded
        if model is None and coordinator.new_models:
            # The server has unloaded it for another model: pushed_out.py reports that.
            self._last = None
        elif (held := _differing_time(model, sent, ended)) is not None:
            self._last.has_mismatch = True
            self._add_mismatch(sent, held)

    @callback
    def _add_mismatch(self, sent: KeepAlive, held: str) -> None:
        """Count a mismatch; raise the issue from _MISMATCHES on."""
        self._mismatches += 1
        if self._mismatches >= _MISMATCHES:
            raise_issue("not_held", self._residency, keep_alive=sent.text, held=held)


def _differing_time(
    model: LoadedModel | None, sent: KeepAlive, ended: datetime
) -> str | None:
    """Return for how long the server keeps the model, None if that matches sent.

    The text has no words, since it is shown in all languages: "≤" is "at most", and
    "-1" is the keep_alive of a model that is never unloaded.
    model is None if it is not loaded. ended is when the last request of Home Agent
    was answered. If another client has used the model later with the same
    keep_alive, the expiry is later; that is no mismatch.
    """
    now = dt_util.utcnow()
    tolerance = max(_TOLERANCE_SECONDS, _TOLERANCE_SHARE * (sent.seconds or 0))
    if model is None:
        passed = (now - ended).total_seconds()
        if passed >= sent.length - tolerance:
            return None
        return f"≤ {_duration_text(passed)}"
    if model.is_indefinite:
        return None if sent.length >= INDEFINITE.total_seconds() else "-1"
    if model.is_busy or model.is_loading or model.expires_at is None:
        return None
    from_answer = (model.expires_at - ended).total_seconds()
    from_now = (model.expires_at - now).total_seconds()
    if from_now < sent.length + tolerance and from_answer > sent.length - tolerance:
        return None
    return _duration_text(from_answer)


def _duration_text(seconds: float) -> str:
    """Return a duration for display, in seconds up to two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

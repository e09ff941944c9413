"""The issue "not_held": the model stays for another time than was sent."""

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

# Turns in a row before the issue is raised; another client can cause one by chance.
_OFTEN: Final = 3
# After this time without a mismatch, the keep_alive of a turn was held.
_SETTLED: Final = timedelta(minutes=1)
# For some milliseconds after an answer, Ollama (0.24) reports what was before.
_REPORT_DELAY: Final = timedelta(seconds=0.1)
# Tolerance of the comparison: clocks differ, and a response takes its time.
_TOLERANCE_SECONDS: Final = 10.0
_TOLERANCE_SHARE: Final = 0.1


@dataclass(slots=True)
class _LastTurn:
    """The last turn of the role: when it ended, and whether a mismatch was seen."""

    ended: datetime
    is_held: bool = True


class NotHeldCheck:
    """Compares what Ollama reports with the keep_alive that was sent last.

    Only Ollama reports an expiry that follows from the keep_alive of a request. Each
    poll after a turn is compared, and not only the first one: another client may use
    the model a moment later.
    """

    def __init__(self, residency: ModelResidency) -> None:
        """Check until the entry is unloaded, if the server is an Ollama."""
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
        """Finish the previous turn, and begin to compare this one."""
        if record.subentry_id != self._residency.subentry.subentry_id:
            return
        now = dt_util.utcnow()
        if self._last and self._last.is_held and now - self._last.ended >= _SETTLED:
            self._mismatches = 0
            clear_issue("not_held", self._residency)
        # Nobody knows when the server has ended a request that failed.
        is_answered = self._use.last_answered == self._use.last_ended
        self._last = _LastTurn(now) if is_answered else None

    @callback
    def _server_changed(self) -> None:
        """Compare a poll with what was sent, once for each turn that differs."""
        coordinator = self._residency.coordinator
        if not coordinator.last_update_success or self._use.unload_requested:
            # Nobody knows what happens meanwhile, or Home Agent has unloaded it.
            self._last = None
        sent, ended = self._use.shared.sent, self._use.last_ended
        if (
            self._last is None
            or not self._last.is_held
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
            # The server has made room for another model: see pushed_out.py.
            self._last = None
        elif (held := _other_time(model, sent, ended)) is not None:
            self._last.is_held = False
            self._add_mismatch(sent, held)

    @callback
    def _add_mismatch(self, sent: KeepAlive, held: str) -> None:
        """Raise the issue if the last turns all had a mismatch."""
        self._mismatches += 1
        if self._mismatches >= _OFTEN:
            raise_issue("not_held", self._residency, keep_alive=sent.text, held=held)


def _other_time(
    model: LoadedModel | None, sent: KeepAlive, ended: datetime
) -> str | None:
    """Return for how long the server keeps the model, None if that is what was sent.

    model is None if it is not loaded. ended is when the last request of Home Agent
    was answered. A later use by another client with the same keep_alive is no
    mismatch.
    """
    now = dt_util.utcnow()
    tolerance = max(_TOLERANCE_SECONDS, _TOLERANCE_SHARE * (sent.seconds or 0))
    if model is None:
        passed = (now - ended).total_seconds()
        if passed >= sent.length - tolerance:
            return None
        return f"at most {_duration_text(passed)}"
    if model.is_indefinite:
        return None if sent.length >= INDEFINITE.total_seconds() else "-1"
    if model.is_busy or model.is_loading or model.expires_at is None:
        return None
    stays = (model.expires_at - ended).total_seconds()
    left = (model.expires_at - now).total_seconds()
    if left < sent.length + tolerance and stays > sent.length - tolerance:
        return None
    return _duration_text(stays)


def _duration_text(seconds: float) -> str:
    """Return a duration for display, in seconds up to two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

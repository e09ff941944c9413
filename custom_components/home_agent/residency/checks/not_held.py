"""The issue "not_held": the server keeps the model for another time than was sent."""

from datetime import datetime, timedelta
from typing import Final

from homeassistant.core import callback
from homeassistant.util import dt as dt_util

from ...model.turn_record import TurnRecord
from ...servers.base import LoadedModel, ServerKind
from ..state import ModelResidency
from .issues import clear_issue, raise_issue

# How often in a row another time must be seen: another client may ask in between.
_OFTEN: Final = 3
# A poll is right about the expiry up to this: clocks and answers take their time.
_SLACK_SECONDS: Final = 10.0
_SLACK_SHARE: Final = 0.1


class NotHeldCheck:
    """Compares after each turn what Ollama reports with the keep_alive that was sent.

    Only Ollama reports when it will unload a model by a request's keep_alive.
    """

    def __init__(self, residency: ModelResidency) -> None:
        """Check after each turn of the role until the entry is unloaded."""
        self._residency = residency
        self._times_missed = 0
        residency.entry.async_on_unload(
            residency.use.turn_ended.add(self._turn_ended),
        )

    @callback
    def _turn_ended(self, record: TurnRecord) -> None:
        """Ask the server in the background."""
        residency = self._residency
        if (
            record.subentry_id == residency.subentry.subentry_id
            and residency.coordinator.connection.kind is ServerKind.OLLAMA
            and residency.keep_alive.nanoseconds != 0
        ):
            residency.entry.async_create_background_task(
                residency.hass, self._async_check(), "check keep_alive"
            )

    async def _async_check(self) -> None:
        """Compare, unless another request has changed the time meanwhile."""
        residency, use = self._residency, self._residency.use
        if (ended := use.last_ended) is None:
            return
        await residency.coordinator.async_refresh_if_before(ended)
        model = residency.loaded
        if model is None or model.is_busy or use.last_ended != ended:
            return
        if use.last_subentry_id != residency.subentry.subentry_id:
            return
        if self._is_held(model, ended):
            self._times_missed = 0
            clear_issue("not_held", residency)
            return
        self._times_missed += 1
        if self._times_missed >= _OFTEN:
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
        slack = max(_SLACK_SECONDS, _SLACK_SHARE * seconds)
        return abs((model.expires_at - expected).total_seconds()) < slack


def _minutes(model: LoadedModel) -> int:
    """Return the minutes until the model is unloaded."""
    if model.expires_at is None:
        return 0
    return round((model.expires_at - dt_util.utcnow()).total_seconds() / 60)

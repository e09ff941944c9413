"""The issue "pushed_out": other models make the server unload this one."""

from collections import deque
from datetime import datetime, timedelta
from typing import Any, Final

from homeassistant.core import callback
from homeassistant.util import dt as dt_util

from ...model.use import model_uses
from ...servers.base import ServerKind
from ..state import ModelResidency, ResidencyEvent
from .issues import raise_issue

_DAY: Final = timedelta(days=1)
# How often in a day before the user is told.
_OFTEN: Final = 2
_MAX_EVICTIONS: Final = 20


class PushedOutCheck:
    """Counts how often a model is unloaded early while another one is loaded."""

    def __init__(self, residency: ModelResidency) -> None:
        """Count until the entry is unloaded."""
        self._residency = residency
        self._evictions: deque[tuple[datetime, str]] = deque(maxlen=_MAX_EVICTIONS)
        residency.entry.async_on_unload(
            residency.event_occurred.add(self._event_occurred)
        )

    @callback
    def _event_occurred(self, event: ResidencyEvent) -> None:
        """Raise the issue if the model was evicted often enough."""
        if event is not ResidencyEvent.EVICTED:
            return
        now = dt_util.utcnow()
        self._evictions.extend(
            (now, model) for model in self._residency.coordinator.new_models
        )
        recent = [model for time, model in self._evictions if now - time < _DAY]
        if len(recent) >= _OFTEN:
            raise_issue(
                "pushed_out",
                self._residency,
                fix=self._fix(recent),
                others=", ".join(sorted(set(recent))),
                times=str(len(recent)),
            )

    def _fix(self, evicted_by: list[str]) -> dict[str, Any] | None:
        """Return the data of a fix, None if there is none.

        LM Studio does not unload a model that was loaded explicitly, as it is with
        keep_alive -1, in favor of another one (Auto-Evict).
        """
        residency = self._residency
        connection = residency.coordinator.connection
        if connection.kind is not ServerKind.LM_STUDIO:
            return None
        uses = model_uses(residency.hass)
        for model in evicted_by:
            for user in uses.async_get(connection.url, model).users:
                if user.subentry_id in residency.entry.subentries:
                    return {"keep_alive": "-1", "other_id": user.subentry_id}
        return None

"""The issue "pushed_out": other models make the server unload this one."""

from datetime import timedelta
from typing import Any, Final

from homeassistant.core import callback
from homeassistant.util import dt as dt_util

from ...coordinator import POLL_INTERVAL
from ...model.role import merged_config, role_connection, subentry_role
from ...model.use import model_uses
from ...model.use_history import Eviction
from ...servers.address import server_id
from ...servers.base import ServerKind
from ..state import ModelResidency, ResidencyEvent
from .issues import check_hourly, clear_issue, raise_issue

_DAY: Final = timedelta(days=1)
# Evictions in the last day before the issue is raised.
_OFTEN: Final = 2


class PushedOutCheck:
    """Counts how often a model is unloaded early while another one is loaded.

    The evictions are in the history of the model: they outlive a restart, and a role
    that changes its model begins with those of the new one.
    """

    def __init__(self, residency: ModelResidency) -> None:
        """Check now, after each eviction, and hourly: evictions become old."""
        self._residency = residency
        residency.entry.async_on_unload(
            residency.event_occurred.add(self._event_occurred)
        )
        check_hourly(residency, self._check)
        self._check()

    @callback
    def _event_occurred(self, event: ResidencyEvent) -> None:
        """Count an eviction if another model was loaded in the meantime."""
        residency, coordinator = self._residency, self._residency.coordinator
        models = tuple(coordinator.new_models)
        if event is not ResidencyEvent.EVICTED or not models:
            return
        if not self._is_counted():
            names = {
                name
                for model in coordinator.data or ()
                if model.name in models
                for name in model.names
            }
            own = tuple(sorted(names & coordinator.model_names))
            now = dt_util.utcnow().timestamp()
            residency.use.history.evictions.append(Eviction(now, models, own))
            model_uses(residency.hass).save_soon()
        self._check()

    def _is_counted(self) -> bool:
        """Return whether another role has counted the same eviction.

        Roles of one model share its history, and see the eviction in their own polls.
        """
        use = self._residency.use
        if not use.history.evictions:
            return False
        last = dt_util.utc_from_timestamp(use.history.evictions[-1].time)
        was_used_since = use.last_ended is not None and use.last_ended > last
        is_recent = timedelta(0) <= dt_util.utcnow() - last <= POLL_INTERVAL
        return is_recent and not was_used_since

    @callback
    def _check(self) -> None:
        """Raise or clear the issue, by the evictions of the last day."""
        recent = self._recent()
        if len(recent) < _OFTEN:
            clear_issue("pushed_out", self._residency)
            return
        others = {model for eviction in recent for model in eviction.models}
        raise_issue(
            "pushed_out",
            self._residency,
            fix=self._fix({model for eviction in recent for model in eviction.own}),
            others=", ".join(sorted(others)),
            times=str(len(recent)),
        )

    def _recent(self) -> list[Eviction]:
        """Return the evictions of the last day that can still happen again.

        Those by a model that no role uses any more cannot.
        """
        residency = self._residency
        now = dt_util.utcnow()
        return [
            eviction
            for eviction in residency.use.history.evictions
            if (now - _DAY).timestamp() < eviction.time <= now.timestamp()
            and (
                not eviction.own
                or not residency.coordinator.model_names.isdisjoint(eviction.own)
            )
        ]

    def _fix(self, evicted_by: set[str]) -> dict[str, Any] | None:
        """Return the data of a fix, None if there is none.

        LM Studio does not unload a model that was loaded explicitly, as it is with
        keep_alive -1, in favor of another one (Auto-Evict).
        """
        residency = self._residency
        connection = residency.coordinator.connection
        if connection.kind is not ServerKind.LM_STUDIO:
            return None
        entry = residency.entry
        others: list[str] = []
        for subentry in entry.subentries.values():
            role = subentry_role(subentry)
            url = role_connection(merged_config(entry, subentry), role).url
            if subentry.data.get(role.key("model")) in evicted_by and server_id(
                url
            ) == server_id(connection.url):
                others.append(subentry.subentry_id)
        # The data of an issue can hold no list.
        return {"keep_alive": "-1", "other_ids": ",".join(others)} if others else None

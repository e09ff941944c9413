"""Which repairs are true, from what the server and the household really did.

Nothing here asks Home Agent. A repair must be there if the server showed in its polls
what the repair says, and may be there if it happened without being shown: no client
can see what came and went between two polls.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from .household import CADENCE, DAY, HOUR, MINUTE, Household
from .server import Load, utc_text
from .world import EMBEDDING, ROLES, VOICE, World

SECONDS = {"10m": 600.0, "30m": 1800.0, "45m": 2700.0, "1h": 3600.0}
# The repair counts from here on, and the household waits no less than this.
_OFTEN_COLD = 3
_OFTEN_EVICTED = 2
_OFTEN_CHANGED = 3
_POLL = MINUTE + 5
# A model that is due within these seconds of a poll may have been due.
_CLOSE = 3
# Seconds until a repair is there and until it is gone.
LATENCY = {
    "cadence": (HOUR + _POLL, HOUR + _POLL),
    "pushed_out": (_POLL, HOUR + _POLL),
    "not_held": (_POLL, _POLL),
    "num_ctx": (10, 10),
    "keep_alive_differs": (10, 10),
    "model_missing": (HOUR + 6 * MINUTE, 6 * MINUTE),
    "models_do_not_fit": (_POLL, _POLL),
    "index_stuck": (0, HOUR + _POLL),
}

type Key = tuple[str, str]


@dataclass(frozen=True)
class Truth:
    """Whether a repair may be there, and whether it must be."""

    may: bool
    must: bool


@dataclass
class _VoiceTurn:
    """The last turn of "voice": what has become of its keep_alive."""

    ended: float
    changed_by_others: bool = False
    is_seen: bool = False
    is_known: bool = True


@dataclass
class _Eviction:
    """A model that had to make room; is_shown is whether a poll has shown that."""

    time: float
    model: str
    by: str
    is_shown: bool | None = None


@dataclass
class Oracle:
    """Follows the events of a world."""

    world: World
    household: Household
    _turn: _VoiceTurn | None = None
    _changed_in_a_row: int = 0
    _not_held: bool = False
    _does_not_fit: bool = False
    _seen_loads: int = 0
    _polls: int = 0
    _down_since: float | None = None
    _last_trouble: float = field(default=float("-inf"))
    _previous_poll: dict[str, Any] = field(default_factory=dict)
    _evictions: list[_Eviction] = field(default_factory=list)

    # --- What happens ---------------------------------------------------------

    def turn_begins(self, agent: str) -> None:
        """Decide how the previous turn went, before a turn of "voice"."""
        turn = self._turn
        if agent != "voice" or turn is None:
            return
        is_settled = self.world.now - turn.ended >= MINUTE
        if turn.is_known and not turn.is_seen and is_settled:
            self._changed_in_a_row = 0
            self._not_held = False
        self._turn = None

    def turn_ends(self, agent: str, *, is_answered: bool) -> None:
        """Wait for what becomes of a turn of "voice"."""
        if agent == "voice":
            self._turn = _VoiceTurn(self.world.now) if is_answered else None

    def used_by_others(self, model: str) -> None:
        """Note that another client has set another keep_alive."""
        if model == VOICE and self._turn is not None:
            self._turn.changed_by_others = True

    def disturbed(self) -> None:
        """Note that nobody can know any more what becomes of the last turn."""
        if self._turn is not None and not self._turn.is_seen:
            self._turn.is_known = False

    def reloaded(self) -> None:
        """Forget the turns: the entry was set up again."""
        self._turn = None
        self._changed_in_a_row = 0
        self._previous_poll = {}

    def polled(self) -> None:
        """Follow what a poll has shown."""
        record = self.world.server.memory.record
        for load in record.loads[self._seen_loads :]:
            self._loaded(load)
        self._seen_loads = len(record.loads)
        for time, models in record.polls[self._polls :]:
            self._shown(time, models)
        self._polls = len(record.polls)
        if EMBEDDING not in self.world.server.models:
            self._last_trouble = self.world.now

    def _loaded(self, load: Load) -> None:
        """Follow a load."""
        ours = {model for model, _ in ROLES.values()}
        if load.asker == "warm-up" and ours.intersection(load.evicted):
            self._does_not_fit = True
        for name in load.evicted:
            if name in ours:
                self._evictions.append(_Eviction(load.time, name, load.name))
            if name == VOICE:
                self.disturbed()

    def _shown(self, time: float, shown: dict[str, Any]) -> None:
        """Follow the models that a poll has shown.

        An eviction is shown if the model was there at the poll before, is not there
        although its time is not over, and the model that took its place is new.
        """
        if {model for model, _ in ROLES.values()} <= shown.keys():
            self._does_not_fit = False
        for eviction in self._evictions:
            if eviction.is_shown is None:
                before = self._previous_poll.get(eviction.model)
                eviction.is_shown = (
                    before is not None
                    and before["expires_at"] > utc_text(time + _CLOSE)
                    and eviction.model not in shown
                    and eviction.by in shown.keys() - self._previous_poll.keys()
                )
        self._previous_poll = shown
        turn = self._turn
        if turn and turn.changed_by_others and turn.is_known and not turn.is_seen:
            turn.is_seen = True
            self._changed_in_a_row += 1
            if self._changed_in_a_row >= _OFTEN_CHANGED:
                self._not_held = True

    # --- What is true ---------------------------------------------------------

    def truths(self) -> Iterator[tuple[Key, Truth]]:
        """Yield what is true of each repair of each role."""
        if not self.world.is_up:
            self._last_trouble = self.world.now
        for role, (model, prefix) in ROLES.items():
            yield ("cadence", role), self._cadence(role)
            yield ("pushed_out", role), self._pushed_out(model)
            is_missing = model not in self.world.server.models
            yield ("model_missing", role), Truth(is_missing, is_missing)
            if prefix == "llm" or role == "external":
                is_smaller = self._is_smaller(role)
                yield ("num_ctx", role), Truth(is_smaller, is_smaller)
            is_shorter = self._is_shorter(role)
            yield ("keep_alive_differs", role), Truth(is_shorter, is_shorter)
        yield ("not_held", "voice"), Truth(self._not_held, self._not_held)
        is_recent = self.world.now - self._last_trouble < MINUTE
        yield ("index_stuck", "embedding"), Truth(is_recent, must=False)

    def fits(self) -> Truth:
        """Return whether a warm-up had to see that the models do not fit together."""
        return Truth(self._does_not_fit, self._does_not_fit)

    def cold_starts(self, role: str, *, due: bool = True) -> int:
        """Return how often a question of the last day waited for the model.

        due: only those for which the keep_alive was over.
        """
        model, _ = ROLES[role]
        since = self.world.server_now - DAY
        loads = reversed(self.world.server.memory.record.loads)
        return sum(
            load.name == model and load.asker == role and (load.due or not due)
            for load in takewhile(lambda load: load.time >= since, loads)
        )

    def _cadence(self, role: str) -> Truth:
        """Return whether a role is used regularly, each time just too late."""
        if role != "tasks":
            return Truth(may=False, must=False)
        keep_alive = max(self._seconds("tasks"), self._seconds("external"))
        cold, now = self.cold_starts(role), self.world.now
        runs = sum(now - DAY <= time for time in self.household.automated)
        is_short = keep_alive < CADENCE
        is_running = now - self.household.automated[-1] <= CADENCE if runs else False
        return Truth(
            may=is_short and cold >= _OFTEN_COLD and runs > _OFTEN_COLD,
            must=is_short and is_running and cold >= 2 * _OFTEN_COLD,
        )

    def _pushed_out(self, model: str) -> Truth:
        """Return whether other models took the place of a model twice in a day."""
        since = self.world.server_now - DAY
        recent = [
            eviction.is_shown
            for eviction in self._evictions
            if eviction.model == model and eviction.time >= since
        ]
        return Truth(
            may=len(recent) >= _OFTEN_EVICTED,
            must=recent.count(True) >= _OFTEN_EVICTED,
        )

    @property
    def evictions(self) -> tuple[int, int]:
        """Return how many evictions there were, and how many a poll has shown."""
        shown = [eviction.is_shown for eviction in self._evictions]
        return len(shown), shown.count(True)

    def _is_smaller(self, role: str) -> bool:
        """Return whether a role has a smaller context than one with its model."""
        return any(
            self.household.num_ctx(role) < self.household.num_ctx(other)
            for other in self._sharing(role)
        )

    def _is_shorter(self, role: str) -> bool:
        """Return whether a role has a shorter keep_alive than one with its model."""
        return any(
            self._seconds(role) < self._seconds(other) for other in self._sharing(role)
        )

    def _sharing(self, role: str) -> list[str]:
        """Return the roles that use the model of a role."""
        return [key for key, value in ROLES.items() if value[0] == ROLES[role][0]]

    def _seconds(self, role: str) -> float:
        """Return the keep_alive of a role in seconds."""
        return SECONDS[self.household.keep_alive(role)]

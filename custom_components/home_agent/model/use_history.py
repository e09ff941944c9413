"""Recorded uses of a model, and what each keep_alive would have cost.

The costs are cold starts, seconds of waiting and hours in memory. They are computed
from the recorded uses. A use is a cold start if the pause since the end of the
previous use was at least as long as the keep_alive.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any, Final, Self

from homeassistant.helpers.chat_session import CONVERSATION_TIMEOUT
from homeassistant.util import dt as dt_util

from ..keep_alive import KeepAlive

# Limits of what is stored for each model.
MAX_USES: Final = 1000
MAX_LOADS: Final = 20
MAX_EVICTIONS: Final = 20
# Older uses are stored, but ignored: the clock may be wrong when a use is recorded.
MAX_AGE: Final = timedelta(days=14)
# Uses that are less than this many seconds apart are recorded as one, such as the
# batches of an index.
SAME_USE: Final = 10.0
# Load times below this many seconds are ignored: servers report some hundredths of a
# second even for a model that is already loaded.
COLD_LOAD: Final = 1.0

CANDIDATES: Final = ("0", "30s", "5m", "10m", "30m", "1h", "90m", "2h", "4h", "-1")
# The values that suggestion() chooses from.
_STEPS: Final = (
    *("1m", "2m", "5m", "10m", "15m", "20m", "30m", "45m", "1h", "90m", "2h", "3h"),
    *("4h", "6h", "8h", "12h", "24h"),
)
# Seconds by which a suggested keep_alive exceeds the longest of the even gaps.
MARGIN: Final = 60.0
# A cadence needs at least MIN_GAPS even gaps among the last RECENT_GAPS. A gap counts
# as even if it differs from their median by at most EVENNESS times the median.
MIN_GAPS: Final = 4
EVENNESS: Final = 0.1
RECENT_GAPS: Final = 24

# From this many uses in a day that waited on, a longer keep_alive is suggested.
OFTEN: Final = 3

DAY: Final = 86400.0


@dataclass(slots=True)
class Use:
    """A use of a model: Unix times in seconds, and its number of requests.

    subentry_ids are the roles that sent the requests. load_seconds is how long they
    waited for the model to load, None if the server does not report it.
    """

    start: float
    end: float
    requests: int = 1
    subentry_ids: frozenset[str] = frozenset()
    load_seconds: float | None = None

    @property
    def has_waited(self) -> bool:
        """Return whether the use may have waited for the model to load."""
        return self.load_seconds is None or self.load_seconds >= COLD_LOAD

    def joined(self, other: Use) -> Use:
        """Return one use from the start of the earlier to the end of the later one."""
        return Use(
            min(self.start, other.start),
            max(self.end, other.end),
            self.requests + other.requests,
            self.subentry_ids | other.subentry_ids,
            max(
                (
                    seconds
                    for seconds in (self.load_seconds, other.load_seconds)
                    if seconds is not None
                ),
                default=None,
            ),
        )


@dataclass(frozen=True, slots=True)
class Eviction:
    """That the server unloaded the model early, and which models it then had loaded.

    time is a Unix time in seconds. own are those of the models that a role of Home
    Agent used at that time.
    """

    time: float
    models: tuple[str, ...]
    own: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cadence:
    """Even gaps between uses, in seconds: their median, and the longest of them."""

    seconds: float
    longest: float


@dataclass(frozen=True, slots=True)
class Advice:
    """The costs per day that a keep_alive would have had."""

    keep_alive: str
    cold_starts: float = 0.0
    seconds_waited: float = 0.0
    hours_resident: float = 0.0

    def rounded(self) -> dict[str, Any]:
        """Return the figures rounded to one decimal, for display."""
        return {
            key: round(value, 1) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


class UseHistory:
    """When a model was used and evicted, and how long it took to load."""

    def __init__(
        self,
        uses: Iterable[Use] = (),
        loads: Iterable[float] = (),
        evictions: Iterable[Eviction] = (),
    ) -> None:
        """Start with stored uses, load times (seconds) and evictions."""
        self._uses = sorted(uses, key=_start)[-MAX_USES:]
        self.loads: deque[float] = deque(loads, MAX_LOADS)
        self.evictions: deque[Eviction] = deque(evictions, MAX_EVICTIONS)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what as_dict made, or an earlier version.

        Raise KeyError, ValueError or TypeError for anything else.
        """
        uses = [
            Use(
                float(start),
                float(end),
                int(requests),
                frozenset(*added[:1]),
                *(seconds and float(seconds) for seconds in added[1:]),
            )
            for start, end, requests, *added in data["uses"]
        ]
        evictions = [
            Eviction(float(time), tuple(map(str, models)), tuple(map(str, own)))
            for time, models, own in data.get("evictions", ())
        ]
        return cls(uses, map(float, data["loads"]), evictions)

    def as_dict(self) -> dict[str, Any]:
        """Return the history as JSON."""
        return {
            "uses": [
                [
                    use.start,
                    use.end,
                    use.requests,
                    sorted(use.subentry_ids),
                    use.load_seconds,
                ]
                for use in self._uses
            ],
            "loads": list(self.loads),
            "evictions": [
                [item.time, item.models, item.own] for item in self.evictions
            ],
        }

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing to store."""
        return not self._uses and not self.evictions

    @property
    def uses(self) -> list[Use]:
        """Return the uses of the last MAX_AGE, the oldest first.

        Uses that begin in the future were recorded while the clock was wrong.
        """
        now = _now()
        oldest = now - MAX_AGE.total_seconds()
        return [use for use in self._uses if oldest <= use.end and use.start <= now]

    def record(
        self,
        start: datetime,
        end: datetime,
        requests: int,
        load_seconds: float | None,
        subentry_id: str | None = None,
    ) -> None:
        """Add a use; load_seconds is how long it waited for the model to load.

        load_seconds is None if the server does not report it. subentry_id is the role
        that used the model. A use that overlaps with others, or is less than
        SAME_USE seconds apart from them, becomes one with them.
        """
        ids = frozenset[str]() if subentry_id is None else frozenset({subentry_id})
        use = new = Use(start.timestamp(), end.timestamp(), requests, ids, load_seconds)
        others: list[Use] = []
        for other in self._uses:
            if max(new.start - other.end, other.start - new.end) < SAME_USE:
                use = use.joined(other)
            else:
                others.append(other)
        insort(others, use, key=_start)
        if len(others) > MAX_USES:
            # The oldest one, or one that was recorded while the clock was wrong.
            others.remove(max(others, key=lambda item: abs(use.end - item.end)))
        self._uses = others
        if load_seconds is not None:
            self.record_load(load_seconds)

    def record_load(self, seconds: float) -> None:
        """Add a load time, unless it is so short that the model was loaded already."""
        if seconds >= COLD_LOAD:
            self.loads.append(seconds)

    @property
    def load_seconds(self) -> float | None:
        """Return what a load usually takes, None if none was seen."""
        return median(self.loads) if self.loads else None

    def cadence(self, subentry_id: str | None = None) -> Cadence | None:
        """Return the even gaps between uses of the last day, None if there are none.

        subentry_id is the role whose uses count, None for all. A question and its
        follow-ups are one use, unless they alone are even.
        """
        uses = [
            use
            for use in self.uses
            if subentry_id is None or subentry_id in use.subentry_ids
        ]
        since = _now() - DAY
        return _cadence(_gaps(_conversations(uses), since)) or _cadence(
            _gaps(uses, since)
        )

    def cold_starts(self, keep_alive: KeepAlive) -> int:
        """Return how many uses would have found the model not loaded."""
        return len(self._cold_uses(keep_alive))

    def waits(self, keep_alive: KeepAlive, subentry_id: str | None = None) -> int:
        """Return how many uses of the last day waited because of a keep_alive.

        That is, uses that would have found the model not loaded, and that really did,
        as far as the server reports it: another client may have kept the model, or
        another keep_alive may have been set at that time. subentry_id is the role
        whose uses count, None for all.
        """
        since = _now() - DAY
        return sum(
            use.start >= since
            and use.has_waited
            and (subentry_id is None or subentry_id in use.subentry_ids)
            for use in self._cold_uses(keep_alive)
        )

    def _cold_uses(self, keep_alive: KeepAlive) -> list[Use]:
        """Return the uses that began after a pause at least as long as a keep_alive."""
        limit = keep_alive.seconds
        return [
            later
            for earlier, later in pairwise(self.uses)
            if limit is not None and later.start - earlier.end >= limit
        ]

    def advise(self, keep_alive: KeepAlive) -> Advice:
        """Return what a keep_alive would have cost from the first use until now."""
        uses = self.uses
        if not uses:
            return Advice(keep_alive.text)
        now = _now()
        elapsed = now - uses[0].start
        # Cold starts of less than an hour say nothing about a day.
        cold = self.cold_starts(keep_alive) / max(elapsed / DAY, 1 / 24)
        used = sum(use.end - use.start for use in uses)
        pauses = [*_gaps(uses), max(now - uses[-1].end, 0.0)]
        limit = keep_alive.seconds
        held = sum(gap if limit is None else min(gap, limit) for gap in pauses)
        return Advice(
            keep_alive.text,
            cold_starts=cold,
            seconds_waited=cold * (self.load_seconds or 0.0),
            hours_resident=24 * (used + held) / elapsed if elapsed else 0.0,
        )

    def table(self, configured: KeepAlive) -> list[Advice]:
        """Return the costs of all candidates and of the configured keep_alive."""
        texts = dict.fromkeys((*CANDIDATES, configured.text))
        values = sorted(
            (KeepAlive.parse(text) for text in texts), key=lambda value: value.length
        )
        return [self.advise(value) for value in values]

    def suggestion(
        self, configured: KeepAlive, subentry_id: str | None = None
    ) -> str | None:
        """Return the keep_alive that would outlast the cadence that is seen.

        subentry_id is the role that it is for, None for all together. None if the
        role's uses of the last day do not come at even intervals, if the configured
        keep_alive is 0, -1 or longer than these, if fewer than OFTEN of these uses
        waited because of it, or if no load took longer than COLD_LOAD. "-1"
        if even the longest of _STEPS is too short. The result covers the longest of
        the even gaps and MARGIN: servers count keep_alive from the end of an answer.
        """
        cadence = self.cadence(subentry_id)
        if cadence is None or self.load_seconds is None or not configured.seconds:
            return None
        if (
            cadence.longest < configured.seconds
            or self.waits(configured, subentry_id) < OFTEN
        ):
            return None
        needed = cadence.longest + MARGIN
        for text in _STEPS:
            if (KeepAlive.parse(text).seconds or 0) >= needed:
                return text
        return "-1"


def _now() -> float:
    """Return the Unix time in seconds."""
    return dt_util.utcnow().timestamp()


def _start(use: Use) -> float:
    """Return when a use began, for sorting."""
    return use.start


def _gaps(uses: Sequence[Use], since: float = 0.0) -> list[float]:
    """Return the seconds from the end of each use to the start of the next one.

    Only of gaps that ended after since, a Unix time.
    """
    return [
        later.start - earlier.end
        for earlier, later in pairwise(uses)
        if later.start >= since
    ]


def _conversations(uses: Iterable[Use]) -> list[Use]:
    """Join uses that Home Assistant counts as one conversation."""
    joined: list[Use] = []
    for use in uses:
        if joined and use.start - joined[-1].end < CONVERSATION_TIMEOUT.total_seconds():
            joined[-1] = joined[-1].joined(use)
        else:
            joined.append(use)
    return joined


def _cadence(all_gaps: Sequence[float]) -> Cadence | None:
    """Return the cadence of gaps, None if too few of them are even.

    At least 60 percent of the last gaps must be close to their median.
    """
    gaps = all_gaps[-RECENT_GAPS:]
    if len(gaps) < MIN_GAPS:
        return None
    middle = median(gaps)
    even = [gap for gap in gaps if abs(gap - middle) <= EVENNESS * middle]
    if len(even) < max(MIN_GAPS, 0.6 * len(gaps)):
        return None
    return Cadence(middle, max(even))

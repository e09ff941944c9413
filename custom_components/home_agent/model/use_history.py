"""Recorded uses of a model, and what each keep_alive would have cost.

The costs are cold starts, seconds of waiting and hours in memory. They are computed
from the recorded uses. A use is a cold start if the pause since the end of the
previous use was at least as long as the keep_alive.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any, Final, Self

from homeassistant.util import dt as dt_util

from ..keep_alive import KeepAlive

# Limits of what is stored for each model.
MAX_USES: Final = 1000
MAX_LOADS: Final = 20
MAX_AGE: Final = timedelta(days=14)
# Uses that are less than this many seconds apart are recorded as one, such as a
# question and its follow-up.
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
# Seconds by which a suggested keep_alive exceeds the cadence plus the longest use.
MARGIN: Final = 60.0
# A cadence needs at least MIN_GAPS gaps among the last RECENT_GAPS. A gap counts as
# even if it differs from their median by at most EVENNESS times the median.
MIN_GAPS: Final = 4
EVENNESS: Final = 0.1
RECENT_GAPS: Final = 24

# From this many cold starts in a day on, a longer keep_alive is suggested.
OFTEN: Final = 3

DAY: Final = 86400.0


@dataclass(slots=True)
class Use:
    """A use of a model: Unix times in seconds, and its number of requests."""

    start: float
    end: float
    requests: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The costs per day that a keep_alive would have had."""

    keep_alive: str
    cold_starts: float
    seconds_waited: float
    hours_resident: float

    def rounded(self) -> dict[str, Any]:
        """Return the figures rounded to one decimal, for display."""
        return {
            key: round(value, 1) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


class UseHistory:
    """When a model was used and how long it took to load, within bounds."""

    def __init__(
        self,
        uses: Iterable[Use] = (),
        loads: Iterable[float] = (),
    ) -> None:
        """Start with stored uses and load times (seconds), the oldest first."""
        self.uses: deque[Use] = deque(uses, MAX_USES)
        self.loads: deque[float] = deque(loads, MAX_LOADS)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what as_dict made; raise ValueError or TypeError for anything else."""
        uses = [
            Use(float(start), float(end), int(requests))
            for start, end, requests in data["uses"]
        ]
        return cls(uses, map(float, data["loads"]))

    def as_dict(self) -> dict[str, Any]:
        """Return the history as JSON."""
        return {
            "uses": [[use.start, use.end, use.requests] for use in self.uses],
            "loads": list(self.loads),
        }

    def record(
        self, start: datetime, end: datetime, requests: int, load_seconds: float | None
    ) -> None:
        """Add a use; load_seconds is how long it waited for the model to load.

        load_seconds is None if the server does not report it.
        """
        begin, finish = start.timestamp(), end.timestamp()
        last = self.uses[-1] if self.uses else None
        if last and begin - last.end < SAME_USE:
            last.end = max(last.end, finish)
            last.requests += requests
        else:
            self.uses.append(Use(begin, finish, requests))
        while self.uses[0].end < finish - MAX_AGE.total_seconds():
            self.uses.popleft()
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

    @property
    def gaps(self) -> list[float]:
        """Return the seconds from the end of each use to the next one."""
        return [later.start - earlier.end for earlier, later in pairwise(self.uses)]

    @property
    def cadence(self) -> float | None:
        """Return the median gap if the uses come at even intervals, else None.

        At least 60 percent of the last gaps must be close to their median.
        """
        gaps = self.gaps[-RECENT_GAPS:]
        if len(gaps) < MIN_GAPS:
            return None
        middle = median(gaps)
        even = sum(abs(gap - middle) <= EVENNESS * middle for gap in gaps)
        return middle if even >= 0.6 * len(gaps) else None

    def cold_starts(self, keep_alive: KeepAlive, since: datetime | None = None) -> int:
        """Return how many uses would have found the model not loaded."""
        if keep_alive.seconds is None:
            return 0
        begin = since.timestamp() if since else 0.0
        return sum(
            later.start - earlier.end >= keep_alive.seconds
            for earlier, later in pairwise(self.uses)
            if later.start >= begin
        )

    def advise(self, keep_alive: KeepAlive) -> Advice:
        """Return what a keep_alive would have cost from the first use until now."""
        now = dt_util.utcnow().timestamp()
        days = max((now - self.uses[0].start) / DAY, 1 / 24) if self.uses else 1.0
        cold = self.cold_starts(keep_alive) / days
        used = sum(use.end - use.start for use in self.uses)
        pauses = [*self.gaps, *([now - self.uses[-1].end] if self.uses else [])]
        limit = keep_alive.seconds
        held = sum(gap if limit is None else min(gap, limit) for gap in pauses)
        return Advice(
            keep_alive=keep_alive.text,
            cold_starts=cold,
            seconds_waited=cold * (self.load_seconds or 0.0),
            hours_resident=(used + held) / 3600 / days,
        )

    def table(self, configured: KeepAlive) -> list[Advice]:
        """Return the costs of all candidates and of the configured keep_alive."""
        texts = dict.fromkeys((*CANDIDATES, configured.text))
        values = sorted(
            (KeepAlive.parse(text) for text in texts), key=lambda value: value.length
        )
        return [self.advise(value) for value in values]

    def suggestion(self, configured: KeepAlive) -> str | None:
        """Return the keep_alive that would outlast the cadence that is seen.

        None if the uses do not come at even intervals, if the configured keep_alive
        is 0 or -1, or if it caused fewer than OFTEN cold starts in the last day. "-1"
        if even the longest of _STEPS is too short. The result covers the cadence, the
        longest use and MARGIN: servers count keep_alive from the end of an answer.
        """
        cadence = self.cadence
        if cadence is None or not configured.nanoseconds:
            return None
        day_ago = dt_util.utcnow() - timedelta(days=1)
        if self.cold_starts(configured, day_ago) < OFTEN:
            return None
        needed = cadence + max(use.end - use.start for use in self.uses) + MARGIN
        for text in _STEPS:
            if (KeepAlive.parse(text).seconds or 0) >= needed:
                return text
        return "-1"

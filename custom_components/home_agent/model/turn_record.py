"""The figures of one turn: seconds and tokens."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

from homeassistant.util import dt as dt_util

from ..servers.messages import ChatStats


@dataclass(slots=True)
class TurnRecord:
    """Collects what the requests of one turn cost.

    subentry_id is the subentry whose role asked, None for a role made without one.
    first_token_seconds is the time from the start of the turn to the first piece of
    an answer. The other figures are sums over the requests of the turn; each is None
    if the server does not report it.
    """

    subentry_id: str | None
    started: datetime = field(default_factory=dt_util.utcnow)
    ended: datetime = field(default_factory=dt_util.utcnow)
    first_token_seconds: float | None = None
    _started_monotonic: float = field(default_factory=monotonic)
    _stats: list[ChatStats] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Return the seconds since the turn started."""
        return monotonic() - self._started_monotonic

    def add_first_token(self) -> None:
        """Record that a piece of an answer has arrived, if it is the first."""
        if self.first_token_seconds is None:
            self.first_token_seconds = self.seconds

    def add_answer(self, stats: ChatStats) -> None:
        """Record that a request was answered."""
        self.add_first_token()
        self._stats.append(stats)

    def finish(self) -> None:
        """Record the end of the turn."""
        self.ended = dt_util.utcnow()

    @property
    def requests(self) -> int:
        """Return how many requests were answered."""
        return len(self._stats)

    @property
    def load_seconds(self) -> float | None:
        """Return the seconds that requests waited for the model to be loaded."""
        return _sum(stats.load_seconds for stats in self._stats)

    @property
    def prompt_tokens(self) -> int | None:
        """Return the tokens of all prompts, those from the prompt cache included."""
        return _sum(stats.prompt_tokens for stats in self._stats)

    @property
    def cached_tokens(self) -> int | None:
        """Return the tokens of all prompts that the prompt cache held."""
        return _sum(stats.cached_tokens for stats in self._stats)

    @property
    def completion_tokens(self) -> int | None:
        """Return the tokens that the model generated."""
        return _sum(stats.completion_tokens for stats in self._stats)

    @property
    def tokens_per_second(self) -> float | None:
        """Return how fast the model generated its answers."""
        seconds = _sum(stats.completion_seconds for stats in self._stats)
        if not self.completion_tokens or not seconds:
            return None
        return self.completion_tokens / seconds


def _sum[N: (int, float)](values: Iterable[N | None]) -> N | None:
    """Return the sum of the values that are known, None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None

"""The adviser: what another keep_alive would have cost."""

from datetime import UTC, datetime, timedelta

from freezegun.api import FrozenDateTimeFactory
import pytest

from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.model.use_history import (
    MAX_AGE,
    MAX_LOADS,
    MAX_USES,
    UseHistory,
)

START = datetime(2026, 11, 21, tzinfo=UTC)


def used_every(
    minutes: float, times: int, *, seconds: float = 20, load: float | None = None
) -> UseHistory:
    """Return the history of a model that is used evenly."""
    history = UseHistory()
    for number in range(times):
        begin = START + number * timedelta(minutes=minutes)
        history.record(begin, begin + timedelta(seconds=seconds), 1, load)
    return history


def keep(text: str) -> KeepAlive:
    """Return a keep_alive."""
    return KeepAlive.parse(text)


@pytest.mark.parametrize(
    ("text", "cold", "hours"),
    [
        # 24 uses of 20 s in 23 h, and an hour of rest.
        ("0", 23, 24 * 20 / 3600),
        ("5m", 23, 24 * (20 + 300) / 3600),
        # From the end of a use to the next one are 59 min 40 s.
        ("59m", 23, 24 * (20 + 3540) / 3600),
        ("1h", 0, 24),
        ("-1", 0, 24),
    ],
)
def test_a_day_is_played_again(
    freezer: FrozenDateTimeFactory, text: str, cold: float, hours: float
) -> None:
    """Cold starts, waiting and memory of each candidate."""
    history = used_every(60, 24, load=8.0)
    freezer.move_to(START + timedelta(days=1))
    advice = history.advise(keep(text))
    assert advice.cold_starts == pytest.approx(cold)
    assert advice.seconds_waited == pytest.approx(8 * cold)
    assert advice.hours_resident == pytest.approx(hours, abs=0.01)
    assert advice.rounded()["keep_alive"] == text


def test_the_table_has_what_is_configured(freezer: FrozenDateTimeFactory) -> None:
    """In order of length, for ever last."""
    freezer.move_to(START)
    table = [item.keep_alive for item in UseHistory().table(keep("45m"))]
    assert table[0] == "0"
    assert table[-1] == "-1"
    assert table.index("30m") + 1 == table.index("45m") == table.index("1h") - 1
    assert [a.keep_alive for a in UseHistory().table(keep("5m"))].count("5m") == 1


def test_cadence() -> None:
    """Even uses have one, a person's do not."""
    assert used_every(60, 3).cadence is None
    assert used_every(60, 10).cadence == pytest.approx(3580)
    uneven = UseHistory()
    begin = START
    for minutes in (1, 90, 7, 240, 33, 5, 600, 60, 18):
        begin += timedelta(minutes=minutes)
        uneven.record(begin, begin, 1, None)
    assert uneven.cadence is None


@pytest.mark.parametrize(
    ("minutes", "configured", "suggestion"),
    [
        (60, "30m", "90m"),
        (60, "59m40s", "90m"),
        (60, "1h", None),
        (10, "5m", "15m"),
        (60, "-1", None),
        # On purpose.
        (60, "0", None),
        (25 * 60, "1h", None),
        (23 * 60, "1h", None),
    ],
)
def test_suggestion(
    freezer: FrozenDateTimeFactory,
    minutes: float,
    configured: str,
    suggestion: str | None,
) -> None:
    """What outlasts the pauses, with a margin; nothing for what is rare."""
    history = used_every(minutes, 12)
    freezer.move_to(START + 11 * timedelta(minutes=minutes))
    assert history.suggestion(keep(configured)) == suggestion


def test_uses_that_follow_closer_are_one() -> None:
    """A question and its follow-up; batches of an index."""
    history = UseHistory()
    for second in (0, 8, 16, 60):
        begin = START + timedelta(seconds=second)
        history.record(begin, begin + timedelta(seconds=2), 2, None)
    first, second_use = history.uses
    assert (first.end - first.start, first.requests) == (18, 6)
    assert second_use.requests == 2


def test_bounds() -> None:
    """Neither a year nor a busy day makes it grow."""
    history = used_every(1, MAX_USES + 50, load=2.0)
    assert (len(history.uses), len(history.loads)) == (MAX_USES, MAX_LOADS)
    late = START + MAX_AGE + timedelta(days=30)
    history.record(late, late, 1, None)
    assert len(history.uses) == 1
    # A loaded model's hundredths are no load.
    history.record_load(0.06)
    assert len(history.loads) == MAX_LOADS
    again = UseHistory.from_dict(history.as_dict())
    assert again.as_dict() == history.as_dict()

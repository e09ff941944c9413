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


@pytest.fixture(autouse=True)
def _two_days_later(freezer: FrozenDateTimeFactory) -> None:
    """Let all uses of the tests be in the past."""
    freezer.move_to(START + timedelta(days=2))


def used_every(
    minutes: float,
    times: int,
    *,
    seconds: float = 20,
    load: float | None = 8.0,
    subentry_id: str | None = None,
) -> UseHistory:
    """Return the history of a model that is used evenly."""
    history = UseHistory()
    for number in range(times):
        begin = START + number * timedelta(minutes=minutes)
        end = begin + timedelta(seconds=seconds)
        history.record(begin, end, 1, load, subentry_id)
    return history


def used_at(*times: tuple[float, float]) -> UseHistory:
    """Return the history of uses from and to a number of seconds after START."""
    history = UseHistory()
    for start, end in times:
        history.record(
            START + timedelta(seconds=start), START + timedelta(seconds=end), 1, 8.0
        )
    return history


def seconds_of(history: UseHistory) -> list[tuple[float, float]]:
    """Return start and end of all uses in seconds after START."""
    zero = START.timestamp()
    return [(use.start - zero, use.end - zero) for use in history.uses]


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


def test_cadence(freezer: FrozenDateTimeFactory) -> None:
    """Even uses have one, a person's do not."""
    freezer.move_to(START + timedelta(hours=19))
    assert used_every(60, 3).cadence() is None
    cadence = used_every(60, 10).cadence()
    assert cadence
    assert cadence.seconds == pytest.approx(3580)
    uneven = UseHistory()
    begin = START
    for minutes in (1, 90, 7, 240, 33, 5, 600, 60, 18):
        begin += timedelta(minutes=minutes)
        uneven.record(begin, begin, 1, None)
    assert uneven.cadence() is None


def test_three_gaps_are_even_by_chance(freezer: FrozenDateTimeFactory) -> None:
    """A person who asked five times in a day has no cadence of eight hours."""
    freezer.move_to(START + timedelta(hours=24.5))
    hours = (0, 7.8, 8.9, 16.6, 24.4)
    history = used_at(*((hour * 3600, hour * 3600 + 5) for hour in hours))
    assert history.cadence() is None
    assert history.suggestion(keep("1h")) is None


def test_only_the_last_day_has_a_cadence(freezer: FrozenDateTimeFactory) -> None:
    """A household that stopped its hourly task yesterday is not advised."""
    history = used_every(60, 12)
    freezer.move_to(START + timedelta(hours=12))
    assert history.cadence()
    assert history.suggestion(keep("5m"))
    freezer.move_to(START + timedelta(hours=36))
    assert history.cadence() is None
    assert history.suggestion(keep("5m")) is None


@pytest.mark.parametrize(
    ("follow_ups", "minutes"), [((), 60), ((50,), 60), ((50, 120, 200), 60), ((), 2)]
)
def test_a_question_with_its_follow_ups_is_one_use(
    freezer: FrozenDateTimeFactory, follow_ups: tuple[float, ...], minutes: float
) -> None:
    """Their short pauses hide no cadence, and a task every two minutes has one."""
    pause = minutes * 60
    times = [
        (number * pause + second, number * pause + second + 5)
        for number in range(8)
        for second in (0, *follow_ups)
    ]
    history = used_at(*times)
    freezer.move_to(START + timedelta(seconds=8 * pause))
    cadence = history.cadence()
    assert cadence
    assert cadence.seconds == pause - max((0, *follow_ups)) - 5


def test_the_suggestion_goes_by_gaps(freezer: FrozenDateTimeFactory) -> None:
    """A gap lasts from the end of a use to the next start: long uses add nothing."""
    history = used_every(30, 12, seconds=600)
    freezer.move_to(START + timedelta(hours=6))
    # 20 minutes and a margin; 30 minutes of the longest use are not in the gap.
    assert history.suggestion(keep("5m")) == "30m"
    # The longest of the even gaps counts, not the usual one: here 1,640 and 1,760 s.
    uneven = used_at(*((n * 1800 + 60 * (n % 2), n * 1800 + 100) for n in range(12)))
    assert uneven.suggestion(keep("5m")) == "45m"


def test_a_load_that_nobody_feels(freezer: FrozenDateTimeFactory) -> None:
    """Without a load of over a second there is nothing to gain."""
    freezer.move_to(START + timedelta(hours=12))
    assert used_every(60, 12).suggestion(keep("5m"))
    for load in (None, 0.5):
        assert used_every(60, 12, load=load).suggestion(keep("5m")) is None


def test_only_the_role_that_waited_is_advised(freezer: FrozenDateTimeFactory) -> None:
    """Two agents share the model, and one of them is never asked."""
    history = used_every(60, 12, subentry_id="asked")
    freezer.move_to(START + timedelta(hours=12))
    assert history.suggestion(keep("5m"), "asked") == "90m"
    assert history.suggestion(keep("5m"), "other") is None
    assert history.waits(keep("5m"), "asked") == 11
    assert history.waits(keep("5m"), "other") == 0


def test_a_cadence_is_that_of_the_role(freezer: FrozenDateTimeFactory) -> None:
    """Two roles share the model: one is used each hour, the other now and then."""
    history = used_every(60, 24, subentry_id="task")
    for hours in (1.4, 2.5, 7.5, 20.6):
        begin = START + timedelta(hours=hours)
        history.record(begin, begin, 1, 8.0, "person")
    freezer.move_to(START + timedelta(hours=24))
    assert history.waits(keep("5m"), "person") == 4
    assert history.suggestion(keep("5m"), "person") is None
    assert history.suggestion(keep("5m"), "task") == "90m"


def test_only_loads_that_happened_are_counted(freezer: FrozenDateTimeFactory) -> None:
    """Another client, or another keep_alive, had kept the model for half a day."""
    history = used_every(60, 12, load=0.02)
    for number in range(12, 24):
        begin = START + timedelta(hours=number)
        history.record(begin, begin + timedelta(seconds=20), 1, 8.0)
    freezer.move_to(START + timedelta(hours=24))
    assert history.cold_starts(keep("5m")) == 23
    assert history.waits(keep("5m")) == 12
    assert UseHistory.from_dict(history.as_dict()).waits(keep("5m")) == 12
    # A server that does not report it: by the pauses.
    assert used_every(60, 12, load=None).waits(keep("5m")) == 11


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
    freezer.move_to(START + 11 * timedelta(minutes=minutes, seconds=20))
    assert history.suggestion(keep(configured)) == suggestion


def test_uses_that_follow_closer_are_one() -> None:
    """The batches of an index, for example."""
    history = UseHistory()
    for second in (0, 8, 16, 60):
        begin = START + timedelta(seconds=second)
        history.record(begin, begin + timedelta(seconds=2), 2, None)
    first, second_use = history.uses
    assert (first.end - first.start, first.requests) == (18, 6)
    assert second_use.requests == 2


@pytest.mark.parametrize(
    ("times", "uses"),
    [
        # A long turn ends after a short one that began later.
        ([(50, 60), (0, 100)], [(0, 100)]),
        ([(50, 60), (80, 90), (0, 100)], [(0, 100)]),
        ([(0, 10), (50, 60), (40, 100)], [(0, 10), (40, 100)]),
        # The clock was set back meanwhile.
        ([(500, 510), (100, 110)], [(100, 110), (500, 510)]),
    ],
)
def test_overlapping_uses(
    times: list[tuple[float, float]], uses: list[tuple[float, float]]
) -> None:
    """They are one from the earliest start to the latest end, whoever ends first."""
    assert seconds_of(used_at(*times)) == uses


def test_a_clock_in_the_future(freezer: FrozenDateTimeFactory) -> None:
    """What was recorded before it counts again as soon as the clock is right."""
    history = used_every(60, 5)
    wrong = START + timedelta(days=400)
    freezer.move_to(wrong)
    history.record(wrong, wrong + timedelta(seconds=5), 1, None)
    assert len(history.uses) == 1
    freezer.move_to(START + timedelta(hours=6))
    again = UseHistory.from_dict(history.as_dict())
    for known in (history, again):
        assert len(known.uses) == 5
        assert known.cadence()
    now = START + timedelta(hours=5)
    history.record(now, now + timedelta(seconds=20), 1, None)
    assert len(history.uses) == 6
    assert history.cold_starts(keep("-1")) == 0
    assert history.cold_starts(keep("5m")) == 5


@pytest.mark.parametrize("minutes", [10, 90])
def test_hours_count_from_the_first_use_on(
    freezer: FrozenDateTimeFactory, minutes: float
) -> None:
    """Also in the first hour: a model that was never unloaded is there all day."""
    history = used_every(60, 1)
    freezer.move_to(START + timedelta(minutes=minutes))
    assert history.advise(keep("-1")).hours_resident == pytest.approx(24)
    # Half of the time.
    half = history.advise(KeepAlive.parse(f"{round(minutes * 30 - 20)}s"))
    assert half.hours_resident == pytest.approx(12)
    freezer.move_to(START)
    assert history.advise(keep("5m")).hours_resident == 0
    assert UseHistory().advise(keep("5m")).hours_resident == 0


def test_bounds(freezer: FrozenDateTimeFactory) -> None:
    """Neither a year nor a busy day makes it grow."""
    history = used_every(1, MAX_USES + 50, load=2.0)
    assert (len(history.uses), len(history.loads)) == (MAX_USES, MAX_LOADS)
    assert history.uses[0].start == (START + timedelta(minutes=50)).timestamp()
    late = START + MAX_AGE + timedelta(days=30)
    freezer.move_to(late)
    history.record(late, late, 1, None)
    assert len(history.uses) == 1
    assert len(history.as_dict()["uses"]) == MAX_USES
    # A loaded model's hundredths are no load.
    history.record_load(0.06)
    assert len(history.loads) == MAX_LOADS
    again = UseHistory.from_dict(history.as_dict())
    assert again.as_dict() == history.as_dict()


def test_a_history_of_an_earlier_version() -> None:
    """It had no roles and no evictions."""
    start = START.timestamp()
    history = UseHistory.from_dict({"uses": [[start, start + 5, 2]], "loads": [3]})
    (use,) = history.uses
    assert use.subentry_ids == frozenset()
    assert not history.evictions

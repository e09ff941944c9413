"""Days of a household: all sensors and repairs must show what is true.

Two days in the suite; `python -m benchmarks.thirty_days` sets more, prints a table, and
takes other seeds.
"""

from collections.abc import AsyncIterator
import logging
import os

from freezegun.api import FrozenDateTimeFactory
from homeassistant.core import HomeAssistant
import pytest

from .household import Household
from .oracle import Oracle
from .repairs import RepairCheck
from .sensors import SensorCheck
from .world import World

DAYS = int(os.environ.get("HOME_AGENT_TEST_DAYS", "2"))
SEED = int(os.environ.get("HOME_AGENT_TEST_SEED", "1"))
SHOWS_CHANGES = bool(os.environ.get("HOME_AGENT_TEST_CHANGES"))
# Seconds by which the server's clock is ahead.
SKEW = 5.0
# What another client has done is shown with the next poll.
LONGEST_WRONG = 65.0
# At most: a poll a minute, and those that follow requests.
POLLS_A_DAY = 2500


@pytest.fixture
async def world(
    all_entities: None,
    home: HomeAssistant,
    freezer: FrozenDateTimeFactory,
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[World]:
    """Return a world with a running server and Home Agent set up."""
    home.loop.set_debug(False)
    # Each line of the log costs more time than what it is about.
    caplog.set_level(logging.CRITICAL)
    for name in ("aiohttp.access", "homeassistant", "custom_components"):
        caplog.set_level(logging.CRITICAL, name)
    made = World(home, freezer, SKEW)
    # Undone before the fixture ends that has replaced the same function.
    with pytest.MonkeyPatch.context() as monkeypatch:
        await made.start(monkeypatch)
        yield made
        if made.is_up:
            await made.stop_server()


async def test_what_is_shown_is_true(world: World) -> None:
    """The sensors equal each poll, and the repairs are those of the oracle."""
    household = Household(world, SEED)
    oracle = household.events = Oracle(world, household)
    sensors, repairs = SensorCheck(world), RepairCheck(world, oracle)

    def observe() -> None:
        """Look whenever nothing moves any more."""
        oracle.polled()
        sensors.observe()
        repairs.observe()

    world.observe = observe
    for number in range(DAYS):
        await household.live(number)
    print_table(world, household, oracle, sensors, repairs)
    assert sensors.compared > DAYS * 1000
    assert sensors.faults == []
    assert sensors.longest <= LONGEST_WRONG
    assert repairs.faults == []
    assert len(repairs.changes) > 4
    assert len(world.server.memory.record.polls) < DAYS * POLLS_A_DAY


def print_table(
    world: World,
    household: Household,
    oracle: Oracle,
    sensors: SensorCheck,
    repairs: RepairCheck,
) -> None:
    """Print what has happened, what it cost, and what was wrong."""
    record = world.server.memory.record
    evictions, shown = oracle.evictions
    rows = {
        "days": str(DAYS),
        "polls a day": f"{len(record.polls) / DAYS:.0f}",
        "loads a day": f"{len(record.loads) / DAYS:.1f}",
        "questions and tasks a day": f"{household.turns / DAYS:.1f}",
        "comparisons of a model's sensors with a poll": str(sensors.compared),
        "of these, different": str(len(sensors.faults)),
        "longest difference from the memory": f"{sensors.longest:.0f} s",
        "repairs raised or cleared": str(len(repairs.changes)),
        "repairs that were not true, or missing": str(len(repairs.faults)),
        "evictions, those that a poll could show": f"{evictions}, {shown}",
    }
    rows |= {
        f"writes of {key} a day": f"{count / DAYS:.1f}"
        for key, count in world.writes.most_common()
    }
    print()
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    print("| events | " + ", ".join(f"{n} {e}" for e, n in household.done.items()), "|")
    print(*(repairs.changes if SHOWS_CHANGES else ()), sep="\n")
    print(*repairs.faults, *sensors.faults, sep="\n")

"""The keep_alive that is in effect, whatever happens between two requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
import pytest

from custom_components.home_agent.agent import HomeAgent
from custom_components.home_agent.model.role import merged_config
from tests.conftest import MakeEntry, call_action, say
from tests.passing_time import PassingTime
from tests.servers import ManualClock, OllamaStandIn
from tests.servers.stand_in import Fault

from .test_keep_alive_changes import (
    FOREVER,
    PRIMARY,
    applied,
    change,
    seconds,
)


@pytest.fixture
def time(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> PassingTime:
    """Return the time of the home and of the server."""
    return PassingTime(home, ollama, clock, freezer)


async def spin(turns: int) -> None:
    """Let tasks and sockets go on for some turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def advance_minutes(time: PassingTime, minutes: int) -> None:
    """Let minutes pass, with a poll in each."""
    for _ in range(minutes):
        await time.advance(61)


def shown(time: PassingTime, device: str = "agent") -> dict[str, Any]:
    """Return the attributes of the time at which a model unloads."""
    state = time.hass.states.get(f"sensor.{device}_unloads_at")
    assert state
    return dict(state.attributes)


async def hold_elsewhere(
    server: OllamaStandIn, length: float, model: str = PRIMARY
) -> None:
    """Let the server hold a model that no request of Home Agent has loaded."""
    async with server.memory.use(
        model,
        2**31,
        seconds=length,
        num_ctx=8192,
        largest_num_ctx=131072,
        load=lambda: 0,
    ):
        pass


# --- A setting that changes while a turn runs ---------------------------------------


async def test_the_agent_of_before_sends_the_last_request_of_a_turn(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """What was sent last is compared with the settings, and nothing sent meanwhile."""
    server = time.server
    entry = await make_entry(
        server.url, conversation={"llm_keep_alive": "-1", "llm_warm_up": True}
    )
    await time.settle()
    server.hold()
    turn = asyncio.ensure_future(say(time.hass, "turn on the kitchen light"))
    await spin(200)
    (subentry,) = entry.subentries.values()
    time.hass.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, "llm_keep_alive": "1m"}
    )
    await spin(500)
    server.release()
    await turn
    await time.settle()
    assert [body["keep_alive"] for body in server.sent("/api/chat")][-1] == -1
    await time.advance(6)
    assert seconds(server) == 60
    assert shown(time)["keep_alive_in_effect"] == "1m"
    assert applied(server)[-1] == "1m"


async def test_an_agent_that_is_removed_sends_the_last_request_of_a_turn(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Then the keep_alive of the roles that remain is applied."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "-1"})
    await make_entry(server.url, conversation={"llm_keep_alive": "1m"})
    server.hold()
    turn = asyncio.ensure_future(say(time.hass, "turn on the kitchen light"))
    await spin(200)
    time.hass.config_entries.async_remove_subentry(entry, next(iter(entry.subentries)))
    await spin(300)
    server.release()
    await turn
    await time.settle()
    assert seconds(server) == FOREVER
    await time.advance(6)
    assert seconds(server) == 60


async def test_a_caller_replaces_the_keep_alive_of_one_request(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """That is no setting that was missed, and is not taken back."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "5m"})
    (subentry,) = entry.subentries.values()
    agent = HomeAgent(time.hass, merged_config(entry, subentry))
    await agent._call_llm([{"role": "user", "content": "Hello"}], keep_alive="2h")
    await time.settle()
    await time.advance(6)
    assert seconds(server) == 7200
    assert applied(server) == []


# --- A change that the server does not take -----------------------------------------


async def test_a_change_that_fails_is_tried_again(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Once a minute, while the server stays up."""
    server = time.server
    entry = await make_entry(
        server.url, conversation={"llm_keep_alive": "-1", "llm_warm_up": True}
    )
    await time.settle()
    server.faults += [Fault(status=500, body={"error": "try later"})] * 3
    before = len(applied(server))
    await change(time, entry, llm_keep_alive="2m")
    assert shown(time)["keep_alive_in_effect"] == "-1"
    for _ in range(30):
        await time.advance(2)
    assert len(applied(server)) - before <= 2
    for _ in range(4):
        await advance_minutes(time, 1)
        await time.advance(6)
    assert not server.faults
    assert applied(server)[-1] == "2m"
    assert seconds(server) in (120, None)
    assert shown(time)["keep_alive_in_effect"] == "2m"


async def test_a_change_is_not_tried_for_a_model_that_is_gone(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """It is not loaded for that."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "-1"})
    await say(time.hass, "Hello")
    await time.settle()
    server.faults.append(Fault(status=500, body={"error": "try later"}))
    await change(time, entry, llm_keep_alive="2m")
    server.memory.unload(PRIMARY)
    requests = len(server.asked)
    await advance_minutes(time, 5)
    assert len(server.asked) == requests


@pytest.mark.parametrize(("before", "after"), [("2m", "1h"), ("-1", "2m")])
async def test_a_change_whose_answer_is_lost_is_sent_again(
    time: PassingTime, make_entry: MakeEntry, before: str, after: str
) -> None:
    """Nobody knows whether the server has applied it."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": before})
    await say(time.hass, "Hello")
    await time.settle()
    server.faults.append(Fault(hang_up_after=0))
    await change(time, entry, llm_keep_alive=after)
    await time.advance(61)
    await time.advance(6)
    assert seconds(server) == {"2m": 120, "1h": 3600}[after]


# --- What the server holds before the first request ---------------------------------


@pytest.mark.parametrize("length", [1e10, 86400.0])
async def test_a_value_that_changed_while_home_assistant_was_not_running(
    time: PassingTime, make_entry: MakeEntry, length: float
) -> None:
    """The server holds the model for longer than any role wants."""
    server = time.server
    await hold_elsewhere(server, length)
    await make_entry(server.url, conversation={"llm_keep_alive": "2m"})
    await time.settle()
    assert shown(time)["keep_alive_in_effect"] is None
    assert shown(time)["kept_by"] == []
    await time.advance(6)
    assert seconds(server) == 120
    assert shown(time)["keep_alive_in_effect"] == "2m"
    assert shown(time)["kept_by"] == ["Agent"]


@pytest.mark.parametrize(("length", "configured"), [(60, "2m"), (1e10, "-1")])
async def test_a_time_that_is_not_longer_is_left_alone(
    time: PassingTime, make_entry: MakeEntry, length: float, configured: str
) -> None:
    """It may be what is left of the right one."""
    server = time.server
    await hold_elsewhere(server, length)
    await make_entry(server.url, conversation={"llm_keep_alive": configured})
    await time.settle()
    await time.advance(6)
    assert applied(server) == []


async def test_a_second_entry_wants_what_the_server_holds(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """At the start, entries are set up one after the other."""
    server = time.server
    await hold_elsewhere(server, 1e10)
    await make_entry(server.url, conversation={"llm_keep_alive": "5m"})
    await make_entry(server.url, conversation={"llm_keep_alive": "-1"})
    await time.settle()
    await time.advance(6)
    assert applied(server) == []
    assert seconds(server) == FOREVER


async def test_another_client_that_comes_later_is_left_alone(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Its request decides until the next one of Home Agent."""
    server = time.server
    await make_entry(server.url, conversation={"llm_keep_alive": "2m"})
    await time.settle()
    await hold_elsewhere(server, 1e10)
    await advance_minutes(time, 3)
    assert applied(server) == []
    assert seconds(server) == FOREVER


# --- Long values, and requests that are cancelled -----------------------------------


@pytest.mark.parametrize("text", ["200000h", "876000h", "2562047h"])
async def test_a_keep_alive_of_many_years(
    time: PassingTime, make_entry: MakeEntry, text: str
) -> None:
    """The server holds it, so no issue says that it holds another one."""
    await make_entry(time.server.url, conversation={"llm_keep_alive": text})
    for _ in range(4):
        await say(time.hass, "Hello")
        await time.settle()
        await time.advance(90)
    # 2562047h is the longest duration, by which Ollama expresses -1.
    assert shown(time)["never_unloads"] is (text == "2562047h")
    issues = ir.async_get(time.hass).issues
    assert not [issue_id for _, issue_id in issues if issue_id.startswith("not_held")]


async def test_a_question_that_is_cancelled_has_set_its_keep_alive(
    time: PassingTime, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has got it, and counts from when the client hung up."""
    server = time.server
    await make_entry(server.url, conversation={"llm_keep_alive": "5m"})
    await call_action(time.hass, "load_model", keep_alive="24h")
    await time.settle()
    assert shown(time)["keep_alive_in_effect"] == "24h"
    started = asyncio.Event()
    answer_lines = server.answer_lines

    @asynccontextmanager
    async def never_end(
        body: dict[str, Any], endpoint: str = "chat"
    ) -> AsyncIterator[list[dict[str, Any]]]:
        async with answer_lines(body, endpoint) as lines:
            started.set()
            await asyncio.Event().wait()
            yield lines

    monkeypatch.setattr(server, "answer_lines", never_end)
    turn = asyncio.ensure_future(say(time.hass, "Hello"))
    await started.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    await spin(300)
    await time.settle()
    await time.advance(3)
    assert seconds(server) == 300
    assert shown(time)["keep_alive_in_effect"] == "5m"

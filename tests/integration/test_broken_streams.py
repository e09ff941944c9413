"""An action never runs twice, wherever a stream breaks.

Here each line of a stream is broken at a few places; tests/unit/servers breaks streams
at every byte.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import accumulate

from homeassistant.core import HomeAssistant
import pytest
from pytest_homeassistant_custom_component.common import async_mock_service

from tests.conftest import MakeEntry, say, speech
from tests.servers import (
    ChatCall,
    OllamaStandIn,
    OpenAIStandIn,
    Reply,
    RuleBrain,
    ToolUse,
)
from tests.servers.stand_in import Fault, StandIn

TURN_ON = ToolUse("HassTurnOn", {"name": "Kitchen Light"})
TURN_OFF = ToolUse("HassTurnOff", {"name": "Coffee Machine"})
LOST = "broke off its answer"


@pytest.fixture(params=["Ollama", "OpenAI-compatible"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[StandIn]:
    """Return each kind of server in turn."""
    async with AsyncExitStack() as stack:
        stand_in: StandIn = (
            OllamaStandIn()
            if request.param == "Ollama"
            else OpenAIStandIn(models=["llama3.2:3b"])
        )
        yield await stack.enter_async_context(stand_in)


class Script(RuleBrain):
    """Gives one reply to a question, and another to the results of tools."""

    def __init__(self, first: Reply) -> None:
        """Give first to a question."""
        super().__init__()
        self._first = first

    def __call__(self, call: ChatCall) -> Reply:
        """Return the reply to a request."""
        return Reply("Good night.") if call.last["role"] == "tool" else self._first


class Turns:
    """Runs turns of one entry with scripted replies and faults."""

    def __init__(self, hass: HomeAssistant, server: StandIn) -> None:
        """Count the actions that are called."""
        self.hass = hass
        self.server = server
        self.names: list[str] = []
        self.calls = [
            async_mock_service(hass, domain, service)
            for domain in ("light", "switch", "homeassistant")
            for service in ("turn_on", "turn_off", "toggle")
        ]

    def full_name(self, suffix: str) -> str:
        """Return the name that a tool has in this version of Home Assistant."""
        return next((name for name in self.names if name.endswith(suffix)), suffix)

    async def learn_names(self) -> None:
        """Read the names of the tools from a first request."""
        await self.run(Reply("Hello."))
        body = self.server.asked[-1].body
        self.names = [tool["function"]["name"] for tool in body["tools"]]

    async def run(self, reply: Reply, *faults: Fault) -> tuple[str, int, int]:
        """Return the speech, the number of actions and that of requests."""
        for calls in self.calls:
            calls.clear()
        tools = tuple(
            ToolUse(self.full_name(use.name), use.arguments) for use in reply.tools
        )
        self.server.brain = Script(replace(reply, tools=tools))
        self.server.faults.clear()
        self.server.faults.extend(faults)
        self.server.requests.clear()
        said = speech(await say(self.hass, "Good night"))
        # What a broken stream has started would run now.
        await self.hass.async_block_till_done()
        actions = sum(len(calls) for calls in self.calls)
        return said, actions, len(self.server.asked)


@pytest.fixture
async def turns(home: HomeAssistant, server: StandIn, make_entry: MakeEntry) -> Turns:
    """Return what runs turns, once the names of the tools are known."""
    await make_entry(server.url, conversation={})
    result = Turns(home, server)
    await result.learn_names()
    return result


async def places(turns: Turns, reply: Reply) -> list[int]:
    """Return numbers of bytes after which to break the answer to the first request.

    They lie before, in and after each line. None of them breaks a stream that has more
    bytes behind its end mark.
    """
    turns.server.streamed.clear()
    said, _, _ = await turns.run(reply)
    assert said == "Good night."
    lines = turns.server.streamed[0]
    starts = accumulate((len(line) for line in lines), initial=0)
    found = {
        start + cut
        for start, line in zip(starts, lines, strict=False)
        for cut in (0, 1, len(line) // 2, len(line) - 1)
    }
    return [*sorted(found), sum(map(len, lines)) + 10]


async def test_tool_calls_run_once_when_the_stream_breaks(turns: Turns) -> None:
    """Two tool calls, the stream broken at any line."""
    reply = Reply(tools=(TURN_ON, TURN_OFF))
    outcomes = set()
    for count in await places(turns, reply):
        said, actions, requests = await turns.run(reply, Fault(hang_up_after=count))
        assert (count, said, actions) == (count, "Good night.", 2)
        outcomes.add(requests)
    # A break behind the end mark is none.
    assert outcomes == {2, 3}


async def test_text_before_a_tool_call_is_not_said_twice(turns: Turns) -> None:
    """After the first word has been passed on, a break ends the turn."""
    reply = Reply("One moment.", tools=(TURN_ON,))
    outcomes = set()
    for count in await places(turns, reply):
        said, actions, requests = await turns.run(reply, Fault(hang_up_after=count))
        outcomes.add((LOST in said, actions, requests))
    assert outcomes == {
        (False, 1, 3),  # nothing was said yet: asked again
        (True, 0, 1),  # a word was said: the turn ends, and nothing was done
        (False, 1, 2),  # the stream was complete
    }


async def test_a_break_after_the_action_does_not_repeat_it(turns: Turns) -> None:
    """The second request's stream breaks: the first one is not sent again."""
    requests_seen = set()
    for count in await places(turns, Reply("Good night.")):
        said, actions, requests = await turns.run(
            Reply(tools=(TURN_ON,)), Fault(), Fault(hang_up_after=count)
        )
        assert actions == 1
        assert said == "Good night." or LOST in said
        requests_seen.add(requests)
    assert requests_seen == {2, 3}


@pytest.mark.parametrize("lines", range(4))
async def test_an_error_in_the_stream_starts_no_action(
    turns: Turns, lines: int
) -> None:
    """The server reports an error in the middle: nothing of the answer counts."""
    fault = Fault(error_after_lines=lines, error_text="an error was encountered")
    said, actions, requests = await turns.run(
        Reply("One moment, please.", tools=(TURN_ON,)), fault
    )
    assert "reports an error" in said
    assert (actions, requests) == (0, 1)


async def test_an_answer_in_one_piece_that_breaks_is_asked_for_again(
    home: HomeAssistant, server: StandIn, make_entry: MakeEntry
) -> None:
    """Without streaming, too, each action runs once."""
    await make_entry(server.url, conversation={"llm_stream": False})
    turns = Turns(home, server)
    await turns.learn_names()
    for count in (0, 1, 10, 100, 200, 249):
        said, actions, requests = await turns.run(
            Reply(tools=(TURN_ON,)), Fault(hang_up_after=count)
        )
        assert (said, actions, requests) == ("Good night.", 1, 3)

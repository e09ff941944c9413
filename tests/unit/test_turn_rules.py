"""Rules of a turn that hold whatever a model says: when it ends, what is done."""

from collections import Counter
import json
from typing import Any

from homeassistant.const import MAJOR_VERSION, MINOR_VERSION
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import llm
from hypothesis import HealthCheck, given, settings, strategies as st
import probatio as vol
import pytest

from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn, OpenAIStandIn
from tests.servers.chat import Reply, ToolUse
from tests.servers.stand_in import Fault

HAS_SILENT_RESPONSE = (MAJOR_VERSION, MINOR_VERSION) >= (2026, 11)
NO_ANSWER = "The model gave no answer"
CONFIRMATION = "" if HAS_SILENT_RESPONSE else "Done."
MAX_REQUESTS = 10


class CountingTool(llm.Tool):
    """A tool that counts its calls."""

    parameters = vol.Schema({vol.Optional("text"): str, vol.Optional("items"): list})

    def __init__(self, name: str, calls: list[dict[str, Any]], *, fails: bool) -> None:
        """Count into calls; fail if the test wants that."""
        self.name = name
        self.description = "A tool of a test"
        self._calls = calls
        self._fails = fails

    async def async_call(
        self,
        hass: HomeAssistant,
        tool_input: llm.ToolInput,
        llm_context: llm.LLMContext,
    ) -> llm.ToolResult:
        """Count the call."""
        self._calls.append({"tool": self.name, **tool_input.tool_args})
        if self._fails:
            raise HomeAssistantError("The lock is jammed")
        return llm.ToolResult(data={"state": "done"})


class TestAPI(llm.API):
    """An API with a tool that works and one that fails."""

    __test__ = False

    def __init__(self, hass: HomeAssistant) -> None:
        """Start without calls."""
        super().__init__(hass=hass, id="test", name="Test")
        self.calls: list[dict[str, Any]] = []

    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> llm.APIInstance:
        """Return both tools."""
        tools: list[llm.Tool] = [
            CountingTool("act", self.calls, fails=False),
            CountingTool("jam", self.calls, fails=True),
        ]
        return llm.APIInstance(self, "", llm_context, tools)


@pytest.fixture
def api(home: HomeAssistant) -> TestAPI:
    """Return an API whose calls are counted."""
    api = TestAPI(home)
    llm.async_register_api(home, api)
    return api


@pytest.fixture
async def agent(
    api: TestAPI, ollama: OllamaStandIn, make_entry: MakeEntry
) -> OllamaStandIn:
    """Return the server of an agent that is offered the tools of the test."""
    await make_entry(
        ollama.url, conversation={"llm_hass_api": ["test"]}, llm_server_kind="ollama"
    )
    return ollama


ACT = Reply(tools=(ToolUse("act"),))
JAM = Reply(tools=(ToolUse("jam"),))


@pytest.mark.parametrize(
    "silence", [Reply(""), Reply("  \n", chunks=("  ", "\n")), Reply(thinking="Hm.")]
)
async def test_silence_after_an_action_ends_the_turn(
    home: HomeAssistant, api: TestAPI, agent: OllamaStandIn, silence: Reply
) -> None:
    """The model is not asked again: it might act a second time."""
    agent.brain.replies.extend([ACT, silence, ACT])
    assert speech(await say(home, "Go")).strip() == CONFIRMATION
    assert len(api.calls) == 1
    assert len(agent.sent("/api/chat")) == 2


async def test_silence_after_a_failed_action_is_an_error(
    home: HomeAssistant, api: TestAPI, agent: OllamaStandIn
) -> None:
    """A lock that did not lock must not be passed over in silence."""
    agent.brain.replies.extend([JAM, Reply("")])
    assert NO_ANSWER in speech(await say(home, "Go"))
    assert len(api.calls) == 1


async def test_the_next_turn_works_after_silence(
    home: HomeAssistant, api: TestAPI, agent: OllamaStandIn
) -> None:
    """The conversation goes on, with the silent turn in it."""
    agent.brain.replies.extend([ACT, Reply(""), Reply("Yes.")])
    result = await say(home, "Go")
    again = await say(home, "Did you?", result.conversation_id)
    assert speech(again) == "Yes."
    assert len(api.calls) == 1


async def test_the_tools_stay_in_the_last_request(
    home: HomeAssistant, api: TestAPI, agent: OllamaStandIn
) -> None:
    """An equal prefix is reused from the prompt cache; calls are refused."""
    agent.brain.replies.extend([ACT] * 12)
    assert NO_ANSWER in speech(await say(home, "Go"))
    bodies = agent.sent("/api/chat")
    assert len(bodies) == MAX_REQUESTS
    assert all(body["tools"] == bodies[0]["tools"] for body in bodies)
    assert len(api.calls) == MAX_REQUESTS - 1


async def test_calls_are_forbidden_in_the_last_request(
    home: HomeAssistant, api: TestAPI, make_entry: MakeEntry
) -> None:
    """By tool_choice, where the server has it."""
    async with OpenAIStandIn(models=["llama3.2:3b"]) as server:
        await make_entry(server.url, conversation={"llm_hass_api": ["test"]})
        server.brain.replies.extend([ACT] * 9)
        server.brain.replies.append(Reply("Enough."))
        assert speech(await say(home, "Go")) == "Enough."
        bodies = server.sent("/v1/chat/completions")
    choices = [body.get("tool_choice") for body in bodies]
    assert choices == [None] * 9 + ["none"]


async def test_a_tool_that_was_not_offered_is_refused(
    home: HomeAssistant, api: TestAPI, agent: OllamaStandIn
) -> None:
    """The model gets the reason and may go on."""
    agent.brain.replies.extend([Reply(tools=(ToolUse("open_gate"),)), Reply("No.")])
    assert speech(await say(home, "Go")) == "No."
    assert not api.calls
    result = agent.sent("/api/chat")[-1]["messages"][-1]
    assert "no tool of this name" in result["content"]


async def test_the_model_learns_that_a_tool_has_failed(
    home: HomeAssistant, api: TestAPI, agent: OllamaStandIn
) -> None:
    """With the reason, in Home Assistant's own form."""
    agent.brain.replies.extend([JAM, Reply("It is jammed.")])
    await say(home, "Go")
    result = agent.sent("/api/chat")[-1]["messages"][-1]
    assert '"error":true' in result["content"]
    assert "The lock is jammed" in result["content"]


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ({"text": '{"a": 1}'}, {"text": '{"a": 1}'}),
        ({"text": "[x]"}, {"text": "[x]"}),
        ({"items": '["a", "b"]'}, {"items": ["a", "b"]}),
        ({"items": None, "text": ""}, {}),
    ],
)
async def test_only_arguments_that_are_no_text_are_parsed(
    home: HomeAssistant,
    api: TestAPI,
    agent: OllamaStandIn,
    sent: dict[str, Any],
    received: dict[str, Any],
) -> None:
    """A text that looks like JSON stays a text where the tool wants one."""
    agent.brain.replies.extend([Reply(tools=(ToolUse("act", sent),)), Reply("Ok.")])
    await say(home, "Go")
    assert api.calls == [{"tool": "act", **received}]


async def test_thinking_that_is_cut_off_is_explained(
    home: HomeAssistant, agent: OllamaStandIn
) -> None:
    """The user hears what to change."""
    agent.brain.replies.append(Reply(thinking="Hm.", finish_reason="length"))
    assert "cut off" in speech(await say(home, "Go"))


REPLIES = st.one_of(
    st.sampled_from(
        [
            ACT,
            JAM,
            Reply(tools=(ToolUse("act"), ToolUse("act"))),
            Reply("Working on it.", tools=(ToolUse("act"),)),
            Reply(tools=(ToolUse("open_gate"),)),
            Reply(""),
            Reply(" "),
            Reply(thinking="Hm."),
            Reply("Done."),
            Reply("I am", finish_reason="length"),
        ]
    ),
    st.sampled_from([Fault(status=500), Fault(hang_up_after=0)]),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    database=None,
)
@given(script=st.lists(REPLIES, max_size=14))
async def test_a_turn_always_ends_and_does_nothing_twice(
    home: HomeAssistant, api: TestAPI, agent: OllamaStandIn, script: list[Any]
) -> None:
    """Whatever the model says: see the assertions."""
    agent.brain.replies.clear()
    agent.faults.clear()
    agent.requests.clear()
    api.calls.clear()
    given_replies: list[Reply] = []
    original = agent.brain

    def brain(call: Any) -> Reply:
        reply = original(call)
        given_replies.append(reply)
        return reply

    agent.brain.replies.extend(item for item in script if isinstance(item, Reply))
    agent.faults.extend(item for item in script if isinstance(item, Fault))
    agent.brain = brain  # type: ignore[assignment]
    try:
        await say(home, "Go")
    finally:
        agent.brain = original
    wanted = Counter(
        use.name for reply in given_replies for use in reply.tools if use.name != "gate"
    )
    done = Counter(call["tool"] for call in api.calls)
    assert done <= wanted
    rounds = sum(bool(reply.tools) for reply in given_replies)
    faults = sum(isinstance(item, Fault) for item in script)
    assert len(agent.sent("/api/chat")) <= rounds + 1 + min(faults, rounds + 2)
    assert len(agent.sent("/api/chat")) <= MAX_REQUESTS + faults


@pytest.mark.parametrize("as_text", [True, False])
async def test_arguments_that_are_nested_too_deeply_are_refused(
    home: HomeAssistant, api: TestAPI, agent: OllamaStandIn, *, as_text: bool
) -> None:
    """A model that loops on "[[[[": the conversation must go on."""
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    value = json.dumps(deep) if as_text else deep
    use = ToolUse("act", {"items": value})
    agent.brain.replies.extend([Reply(tools=(use,)), Reply("Sorry."), Reply("Yes.")])
    result = await say(home, "Go")
    assert speech(result) == "Sorry."
    assert not any("items" in call and call["items"] == deep for call in api.calls)
    again = await say(home, "Still there?", result.conversation_id)
    assert speech(again) == "Yes."

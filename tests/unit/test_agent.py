"""The agent, made from a mapping alone and in a conversation."""

import asyncio
from inspect import signature
from typing import Any, override

from homeassistant.components import conversation
from homeassistant.components.conversation import UserContent
from homeassistant.components.conversation.chat_log import (
    DATA_CHAT_LOGS,
    async_get_chat_log,
)
from homeassistant.core import Context, HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import chat_session, llm
import pytest
from pytest_homeassistant_custom_component.common import async_mock_service

from custom_components.home_agent.agent import HomeAgent
from custom_components.home_agent.keep_alive import InvalidKeepAlive
from custom_components.home_agent.servers.messages import ChatMessage, ToolSpec
from tests.conftest import MakeEntry, say, speech
from tests.servers import ManualClock, OllamaStandIn, OpenAIStandIn, Reply, ToolUse
from tests.servers.stand_in import Fault

HELLO: list[ChatMessage] = [{"role": "user", "content": "Hello"}]
TOOLS: list[ToolSpec] = [{"name": "x", "description": "", "parameters": {}}]


def config(url: str, **more: Any) -> dict[str, Any]:
    """Return the flat configuration of an agent."""
    return {"llm_base_url": url, "llm_model": "llama3.2:3b", **more}


async def stream(agent: HomeAgent, **more: Any) -> str:
    """Return a streamed answer."""
    deltas = [delta async for delta in agent._call_llm_streaming(HELLO, **more)]
    return "".join(delta.content for delta in deltas)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("configured", "override", "sent"),
    [
        (None, None, "5m"),
        ("1h", None, "1h"),
        ("-1", None, -1),
        ("0", None, 0),
        ("1h", "-1", -1),
        ("-1", 0, 0),
        (None, "2m", "2m"),
    ],
)
async def test_keep_alive_of_both_calls(
    hass: HomeAssistant,
    ollama: OllamaStandIn,
    configured: str | None,
    override: str | int | None,
    sent: str | int,
    *,
    streaming: bool,
) -> None:
    """The configured value, unless the caller has its own; at the top level."""
    agent = HomeAgent(hass, config(f"{ollama.url}/v1", llm_keep_alive=configured))
    if streaming:
        assert await stream(agent, keep_alive=override)
    else:
        assert (await agent._call_llm(HELLO, keep_alive=override)).content
    (body,) = ollama.sent("/api/chat")
    assert body["keep_alive"] == sent
    assert type(body["keep_alive"]) is type(sent)
    assert "keep_alive" not in body["options"]
    assert body["stream"] is streaming


async def test_an_invalid_override_is_refused(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """Nothing is sent."""
    agent = HomeAgent(hass, config(ollama.url))
    with pytest.raises(InvalidKeepAlive):
        await agent._call_llm(HELLO, keep_alive="5x")
    assert not ollama.sent("/api/chat")


async def test_an_invalid_stored_value_is_said(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The dialogs refuse it, but a file can be changed by hand."""
    await make_entry(ollama.url, conversation={"llm_keep_alive": "5x"})
    assert "5x is not a valid keep_alive" in speech(await say(home, "Hello"))


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ({"llm_temperature": 0.5}, ("options", "temperature"), 0.5),
        ({"llm_top_p": 0.9}, ("options", "top_p"), 0.9),
        ({"llm_max_tokens": 200.0}, ("options", "num_predict"), 200),
        ({"llm_num_ctx": 4096.0}, ("options", "num_ctx"), 4096),
        ({}, ("options", "num_ctx"), 8192),
        ({"llm_think": "off"}, ("think",), False),
        ({"llm_think": "on"}, ("think",), True),
        ({"llm_think": "high"}, ("think",), "high"),
        ({"llm_think": "default"}, ("think",), None),
        ({"llm_temperature": 0}, ("options", "temperature"), 0),
        ({}, ("options", "temperature"), None),
    ],
)
async def test_each_option_on_ollama(
    hass: HomeAssistant,
    ollama: OllamaStandIn,
    option: dict[str, Any],
    path: tuple[str, ...],
    value: Any,
) -> None:
    """What is set is sent, and what is not set is left to the server."""
    agent = HomeAgent(hass, config(ollama.url, **option) | {"llm_model": "qwen3:8b"})
    await stream(agent)
    body: Any
    (body,) = ollama.sent("/api/chat")
    for key in path:
        body = body.get(key)
    assert body == value
    assert type(body) is type(value)


@pytest.mark.parametrize(
    ("option", "sent"),
    [
        ({"llm_temperature": 0.5}, {"temperature": 0.5}),
        ({"llm_top_p": 0.9}, {"top_p": 0.9}),
        ({"llm_max_tokens": 200.0}, {"max_tokens": 200}),
        ({"llm_think": "off"}, {"reasoning_effort": "none"}),
        ({"llm_think": "on"}, {"reasoning_effort": "medium"}),
        ({"llm_think": "low"}, {"reasoning_effort": "low"}),
        ({}, {}),
    ],
)
async def test_each_option_on_other_servers(
    hass: HomeAssistant,
    openai: OpenAIStandIn,
    option: dict[str, Any],
    sent: dict[str, Any],
) -> None:
    """The same settings in OpenAI's words."""
    agent = HomeAgent(hass, config(openai.url, **option))
    await agent._call_llm(HELLO)
    (body,) = openai.sent("/v1/chat/completions")
    always = {
        "model": "llama3.2:3b",
        "messages": HELLO,
        "keep_alive": "5m",
        "max_tokens": 4096,
    }
    assert body == always | sent


async def test_history_is_cut_in_whole_rounds(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The system prompt stays; a tool call never loses its result."""
    async_mock_service(home, "light", "turn_on")
    await make_entry(ollama.url, conversation={"max_history": 1})
    conversation_id = None
    for _ in range(4):
        result = await say(home, "turn on the kitchen light", conversation_id)
        conversation_id = result.conversation_id
    last = ollama.sent("/api/chat")[-1]["messages"]
    one_round = ["user", "assistant", "tool", "assistant"]
    assert [m["role"] for m in last] == ["system", *one_round, *one_round[:3]]
    assert last[2]["tool_calls"][0]["function"]["name"].endswith("HassTurnOn")
    assert last[3]["tool_name"].endswith("HassTurnOn")


async def test_history_is_cut_in_blocks(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """So that most turns begin as the one before, and the cache holds."""
    await make_entry(ollama.url, conversation={"max_history": 4})
    conversation_id = None
    for number in range(13):
        result = await say(home, f"Question {number}", conversation_id)
        conversation_id = result.conversation_id
    begins = [
        int(body["messages"][1]["content"].split()[1])
        for body in ollama.sent("/api/chat")
    ]
    assert begins == [0, 0, 0, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    rounds = [
        sum(m["role"] == "user" for m in body["messages"]) - 1
        for body in ollama.sent("/api/chat")
    ]
    assert max(rounds) == 4
    # With the prefix in the cache, every other turn evaluates only itself.
    assert sum(tokens < 50 for tokens in ollama.evaluated_tokens) == 8


async def test_the_prefix_stays_equal(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Tools are sorted, and each request repeats the one before byte for byte."""
    await make_entry(ollama.url, conversation={})
    result = await say(home, "Hello")
    named = {"friendly_name": "Kitchen Light"}
    home.states.async_set("light.kitchen_light", "on", named)
    await say(home, "Hello", result.conversation_id)
    first, second = (item.raw for item in ollama.requests if item.path == "/api/chat")
    first_body, second_body = ollama.sent("/api/chat")
    names = [tool["function"]["name"] for tool in first_body["tools"]]
    assert names == sorted(names)
    assert second_body["tools"] == first_body["tools"]
    count = len(first_body["messages"])
    assert second_body["messages"][:count] == first_body["messages"]
    assert first.partition(b'"messages":')[0] == second.partition(b'"messages":')[0]


async def test_small_models_faults_are_repaired(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Empty arguments are left out, and lists in strings are read."""
    calls = async_mock_service(home, "light", "turn_on")
    await make_entry(ollama.url, conversation={})
    await say(home, "Hello")
    tools = ollama.sent("/api/chat")[0]["tools"]
    name = next(
        tool["function"]["name"]
        for tool in tools
        if tool["function"]["name"].endswith("HassTurnOn")
    )
    arguments = {"name": "Kitchen Light", "area": "", "domain": '["light"]'}
    ollama.brain.replies.append(Reply(tools=(ToolUse(name, arguments),)))
    assert speech(await say(home, "Go")) == "Done: Kitchen Light."
    assert calls[0].data["entity_id"] == ["light.kitchen_light"]
    # A text that only looks like a list stays what it is.
    ollama.brain.replies.append(
        Reply(tools=(ToolUse(name, {"name": "[Kitchen Light]"}),))
    )
    assert "did not work" in speech(await say(home, "Go"))


async def test_broken_arguments_are_told_to_the_model(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """The tool is not called; the model hears why and may try again."""
    calls = async_mock_service(home, "homeassistant", "turn_on")
    async with OpenAIStandIn(models=["llama3.2:3b"]) as server:
        await make_entry(server.url, conversation={})
        server.brain.replies.extend(
            [
                Reply(tools=(ToolUse("intent__HassTurnOn", '{"name": "Kit'),)),
                Reply("I could not do that."),
            ]
        )
        assert speech(await say(home, "Go")) == "I could not do that."
        messages = server.sent("/v1/chat/completions")[-1]["messages"]
    assert not calls
    assert messages[-1]["role"] == "tool"
    assert "not a complete JSON object" in messages[-1]["content"]
    assert messages[-1]["tool_call_id"] == messages[-2]["tool_calls"][0]["id"]


async def test_tools_of_the_same_id_are_told_apart(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Each call has a result of its own."""
    await make_entry(ollama.url, conversation={})
    ollama.brain.replies.append(
        Reply(tools=(ToolUse("nothing"), ToolUse("nothing either")))
    )
    await say(home, "Go")
    messages = ollama.sent("/api/chat")[-1]["messages"]
    assert [m.get("tool_name") for m in messages[-2:]] == ["nothing", "nothing either"]


async def test_several_llm_apis(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """All of them are offered, beside the agent's own tools."""

    class Weather(llm.Tool):
        """A tool of somebody else."""

        name = "weather__forecast"
        integration = "weather"

        @override
        async def async_call(
            self,
            hass: HomeAssistant,
            tool_input: llm.ToolInput,
            llm_context: llm.LLMContext,
        ) -> llm.ToolResult:
            """Return the weather."""
            return llm.ToolResult(data={"weather": "sunny"})

    class WeatherAPI(llm.API):
        """An API of somebody else."""

        async def async_get_api_instance(
            self, llm_context: llm.LLMContext
        ) -> llm.APIInstance:
            """Return one tool."""
            return llm.APIInstance(self, "Ask.", llm_context, [Weather()])

    llm.async_register_api(home, WeatherAPI(hass=home, id="weather", name="Weather"))
    await make_entry(
        ollama.url,
        conversation={"llm_hass_api": ["assist", "weather"]},
        external_llm={"external_llm_model": "llama3.2:70b"},
    )
    await say(home, "Hello")
    body = ollama.sent("/api/chat")[0]
    names = [tool["function"]["name"] for tool in body["tools"]]
    for suffix in ("HassTurnOn", "weather__forecast", "ask_external_llm"):
        assert len([name for name in names if name.endswith(suffix)]) == 1
    assert "Ask." in body["messages"][0]["content"]


async def test_no_answer_and_tools_that_were_not_offered(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The user hears that there is no answer; without tools no call is made."""
    await make_entry(ollama.url, conversation={"llm_hass_api": []})
    ollama.brain.replies.append(Reply(""))
    assert speech(await say(home, "Go")) == "The model gave no answer."
    calls = async_mock_service(home, "homeassistant", "turn_on")
    ollama.brain.replies.append(Reply(tools=(ToolUse("HassTurnOn"),)))
    ollama.brain.replies.append(Reply("I cannot do that."))
    assert speech(await say(home, "Go")) == "I cannot do that."
    assert not calls
    assert "tools" not in ollama.sent("/api/chat")[-1]


async def test_thinking_is_not_spoken(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is in the chat log, apart from the answer."""
    model = {"llm_model": "qwen3:8b", "llm_think": "on"}
    await make_entry(ollama.url, conversation=model)
    for reply in (
        Reply("Yes.", thinking="Let me see."),
        Reply("Yes.", chunks=("<thi", "nk>Let me see.</th", "ink>\n", "Yes.")),
    ):
        ollama.brain.replies.append(reply)
        result = await say(home, "Is it on?")
        assert speech(result) == "Yes."
        chat_log = home.data[DATA_CHAT_LOGS][result.conversation_id or ""]
        answer = chat_log.content[-1]
        assert isinstance(answer, conversation.AssistantContent)
        assert answer.thinking_content == "Let me see."


@pytest.mark.parametrize("kind", ["ollama", "openai"])
async def test_images(home: HomeAssistant, tmp_path: Any, kind: str) -> None:
    """An attachment goes to the model in its server's form."""
    path = tmp_path / "image.png"
    path.write_bytes(b"PNG")
    server: Any = OllamaStandIn() if kind == "ollama" else OpenAIStandIn()
    async with server:
        agent = HomeAgent(home, config(server.url) | {"llm_model": "llava:7b"})
        for mime_type, fails in (("image/png", False), ("application/pdf", True)):
            attachment = conversation.Attachment(
                media_content_id="x", mime_type=mime_type, path=path
            )
            with (
                chat_session.async_get_chat_session(home, None, **context()) as session,
                async_get_chat_log(home, session) as chat_log,
            ):
                chat_log.async_add_user_content(
                    UserContent("What is it?", attachments=[attachment])
                )
                if fails:
                    with pytest.raises(HomeAssistantError) as caught:
                        await agent.async_answer(chat_log, "conversation.x")
                    assert caught.value.translation_key == "unsupported_attachment"
                    continue
                await agent.async_answer(chat_log, "conversation.x")
        message = server.sent("/api/chat", "/v1/chat/completions")[0]["messages"][-1]
    if kind == "ollama":
        assert message["images"] == ["UE5H"]
        assert message["content"] == "What is it?"
    else:
        url = {"url": "data:image/png;base64,UE5H"}
        assert message["content"] == [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": url},
        ]


def context() -> dict[str, Any]:
    """Return the context that Home Assistant 2026.11 wants for a session."""
    wants = signature(chat_session.async_get_chat_session).parameters
    return {"context": Context()} if "context" in wants else {}


@pytest.mark.parametrize(
    ("fault", "spoken", "logged"),
    [
        (Fault(status=500, body={"error": "out of memory"}), "reports an error", "out"),
        (
            Fault(status=400, body={"error": "too long"}),
            "refused the request",
            "too lo",
        ),
        (Fault(status=404, body={"error": "model 'x' not found"}), "not have the", "x"),
        (Fault(status=401, body="no"), "refuses the API key", "InvalidAuth"),
        (Fault(hang_up_after=0), "broke off its answer", "ConnectionLost"),
    ],
)
async def test_errors_are_one_sentence_and_one_line(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    spoken: str,
    logged: str,
) -> None:
    """The user hears what to do, the log has the server's words, no secret."""
    ollama.api_key = "sk-secret"
    await make_entry(ollama.url, conversation={}, llm_api_key="sk-secret")
    if isinstance(fault.body, dict):
        fault.body["error"] += " sk-secret"
    ollama.faults.extend([fault, fault])
    said = speech(await say(home, "Hello"))
    assert spoken in said
    assert said.endswith(".")
    assert ". " not in said
    lines = [r for r in caplog.records if "home_agent" in r.name and r.levelno >= 40]
    assert len(lines) == 1
    assert logged in lines[0].getMessage()
    assert "sk-secret" not in caplog.text + said


async def test_a_refused_key_asks_for_a_new_one(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Also when it is refused in the middle of a day."""
    await make_entry(ollama.url, conversation={})
    ollama.api_key = "new"
    await say(home, "Hello")
    await home.async_block_till_done()
    (flow,) = home.config_entries.flow.async_progress()
    assert flow["step_id"] == "reauth_confirm"


async def test_a_silent_server_times_out(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """After the idle timeout, not before; nothing is asked twice."""
    await make_entry(ollama.url, conversation={"llm_idle_timeout": 0.2})
    ollama.hold()
    assert "took too long" in speech(await say(home, "Hello"))
    assert len(ollama.sent("/api/chat")) == 1
    ollama.release()


async def test_a_server_that_is_gone(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Said at once."""
    await make_entry(ollama.url, conversation={})
    await ollama.stop()
    assert "cannot reach the model server" in speech(await say(home, "Hello"))


async def test_a_cancelled_turn_hangs_up(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The server stops its work, and a model that was loading does not stay."""
    await make_entry(ollama.url, conversation={})
    ollama.load_seconds = 60
    task = home.async_create_task(say(home, "Hello"))
    while not ollama.sent("/api/chat"):
        await asyncio_turn()
    task.cancel()
    while not ollama.hang_ups:
        await asyncio_turn()
    assert not ollama.memory.loads


async def asyncio_turn() -> None:
    """Let others run."""
    await asyncio.sleep(0.01)


async def test_only_what_was_configured_is_loaded(
    home: HomeAssistant, ollama: OllamaStandIn, clock: ManualClock, make_entry: Any
) -> None:
    """The model leaves when its time is over, and not before."""
    await make_entry(ollama.url, conversation={"llm_keep_alive": "10m"})
    await say(home, "Hello")
    clock.advance(599)
    assert ollama.loaded("llama3.2:3b")
    await say(home, "Hello")
    clock.advance(599)
    assert ollama.loaded("llama3.2:3b")
    clock.advance(2)
    assert not ollama.loaded("llama3.2:3b")
    assert ollama.memory.loads == ["llama3.2:3b"]

"""The tool that asks the external LLM: its requests, its answers, its failures."""

import gc
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from homeassistant.components import conversation
from homeassistant.config_entries import SOURCE_REAUTH, ConfigSubentry
from homeassistant.core import HomeAssistant
from homeassistant.helpers import llm
import pytest
import voluptuous as vol

from custom_components.home_agent.model.role import merged_config
from custom_components.home_agent.servers.errors import InvalidAuth, ModelServerError
from custom_components.home_agent.tools.external_llm import ExternalLLMTool
from custom_components.home_agent.tools.question import _CallCounter
from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn, OpenAIStandIn, Reply, ToolUse
from tests.servers.stand_in import Fault

ASK = "home_agent__ask_external_llm"


def config(url: str, **more: Any) -> dict[str, Any]:
    """Return the flat configuration of the tool."""
    return {"llm_base_url": url, "external_llm_model": "llama3.2:70b", **more}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("configured", "override", "sent"),
    [(None, None, "5m"), ("2m", None, "2m"), ("-1", None, -1), ("2m", 0, 0)],
)
async def test_its_own_keep_alive(
    hass: HomeAssistant,
    ollama: OllamaStandIn,
    configured: str | None,
    override: int | None,
    sent: str | int,
    *,
    streaming: bool,
) -> None:
    """Not the primary LLM's; an argument replaces the configured value."""
    tool = ExternalLLMTool(
        hass,
        config(
            f"{ollama.url}/v1",
            llm_keep_alive="7h",
            external_llm_keep_alive=configured,
            external_llm_stream=streaming,
        ),
    )
    ollama.brain.replies.append(Reply(" 42. "))
    answer = await tool._execute("6*7?", "It is a number.", keep_alive=override)
    assert answer == "42."
    (body,) = ollama.sent("/api/chat")
    assert body["keep_alive"] == sent
    assert type(body["keep_alive"]) is type(sent)
    assert body["stream"] is streaming
    assert body["model"] == "llama3.2:70b"
    assert body["messages"][-1]["content"] == "6*7?\n\nIt is a number."
    assert "tools" not in body


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ({"external_llm_temperature": 0.2}, ("options", "temperature"), 0.2),
        ({"external_llm_top_p": 0.3}, ("options", "top_p"), 0.3),
        ({"external_llm_max_tokens": 99}, ("options", "num_predict"), 99),
        ({"external_llm_num_ctx": 2048}, ("options", "num_ctx"), 2048),
        ({"external_llm_think": "off"}, ("think",), False),
        ({"external_llm_prompt": "Be short."}, ("messages", 0, "content"), "Be short."),
        ({"llm_temperature": 0.9}, ("options", "temperature"), None),
    ],
)
async def test_each_option(
    hass: HomeAssistant,
    ollama: OllamaStandIn,
    option: dict[str, Any],
    path: tuple[Any, ...],
    value: Any,
) -> None:
    """Every setting of the external LLM is sent, and none of the primary LLM."""
    tool = ExternalLLMTool(hass, config(ollama.url, **option))
    await tool._execute("Hello")
    found: Any
    (found,) = ollama.sent("/api/chat")
    for key in path:
        found = found.get(key) if isinstance(found, dict) else found[key]
    assert found == value


def test_the_user_can_describe_the_tool(hass: HomeAssistant) -> None:
    """The description is what the primary LLM chooses the tool by."""
    tool = ExternalLLMTool(hass, config("http://x"))
    assert "more capable" in (tool.description or "")
    text = {"external_llm_tool_description": "Ask it for poems."}
    tool = ExternalLLMTool(hass, config("http://x", **text))
    assert tool.description == "Ask it for poems."


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("nothing", ["6*7?\n\nMaths"]),
        ("last_message", ["What is six times seven?\n\n6*7?\n\nMaths"]),
        (
            "conversation",
            ["Hello", "Good day.", "What is six times seven?\n\n6*7?\n\nMaths"],
        ),
    ],
)
async def test_which_messages_of_the_conversation_are_sent(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    choice: str,
    expected: list[str],
) -> None:
    """What a person said or heard, if the user allows it; never home and tools.

    Messages of one role are merged: strict chat templates refuse two in a row.
    """
    external = {
        "external_llm_model": "llama3.2:70b",
        "external_llm_conversation": choice,
    }
    await make_entry(ollama.url, conversation={}, external_llm=external)
    ollama.brain.replies.append(Reply("Good day."))
    first = await say(home, "Hello")
    ollama.brain.replies.extend(
        [
            Reply(tools=(ToolUse(ASK, {"prompt": "6*7?", "context": "Maths"}),)),
            Reply("42"),
            Reply("It is 42."),
        ]
    )
    result = await say(home, "What is six times seven?", first.conversation_id)
    assert speech(result) == "It is 42."
    (body,) = (b for b in ollama.sent("/api/chat") if b["model"] == "llama3.2:70b")
    texts = [message["content"] for message in body["messages"]]
    assert texts[1:] == expected
    roles = [message["role"] for message in body["messages"]]
    assert all(role != following for role, following in pairwise(roles))
    assert "Kitchen" not in str(body)


async def test_off_by_default(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An agent has the tool only if the user chose it for this agent."""
    external = {"external_llm_model": "llama3.2:70b"}
    chosen_none: dict[str, list[str]] = {"external_llms": []}
    await make_entry(ollama.url, conversation=chosen_none, external_llm=external)
    await say(home, "Hello")
    names = [t["function"]["name"] for t in ollama.sent("/api/chat")[0]["tools"]]
    assert not any("external" in name for name in names)


async def test_without_control_of_the_home(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An agent without any of Home Assistant's LLM APIs can have the tool."""
    await make_entry(
        ollama.url,
        conversation={"llm_hass_api": []},
        external_llm={"external_llm_model": "llama3.2:70b"},
    )
    ollama.brain.replies.extend(
        [Reply(tools=(ToolUse(ASK, {"prompt": "x"}),)), Reply("42"), Reply("It is 42.")]
    )
    assert speech(await say(home, "Ask")) == "It is 42."
    (tool,) = ollama.sent("/api/chat")[0]["tools"]
    assert tool["function"]["name"] == ASK
    parameters = tool["function"]["parameters"]
    assert parameters["required"] == ["prompt"]
    assert set(parameters["properties"]) == {"prompt", "context"}


async def test_several_external_llms(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Each is a tool of its own, named after its title."""
    entry = await make_entry(ollama.url)
    for number, title in enumerate(("Big Model", "big model", "Poet")):
        home.config_entries.async_add_subentry(
            entry, new(title, f"id{number}", {"external_llm_model": "llama3.2:70b"})
        )
    data = {"llm_model": "llama3.2:3b", "external_llms": ["id0", "id1", "id2", "gone"]}
    home.config_entries.async_add_subentry(
        entry, new("Agent", "agent", data, "conversation")
    )
    await home.async_block_till_done()
    await say(home, "Hello")
    tools = ollama.sent("/api/chat")[-1]["tools"]
    assert [tool["function"]["name"] for tool in tools] == [
        "home_agent__ask_big_model",
        "home_agent__ask_big_model_2",
        "home_agent__ask_poet",
    ]


def new(
    title: str, key: str, data: dict[str, Any], kind: str = "external_llm"
) -> ConfigSubentry:
    """Return a subentry with a known id."""
    return ConfigSubentry(
        data=MappingProxyType(data),
        subentry_id=key,
        subentry_type=kind,
        title=title,
        unique_id=None,
    )


@pytest.mark.parametrize(
    ("fault", "heard"),
    [
        (Fault(status=500, body={"error": "boom"}), "reports an error"),
        (
            Fault(status=404, body={"error": "model 'x' not found"}),
            "not have the model",
        ),
        (Fault(hang_up_after=30), "broke off"),
        (Fault(error_after_lines=1, error_text="boom"), "reports an error"),
    ],
)
async def test_a_failure_is_explained_not_fatal(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    fault: Fault,
    heard: str,
) -> None:
    """The primary LLM gets the error as the tool's result and answers."""
    external = {"external_llm_model": "llama3.2:70b"}
    await make_entry(ollama.url, conversation={}, external_llm=external)
    ask = Reply(tools=(ToolUse(ASK, {"prompt": "6*7?"}),))
    ollama.brain.replies.append(ask)
    # A request whose connection is lost is repeated once.
    times = 2 if fault.hang_up_after is not None else 1
    if not fault.status:
        thinking_aloud = Reply("It may be forty-two, I think.")
        ollama.brain.replies.extend([thinking_aloud] * times)
    ollama.faults.extend([Fault(), *[fault] * times])
    said = speech(await say(home, "Ask"))
    assert said.startswith("That did not work:")
    assert heard in said


@pytest.mark.parametrize("arguments", [{}, {"prompt": ""}, {"prompt": "x", "y": 1}])
async def test_arguments_are_checked(
    hass: HomeAssistant, ollama: OllamaStandIn, arguments: dict[str, Any]
) -> None:
    """Arguments that do not fit are refused, and no request is sent."""
    tool = ExternalLLMTool(hass, config(ollama.url))
    context = llm.LLMContext("test", None, "en", "conversation", None)
    with pytest.raises(vol.Invalid):
        await tool.async_call(hass, llm.ToolInput(ASK, arguments), context)
    assert not ollama.requests


async def test_no_answer_is_an_error(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An empty answer is not passed on."""
    external = {"external_llm_model": "llama3.2:70b"}
    await make_entry(ollama.url, conversation={}, external_llm=external)
    ask = Reply(tools=(ToolUse(ASK, {"prompt": "x"}),))
    ollama.brain.replies.extend([ask, Reply(" ")])
    assert "gave no answer" in speech(await say(home, "Ask"))


async def test_a_key_stays_with_its_server(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """Another server gets neither the primary's key nor its headers."""
    primary = {"llm_api_key": "primary-key", "llm_proxy_headers": {"X-Proxy": "p"}}
    tool = ExternalLLMTool(hass, config(ollama.url, **primary))
    await tool._execute("Hello")
    assert ollama.requests[-1].headers["Authorization"] == "Bearer primary-key"
    assert ollama.requests[-1].headers["X-Proxy"] == "p"
    async with OpenAIStandIn() as other:
        own = {"external_llm_base_url": other.url}
        await ExternalLLMTool(hass, config(ollama.url, **primary, **own))._execute("Hi")
        assert not any("Authorization" in r.headers for r in other.requests)
        assert "primary-key" not in str(other.requests)
        assert not any("X-Proxy" in r.headers for r in other.requests)
        own["external_llm_api_key"] = "its-own"
        await ExternalLLMTool(hass, config(ollama.url, **primary, **own))._execute("Hi")
        assert other.requests[-1].headers["Authorization"] == "Bearer its-own"


async def test_the_timeout_is_its_own(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """The request ends when the server sends nothing for the idle timeout."""
    ollama.hold()
    timeout = {"external_llm_idle_timeout": 0.2, "external_llm_server_kind": "ollama"}
    tool = ExternalLLMTool(
        hass, config(ollama.url, llm_server_kind="ollama", **timeout)
    )
    with pytest.raises(ModelServerError) as caught:
        await tool._execute("Hello")
    assert caught.value.translation_key == "server_timed_out"
    ollama.release()


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        5,
        "<html>",
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": None}}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": "x", "tool_calls": [{}]}}]},
        {"error": {"message": "boom"}},
    ],
)
async def test_a_malformed_answer_is_a_tool_error(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    body: Any,
    *,
    streaming: bool,
) -> None:
    """Whatever the server of the external LLM sends, the primary LLM answers."""
    async with OpenAIStandIn() as other:
        other.faults.extend([Fault(status=200, body=body)] * 4)
        await make_entry(
            ollama.url,
            conversation={},
            external_llm={
                "external_llm_model": "big",
                "external_llm_base_url": other.url,
                "external_llm_server_kind": "openai_compatible",
                "external_llm_stream": streaming,
            },
        )
        ask = Reply(tools=(ToolUse(ASK, {"prompt": "6*7?"}),))
        ollama.brain.replies.append(ask)
        said = speech(await say(home, "Ask"))
        # The stand-in of the primary LLM was sent the error, and repeats its text.
        error = said.removeprefix("That did not work: ")
        assert error.startswith(("The ", "I could not ask the other model")), said
        assert other.sent("/v1/chat/completions")


async def test_an_unexpected_failure_is_a_tool_error(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its text, which may be a part of the answer, is neither spoken nor logged."""
    external = {"external_llm_model": "llama3.2:70b"}
    await make_entry(ollama.url, conversation={}, external_llm=external)

    error = KeyError("text of an answer")

    async def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ExternalLLMTool, "_answer", broken)
    caplog.set_level("DEBUG", "custom_components.home_agent")
    ollama.brain.replies.append(Reply(tools=(ToolUse(ASK, {"prompt": "6*7?"}),)))
    said = speech(await say(home, "Ask"))
    assert "I could not ask the other model" in said
    assert "Asking the external LLM failed: KeyError" in caplog.text
    assert "text of an answer" not in said + caplog.text


@pytest.mark.parametrize("at_once", [True, False])
async def test_calls_per_turn_are_limited(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry, *, at_once: bool
) -> None:
    """Whether one answer has all calls or each has one; the next turn starts again."""
    async with OpenAIStandIn() as other:
        await make_entry(
            ollama.url,
            conversation={},
            external_llm={
                "external_llm_model": "big",
                "external_llm_base_url": other.url,
            },
        )
        use = ToolUse(ASK, {"prompt": "Again?"})
        replies = [Reply(tools=(use,) * 5)] if at_once else [Reply(tools=(use,))] * 5
        conversation_id = None
        for turn in (1, 2):
            ollama.brain.replies.extend([*replies, Reply("I give up.")])
            result = await say(home, "Ask", conversation_id)
            conversation_id = result.conversation_id
            assert speech(result) == "I give up."
            assert len(other.sent("/v1/chat/completions")) == 3 * turn
            results = [
                message["content"]
                for message in ollama.sent("/api/chat")[-1]["messages"]
                if message["role"] == "tool"
            ]
            refused = [text for text in results if "already asked 3 times" in text]
            assert (len(results), len(refused)) == (5 * turn, 2 * turn)


async def test_no_limit_outside_a_conversation(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """Such as for an MCP client: there is no turn."""
    tool = ExternalLLMTool(hass, config(ollama.url))
    context = llm.LLMContext("test", None, "en", "conversation", None)
    for _ in range(5):
        tool_input = llm.ToolInput(ASK, {"prompt": "Hello"})
        assert not (await tool.async_call(hass, tool_input, context)).error


async def test_calls_of_past_conversations_are_forgotten(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The counter holds nothing of a conversation that Home Assistant has dropped."""
    external = {"external_llm_model": "llama3.2:70b"}
    await make_entry(ollama.url, conversation={}, external_llm=external)
    message = conversation.UserContent("Ask")
    counter = _CallCounter()
    assert [counter.add_call(message) for _ in range(2)] == [1, 2]
    del message
    gc.collect()
    assert not counter._calls


@pytest.mark.parametrize(
    ("own", "field"),
    [
        ({"external_llm_api_key": "old"}, "external_llm_api_key"),
        ({"external_llm_base_url": "other"}, "external_llm_api_key"),
        ({}, "llm_api_key"),
    ],
)
async def test_a_refused_key_asks_for_a_new_one(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    own: dict[str, str],
    field: str,
) -> None:
    """The role's own key if it has a key or server of its own, else the entry's."""
    async with OllamaStandIn(api_key="right") as other:
        if own.get("external_llm_base_url"):
            own = {"external_llm_base_url": other.url}
        external = {"external_llm_model": "llama3.2:70b", **own}
        # The key of the entry is right if the role has one of its own.
        keys = {"llm_api_key": "right"} if own else {}
        entry = await make_entry(ollama.url, external_llm=external, **keys)
        (subentry,) = entry.get_subentries_of_type("external_llm")
        tool = ExternalLLMTool(home, merged_config(entry, subentry))
        # Home Assistant shows one such dialog at a time for an entry.
        if "external_llm_base_url" not in own:
            ollama.api_key = "right"
        context = llm.LLMContext("test", None, "en", "conversation", None)
        for _ in range(2):
            with pytest.raises(InvalidAuth):
                await tool.async_call(
                    home, llm.ToolInput(ASK, {"prompt": "Hello"}), context
                )
        await home.async_block_till_done()
        (flow,) = home.config_entries.flow.async_progress()
        assert flow["context"]["source"] == SOURCE_REAUTH
        form = await home.config_entries.flow.async_configure(flow["flow_id"])
        schema = form["data_schema"]
        assert schema is not None
        assert [str(marker.schema) for marker in schema.schema] == [field]

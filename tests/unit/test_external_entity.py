"""The tool that asks a conversation agent or an AI task entity of any integration."""

import asyncio
from collections.abc import Callable
import json
from typing import Any, Literal, override

from homeassistant.components import ai_task, conversation
from homeassistant.components.ai_task.const import DATA_COMPONENT as AI_TASKS
from homeassistant.components.conversation.const import DATA_COMPONENT as AGENTS
from homeassistant.core import Context, HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import entity_registry as er, intent
import pytest

from custom_components.home_agent.tools.external_entity import ExternalEntityTool
from custom_components.home_agent.tools.external_llm import external_llm_tools
from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn, Reply, ToolUse

TOOLS = "custom_components.home_agent.tools"
ASK = "home_agent__ask_external_llm"
ASKS = Reply(tools=(ToolUse(ASK, {"prompt": "6*7?", "context": "Maths"}),))
QUESTION = "6*7?\n\nMaths"


class OtherAgent(conversation.ConversationEntity):
    """A conversation agent of another integration."""

    entity_id = "conversation.other"
    _attr_unique_id = "other"
    _attr_name = "Other"

    def __init__(self, answer: Callable[[], str] = lambda: "42") -> None:
        """Answer each message so."""
        self._answer = answer
        self.inputs: list[conversation.ConversationInput] = []

    @property
    @override
    def supported_languages(self) -> list[str] | Literal["*"]:
        """Return all."""
        return "*"

    @override
    async def _async_handle_message(
        self,
        user_input: conversation.ConversationInput,
        chat_log: conversation.ChatLog,
    ) -> conversation.ConversationResult:
        """Answer."""
        assert [item.role for item in chat_log.content[1:]] == ["user"]
        self.inputs.append(user_input)
        text = self._answer()
        if text == "hangs":
            await asyncio.Event().wait()
        response = intent.IntentResponse(language="en")
        if text:
            response.async_set_speech(text)
        return conversation.ConversationResult(response, chat_log.conversation_id)


class OtherTask(ai_task.AITaskEntity):
    """An AI task entity of another integration."""

    entity_id = "ai_task.other"
    _attr_unique_id = "other"
    _attr_name = "Other"
    _attr_supported_features = ai_task.AITaskEntityFeature.GENERATE_DATA

    def __init__(self, answer: Callable[[], str] = lambda: "42") -> None:
        """Answer each task so."""
        self._answer = answer
        self.tasks: list[ai_task.GenDataTask] = []

    @override
    async def _async_generate_data(
        self, task: ai_task.GenDataTask, chat_log: conversation.ChatLog
    ) -> ai_task.GenDataTaskResult:
        """Answer."""
        self.tasks.append(task)
        text = self._answer()
        if text == "hangs":
            await asyncio.Event().wait()
        return ai_task.GenDataTaskResult(chat_log.conversation_id, text)


async def add(hass: HomeAssistant, entity: OtherAgent | OtherTask) -> None:
    """Add an entity of another integration."""
    if isinstance(entity, OtherAgent):
        await hass.data[AGENTS].async_add_entities([entity])
    else:
        await hass.data[AI_TASKS].async_add_entities([entity])
    assert hass.states.get(entity.entity_id)


def results(server: OllamaStandIn) -> list[str]:
    """Return the answers or errors of tools in the last request."""
    messages = server.sent("/api/chat")[-1]["messages"]
    data = [
        json.loads(item["content"])["data"]
        for item in messages
        if item["role"] == "tool"
    ]
    return [item.get("answer") or item["error_text"] for item in data]


def tool_names(body: dict[str, Any]) -> list[str]:
    """Return the names of the tools in a request."""
    return [tool["function"]["name"] for tool in body.get("tools", ())]


async def test_an_agent_of_another_integration(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It gets the question alone, in a new conversation, as from the speaker."""
    other = OtherAgent()
    await add(home, other)
    await make_entry(ollama.url, conversation={"external_llms": [other.entity_id]})
    user = await home.auth.async_create_user("Speaker", group_ids=["system-admin"])
    ollama.brain.replies.extend([ASKS, Reply("It is 42.")])
    result = await conversation.async_converse(
        home,
        "What is six times seven?",
        None,
        Context(user_id=user.id),
        language="de",
        agent_id="conversation.agent",
    )
    assert speech(result) == "It is 42."
    (asked,) = other.inputs
    assert asked.text == QUESTION
    assert asked.conversation_id != result.conversation_id
    assert asked.context.user_id == user.id
    assert (asked.language, asked.device_id) == ("de", None)
    assert results(ollama) == ["42"]


async def test_an_ai_task_of_another_integration(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It gets the question as its instructions, and no tools."""
    other = OtherTask()
    await add(home, other)
    await make_entry(ollama.url, conversation={"external_llms": [other.entity_id]})
    ollama.brain.replies.extend([ASKS, Reply("It is 42.")])
    assert speech(await say(home, "What is six times seven?")) == "It is 42."
    (task,) = other.tasks
    assert (task.instructions, task.structure, task.llm_api) == (QUESTION, None, None)
    assert results(ollama) == ["42"]


@pytest.mark.parametrize("kind", ["ai_task", "conversation"])
async def test_on_the_wire(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry, kind: str
) -> None:
    """The entity's own server gets one request, with the keep_alive of its role."""
    async with OllamaStandIn() as other:
        role = {"llm_model": "llama3.2:70b", "llm_keep_alive": "11m"}
        await make_entry(other.url, **{kind: role})
        entity_id = {"ai_task": "ai_task.task"}.get(kind, "conversation.agent")
        await make_entry(
            ollama.url,
            conversation={"external_llms": [entity_id], "llm_keep_alive": "3m"},
        )
        ollama.brain.replies.extend([ASKS, Reply("It is 42.")])
        other.brain.replies.append(Reply("42"))
        agent = "conversation.agent_2" if kind == "conversation" else None
        said = await say(home, "Ask", agent_id=agent or "conversation.agent")
        assert speech(said) == "It is 42."
        (body,) = other.sent("/api/chat")
        assert body["messages"][-1]["content"].endswith(QUESTION)
        assert (body["model"], body["keep_alive"]) == ("llama3.2:70b", "11m")
        sent = [body["keep_alive"] for body in ollama.sent("/api/chat")]
        assert sent == ["3m", "3m"]


async def test_two_agents_that_may_ask_each_other(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The one that is asked gets an error when it asks back, and answers."""
    async with OllamaStandIn() as other:
        await make_entry(
            other.url, conversation={"external_llms": ["conversation.agent_2"]}
        )
        await make_entry(
            ollama.url, conversation={"external_llms": ["conversation.agent"]}
        )
        ollama.brain.replies.extend([ASKS, Reply("It is 42.")])
        other.brain.replies.extend([ASKS, Reply("42, I think.")])
        said = await say(home, "Ask", agent_id="conversation.agent_2")
        assert speech(said) == "It is 42."
        assert len(ollama.sent("/api/chat")) == len(other.sent("/api/chat")) == 2
        (refusal,) = results(other)
        assert "cannot ask a third one" in refusal
        assert results(ollama) == ["42, I think."]
        # Asked by a person, it may ask.
        other.brain.replies.extend([ASKS, Reply("It is 42.")])
        ollama.brain.replies.append(Reply("42"))
        await say(home, "Ask", agent_id="conversation.agent")
        assert results(other) == ["42"]


async def test_through_an_action(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An action within the answer may not ask; one that goes on afterwards may."""
    later: list[asyncio.Task[Any]] = []
    ended = asyncio.Event()

    async def ask_back() -> None:
        data = {"text": "Ask", "agent_id": "conversation.agent"}
        await home.services.async_call("conversation", "process", data, blocking=True)

    async def ask_later() -> None:
        await ended.wait()
        await ask_back()

    class AsksBack(OtherAgent):
        @override
        async def _async_handle_message(
            self,
            user_input: conversation.ConversationInput,
            chat_log: conversation.ChatLog,
        ) -> conversation.ConversationResult:
            if not later:
                later.append(home.async_create_task(ask_later()))
                await ask_back()
            return await super()._async_handle_message(user_input, chat_log)

    other = AsksBack()
    await add(home, other)
    await make_entry(ollama.url, conversation={"external_llms": [other.entity_id]})
    ollama.brain.replies.extend([ASKS, ASKS, Reply("I may not."), Reply("It is 42.")])
    assert speech(await say(home, "Ask")) == "It is 42."
    assert len(other.inputs) == 1
    refused = ollama.sent("/api/chat")[2]["messages"][-1]["content"]
    assert "cannot ask a third one" in refused
    ollama.brain.replies.extend([ASKS, Reply("It is 42.")])
    ended.set()
    await later[0]
    assert len(other.inputs) == 2


async def test_no_external_llm_in_a_nested_question(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An agent that answers an agent may not pass the question to a server either."""
    async with OllamaStandIn() as other:
        external = {"external_llm_model": "llama3.2:70b"}
        await make_entry(other.url, conversation={}, external_llm=external)
        await make_entry(
            ollama.url, conversation={"external_llms": ["conversation.agent"]}
        )
        ollama.brain.replies.extend([ASKS, Reply("It is 42.")])
        other.brain.replies.extend([ASKS, Reply("42")])
        await say(home, "Ask", agent_id="conversation.agent_2")
        models = {body["model"] for body in other.sent("/api/chat")}
        assert models == {"llama3.2:3b"}
        assert "cannot ask a third one" in results(other)[0]


async def test_an_agent_cannot_ask_itself(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Nor an entity that is gone, or that is no agent: there is no such tool."""
    entry = await make_entry(ollama.url, conversation={})
    (agent,) = entry.get_subentries_of_type("conversation")
    registered = er.async_get(home).async_get("conversation.agent")
    assert registered
    chosen = [registered.id, "conversation.agent", "gone", "light.kitchen_light"]
    home.config_entries.async_update_subentry(
        entry, agent, data={**agent.data, "external_llms": chosen}
    )
    await home.async_block_till_done()
    await say(home, "Hello")
    assert not any("__ask_" in name for name in tool_names(ollama.sent("/api/chat")[0]))


async def test_a_renamed_entity_is_still_asked(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The id in the registry stays; the tool's name follows at the next start."""
    agent, task = OtherAgent(), OtherTask()
    await add(home, agent)
    await add(home, task)
    registry = er.async_get(home)
    ids = [
        entry.id
        for entity in (agent, task)
        if (entry := registry.async_get(entity.entity_id))
    ]
    await make_entry(ollama.url, conversation={"external_llms": ids})
    registry.async_update_entity(task.entity_id, new_entity_id="ai_task.new")
    await home.async_block_till_done()
    use = ToolUse("home_agent__ask_other_2", {"prompt": "6*7?"})
    ollama.brain.replies.extend([Reply(tools=(use,)), Reply("It is 42.")])
    await say(home, "Ask")
    assert [item.instructions for item in task.tasks] == ["6*7?"]
    asks = [n for n in tool_names(ollama.sent("/api/chat")[0]) if "__ask_" in n]
    assert asks == ["home_agent__ask_other", "home_agent__ask_other_2"]


def fails(error: Exception) -> Callable[[], str]:
    """Return a function that raises an error."""

    def answer() -> str:
        raise error

    return answer


@pytest.mark.parametrize("kind", [OtherAgent, OtherTask])
@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (fails(HomeAssistantError("secret")), "I could not ask the other model"),
        (fails(KeyError("secret")), "I could not ask the other model"),
        (lambda: "hangs", "did not answer in time"),
        (lambda: " ", "gave no answer"),
    ],
)
async def test_a_failure_is_a_tool_error(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[OtherAgent | OtherTask],
    answer: Callable[[], str],
    heard: str,
) -> None:
    """The primary LLM explains it; the text of the error stays with the entity."""
    monkeypatch.setattr(f"{TOOLS}.external_llm.DEFAULT_IDLE_TIMEOUT", 0.05)
    other = kind(answer)
    await add(home, other)
    await make_entry(ollama.url, conversation={"external_llms": [other.entity_id]})
    ollama.brain.replies.append(ASKS)
    said = speech(await say(home, "Ask"))
    assert said.startswith("That did not work:")
    assert heard in said
    ours = [item for item in caplog.records if "home_agent" in item.name]
    assert all("secret" not in item.getMessage() for item in ours)
    assert "secret" not in said


@pytest.mark.parametrize("kind", [OtherAgent, OtherTask])
async def test_an_unavailable_entity(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    kind: type[OtherAgent | OtherTask],
) -> None:
    """It is not asked; nor is one that was removed after the start."""
    other = kind()
    await add(home, other)
    await make_entry(ollama.url, conversation={"external_llms": [other.entity_id]})
    other._attr_available = False
    other.async_write_ha_state()
    ollama.brain.replies.append(ASKS)
    assert "is not available" in speech(await say(home, "Ask"))
    await other.async_remove(force_remove=True)
    ollama.brain.replies.append(ASKS)
    assert "is not available" in speech(await say(home, "Ask"))


async def test_a_silent_response(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An agent that has done something without a word has not failed."""
    await add(home, OtherAgent(lambda: ""))
    chosen = {"external_llms": ["conversation.other"]}
    await make_entry(ollama.url, conversation=chosen)
    ollama.brain.replies.extend([ASKS, Reply("It is done.")])
    await say(home, "Ask")
    assert results(ollama) == ["Done."]


async def test_calls_per_turn_are_limited(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """As those of an external LLM on a server."""
    other = OtherTask()
    await add(home, other)
    await make_entry(ollama.url, conversation={"external_llms": [other.entity_id]})
    use = ToolUse(ASK, {"prompt": "Again?"})
    ollama.brain.replies.extend([Reply(tools=(use,) * 5), Reply("I give up.")])
    await say(home, "Ask")
    assert len(other.tasks) == 3
    refused = [text for text in results(ollama) if "already asked 3 times" in text]
    assert len(refused) == 2


@pytest.mark.parametrize(("chosen", "seconds"), [(None, 300), (42, 42)])
async def test_the_timeout_is_that_of_the_agent(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    chosen: int | None,
    seconds: int,
) -> None:
    """For the whole answer: an entity does not show whether it is still at work."""
    settings = {"external_llms": ["ai_task.other"], "llm_idle_timeout": chosen}
    entry = await make_entry(ollama.url, conversation=settings)
    (agent,) = entry.get_subentries_of_type("conversation")
    (tool,) = external_llm_tools(home, entry, agent)
    assert isinstance(tool, ExternalEntityTool)
    assert tool._timeout == seconds

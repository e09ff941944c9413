"""Tests of which part of a conversation is sent."""

from types import SimpleNamespace
from typing import Any

from homeassistant.components import conversation
from homeassistant.components.conversation import (
    AssistantContent,
    SystemContent,
    ToolResultContent,
    UserContent,
)
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.core import HomeAssistant
from homeassistant.helpers import llm

from custom_components.home_agent.prompt.history import History, TurnContext
from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn
from tests.servers.chat import ChatCall, Reply, ToolUse
from tests.servers.stand_in import Fault


def test_contexts_of_dropped_turns_are_forgotten() -> None:
    """A long conversation does not grow in memory beside Home Assistant's own log."""
    history = History(max_turns=2)
    content: list[conversation.Content] = [SystemContent("")]
    for number in range(50):
        question = UserContent(f"Question {number}")
        content.append(question)
        history.begin_turn(question, TurnContext({"light.a": "- A"}))
        history.messages_to_send(content)
    assert len(history._contexts) <= 4


def _chat_log(content: list[conversation.Content], api_id: str) -> Any:
    """Return what a history reads of a chat log."""
    return SimpleNamespace(
        content=content, llm_api=SimpleNamespace(api=SimpleNamespace(id=api_id))
    )


def test_results_from_before_a_change_of_exposure_are_withheld() -> None:
    """They may name entities that were hidden since; newer ones are sent."""
    history = History(max_turns=0)
    result = llm.ToolResult(data={"entities": [{"names": ["Safe"]}]})
    content: list[conversation.Content] = [
        SystemContent(""),
        UserContent("Where is the safe?"),
        AssistantContent(agent_id="a", content=None),
        ToolResultContent(
            agent_id="a", tool_call_id="1", tool_name="search", result=result
        ),
        AssistantContent(agent_id="a", content="In the cellar."),
    ]
    history.remove_hidden(_chat_log(content, "first"), lambda _: True)
    assert history.messages_to_send(content) == content
    history.remove_hidden(_chat_log(content, "second"), lambda _: True)
    content += [UserContent("And now?"), content[3]]
    sent = history.messages_to_send(content)
    assert isinstance(sent[3], ToolResultContent)
    assert "Outdated" in str(sent[3].result.data)
    assert sent[-1] == content[3]
    # Home Assistant's own log is not changed.
    assert content[3].result is result  # type: ignore[union-attr]


async def test_a_hidden_entity_leaves_earlier_tool_results(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """On the wire, in a conversation that goes on."""
    await make_entry(ollama.url, conversation={"entity_mode": "retrieval"})
    search = ToolUse("home_agent__search_entities", {"query": "reading lamp"})
    ollama.brain.replies.extend([Reply(tools=(search,)), Reply("Found it.")])
    result = await say(home, "Anything to read by?")
    assert "Reading Lamp" in ollama.requests[-1].raw.decode()
    async_expose_entity(home, conversation.DOMAIN, "light.reading_lamp", False)
    await home.async_block_till_done()
    ollama.brain.replies.append(Reply("No."))
    await say(home, "And now?", result.conversation_id)
    body = ollama.sent("/api/chat")[-1]
    assert not any("Reading Lamp" in message["content"] for message in body["messages"])


async def test_a_failed_first_turn_leaves_nothing(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Home Assistant 2026.10 does not tell that it forgets such a conversation."""
    await make_entry(ollama.url, conversation={"entity_mode": "retrieval"})
    ollama.faults.append(Fault(status=500, body={"error": "broken"}))
    assert "error" in speech(await say(home, "Hello"))
    entity: Any = conversation.async_get_agent(home, "conversation.agent")
    assert not entity._agent._histories._histories


async def test_an_entity_that_is_hidden_during_a_turn(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The next request of the same turn does not name it any more."""
    await make_entry(ollama.url, conversation={"entity_mode": "retrieval"})
    search = ToolUse("home_agent__search_entities", {"query": "reading lamp"})
    original = ollama.brain
    answers = iter([Reply(tools=(search,)), Reply("Ok.")])

    def brain(call: ChatCall) -> Reply:
        async_expose_entity(home, conversation.DOMAIN, "light.kitchen_light", False)
        return next(answers)

    ollama.brain = brain  # type: ignore[assignment]
    await say(home, "Is the kitchen light on?")
    ollama.brain = original
    first, second = (str(body["messages"][1:]) for body in ollama.sent("/api/chat"))
    assert "Kitchen Light" in first
    assert "Kitchen Light" not in second

"""The integration on a real llama.cpp server with a very small model."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.model.turn_record import TurnRecord
from custom_components.home_agent.servers.base import Connection, ServerKind, collect
from custom_components.home_agent.servers.detect import detect
from custom_components.home_agent.servers.factory import connect
from custom_components.home_agent.servers.messages import (
    ChatMessage,
    ChatRequest,
    ToolCall,
    ToolSpec,
)
from custom_components.home_agent.vector_db_manager import VectorDBManager
from scripts import llama_cpp_server
from tests.conftest import MakeEntry, say, speech

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

MODEL = "model"
HELLO: list[ChatMessage] = [
    {"role": "system", "content": "You are a helpful assistant at home. " * 10},
    {"role": "user", "content": "Say hello."},
]
# The model is too small to choose a tool, but it repeats what it has seen: what is
# tested is the server's parsing and ours.
TOOL_TEMPLATE = Path(__file__).with_name("tools.jinja").read_text()
TURN_ON: ToolSpec = {
    "name": "turn_on",
    "description": "Turn on",
    "parameters": {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    },
}
ROUND: list[ChatMessage] = [
    {"role": "user", "content": "Turn on the desk lamp"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [ToolCall("turn_on", {"name": "desk lamp"}, "id")],
    },
]


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[str]:
    """Return the address of a chat server."""
    server = llama_cpp_server.start(num_ctx=4096, chat_template=TOOL_TEMPLATE)
    yield server.listening_address
    del server


@pytest.fixture(scope="module")
def embedder() -> Iterator[str]:
    """Return the address of an embedding server."""
    server = llama_cpp_server.start(embedding=True, num_ctx=512)
    yield server.listening_address
    del server


def request(**more: Any) -> ChatRequest:
    """Return a short request."""
    return ChatRequest(model=MODEL, messages=HELLO, max_tokens=8, **more)


async def test_it_is_found(hass: HomeAssistant, llama_cpp: str) -> None:
    """By what it answers."""
    found = await detect(async_get_clientsession(hass), Connection(llama_cpp))
    assert found.kind is ServerKind.LLAMA_CPP
    assert found.name == "llama.cpp"


async def test_streams_and_the_prompt_cache(
    hass: HomeAssistant, llama_cpp: str
) -> None:
    """Streamed and whole are the same; the second prompt comes from the cache."""
    server = await connect(async_get_clientsession(hass), Connection(llama_cpp))
    (model,) = await server.list_models()
    asked = request(temperature=0.0)
    whole = await server.chat(asked)
    streamed = await collect(server.chat_stream(asked))
    assert whole.content == streamed.content != ""
    assert streamed.finish_reason == whole.finish_reason == "length"
    assert streamed.stats.completion_tokens == 8
    assert streamed.stats.prompt_tokens
    assert streamed.stats.cached_tokens is not None
    assert streamed.stats.cached_tokens >= 0.9 * streamed.stats.prompt_tokens
    assert streamed.stats.prompt_seconds is not None
    assert model.capabilities is None


async def test_tool_calls_are_parsed(hass: HomeAssistant, llama_cpp: str) -> None:
    """A call comes as string fragments, and is put together."""
    server = await connect(async_get_clientsession(hass), Connection(llama_cpp))
    asked = ChatRequest(
        model=MODEL,
        messages=[*ROUND * 4, ROUND[0]],
        tools=[TURN_ON],
        max_tokens=64,
        temperature=0.0,
    )
    for answer in (
        await collect(server.chat_stream(asked)),
        await server.chat(asked),
    ):
        (call,) = answer.tool_calls
        assert (call.name, call.arguments) == ("turn_on", {"name": "desk lamp"})
        assert call.id
        assert answer.finish_reason == "tool_calls"
        assert not answer.content.strip()


async def test_a_conversation(
    home: HomeAssistant, make_entry: MakeEntry, llama_cpp: str
) -> None:
    """A turn of the agent, with keep_alive set: the server does not mind."""
    await make_entry(
        llama_cpp,
        conversation={"llm_hass_api": [], "llm_keep_alive": "-1", "llm_max_tokens": 8},
    )
    assert speech(await say(home, "Say hello."))


async def test_the_first_question_evaluates_only_itself(
    home: HomeAssistant, make_entry: MakeEntry, llama_cpp: str
) -> None:
    """The real prefix, tools and all, was evaluated before."""
    entry = await make_entry(
        llama_cpp,
        # What a model as small as this says by chance, the server may not parse.
        conversation={
            "llm_warm_up": True,
            "llm_max_tokens": 4,
            "llm_num_ctx": 4096,
            "llm_temperature": 0.0,
        },
    )
    await home.async_block_till_done(wait_background_tasks=True)
    turns: list[TurnRecord] = []
    (residency,) = entry.runtime_data.residencies.values()
    use = residency.use

    use.turn_ended.add(turns.append)
    await say(home, "Say hello to Ada.")
    (turn,) = turns
    assert turn.prompt_tokens is not None
    assert turn.cached_tokens is not None
    # The question has 5 tokens; with what the template puts around it 13.
    assert turn.prompt_tokens > 1000
    assert turn.prompt_tokens - turn.cached_tokens <= 13
    await home.async_block_till_done(wait_background_tasks=True)


async def test_each_turn_evaluates_only_what_is_new(
    home: HomeAssistant, make_entry: MakeEntry, llama_cpp: str
) -> None:
    """By retrieval: what is told beside a question stays in the cache with it."""
    options = {"entity_mode": "retrieval", "llm_max_tokens": 2, "llm_temperature": 0.0}
    entry = await make_entry(llama_cpp, conversation=options)
    turns: list[TurnRecord] = []

    (residency,) = entry.runtime_data.residencies.values()
    use = residency.use
    end = use.turn_ended.add(turns.append)
    conversation_id = None
    for number, question in enumerate(
        ("Is the reading lamp on?", "And the kitchen light?")
    ):
        state = "on" if number % 2 else "off"
        home.states.async_set("light.reading_lamp", state, {"friendly_name": "Lamp"})
        answer = await say(home, question, conversation_id)
        conversation_id = answer.conversation_id
    end()
    for before, turn in pairwise(turns):
        assert turn.prompt_tokens
        assert before.prompt_tokens
        assert turn.cached_tokens is not None
        evaluated = turn.prompt_tokens - turn.cached_tokens
        assert evaluated <= 1.05 * (turn.prompt_tokens - before.prompt_tokens)


async def test_prompts_are_counted(hass: HomeAssistant, llama_cpp: str) -> None:
    """By the server's own template and tokenizer, with tools."""
    server = await connect(async_get_clientsession(hass), Connection(llama_cpp))
    asked = ChatRequest(model=MODEL, messages=ROUND[:1], tools=[TURN_ON], max_tokens=1)
    answer = await server.chat(asked)
    assert await server.count_tokens(asked) == answer.stats.prompt_tokens


async def test_embeddings(hass: HomeAssistant, embedder: str) -> None:
    """Vectors of real texts, in order."""
    config = {"llm_base_url": embedder, "embedding_model": MODEL}
    manager = VectorDBManager(hass, config)
    texts = ["Kitchen Light; light", "Bedroom Temperature; sensor temperature"]
    first, second = await manager.generate_embeddings(texts)
    again = await manager.generate_embedding(texts[0])
    assert len(first) == len(second) == 576
    assert first == pytest.approx(again, abs=1e-2)
    assert first != pytest.approx(second, abs=1e-2)
    await manager.async_stop()

"""A keep_alive of 0: gone after each turn, but loaded only once for it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, override

from aiohttp import web
from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.model.use import model_uses
from custom_components.home_agent.servers import ollama as ollama_client
from tests.conftest import MakeEntry, call_action, say, speech
from tests.servers import OllamaStandIn, Reply, ToolUse
from tests.servers.others import LMStudioStandIn
from tests.servers.stand_in import Fault

MODEL = "llama3.2:3b"
ZERO = {"llm_keep_alive": "0", "llm_hass_api": ["assist"], "llm_warm_up": False}
COMMAND = "turn on the kitchen light"
DONE = "Turned on Kitchen Light."


class ThinkingOllama(OllamaStandIn):
    """An Ollama that ends an answer only when it was asked to keep the model."""

    def __init__(self, **options: Any) -> None:
        """Start without a request."""
        super().__init__(**options)
        self._kept = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @override
    async def write_lines(
        self, request: web.Request, content_type: str, lines: list[bytes]
    ) -> web.StreamResponse:
        """Send an answer; the model is held until then."""
        if request.path == "/api/chat":
            async with asyncio.timeout(10):
                await self._kept.wait()
                await self.may_answer.wait()
            self._kept.clear()
        response = await super().write_lines(request, content_type, lines)
        if request.path == "/api/generate":
            self._kept.set()
        return response


@pytest.fixture
async def thinking(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ThinkingOllama]:
    """Return an Ollama that takes its time, and let nothing else wait."""
    monkeypatch.setattr(ollama_client, "KEEP_DELAY", 0.01)
    async with ThinkingOllama() as server:
        yield server


def extra(server: OllamaStandIn) -> list[Any]:
    """Return the keep_alive of each request that has no prompt."""
    return [body["keep_alive"] for body in server.sent("/api/generate")]


async def settle(hass: HomeAssistant) -> None:
    """Wait for everything in the background."""
    await hass.async_block_till_done(wait_background_tasks=True)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_command_loads_the_model_once(
    home: HomeAssistant,
    thinking: ThinkingOllama,
    make_entry: MakeEntry,
    *,
    stream: bool,
) -> None:
    """Both of its requests carry 0, and the model is gone after the second."""
    await make_entry(thinking.url, conversation={**ZERO, "llm_stream": stream})
    thinking.requests.clear()
    thinking.brain.replies.append(
        Reply(tools=(ToolUse("intent__HassTurnOn", {"name": "Kitchen Light"}),))
    )
    thinking.brain.replies.append(Reply(DONE))
    assert speech(await say(home, COMMAND)) == DONE
    await settle(home)
    assert [body["keep_alive"] for body in thinking.sent("/api/chat")] == [0, 0]
    assert thinking.memory.loads == [MODEL]
    assert thinking.loaded(MODEL) is None
    assert extra(thinking) == ["5m", "5m", 0]
    # Another context would load the model again.
    contexts = {
        body["options"]["num_ctx"]
        for body in thinking.sent("/api/chat", "/api/generate")
        if body["keep_alive"] != 0 or "messages" in body
    }
    assert len(contexts) == 1


async def test_an_answer_at_once_needs_no_other_request(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Its own keep_alive unloads the model."""
    await make_entry(ollama.url, conversation=ZERO)
    ollama.requests.clear()
    ollama.brain.replies.append(Reply("Hello."))
    assert speech(await say(home, "Hello")) == "Hello."
    await settle(home)
    assert extra(ollama) == []
    assert ollama.memory.loads == [MODEL]
    assert ollama.loaded(MODEL) is None


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        ({**ZERO, "llm_hass_api": []}, {}),
        (
            ZERO,
            {"external_llm_model": MODEL, "external_llm_keep_alive": "-1"},
        ),
        ({**ZERO, "llm_keep_alive": "5m"}, {}),
    ],
    ids=["no tools", "shared with -1", "5m"],
)
async def test_nothing_more_is_sent_where_nothing_is_gained(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    others: dict[str, Any],
) -> None:
    """One request that no other follows, and a model that stays anyway."""
    monkeypatch.setattr(ollama_client, "KEEP_DELAY", 0)
    roles = {"external_llm": {**others, "external_llm_warm_up": False}}
    await make_entry(ollama.url, conversation=settings, **(roles if others else {}))
    await settle(home)
    ollama.requests.clear()
    ollama.brain.replies.append(Reply("Hello."))
    await say(home, "Hello")
    await settle(home)
    assert extra(ollama) == []


async def test_a_model_that_cannot_be_kept_answers_all_the_same(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is loaded twice then, as before."""
    monkeypatch.setattr(ollama_client, "KEEP_DELAY", 0)
    await make_entry(ollama.url, conversation=ZERO)
    handlers = dict(ollama.routes)

    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": "no"}, status=500)

    ollama.routes["POST", "/api/generate"] = refuse
    ollama.brain.replies.append(
        Reply(tools=(ToolUse("intent__HassTurnOn", {"name": "Kitchen Light"}),))
    )
    ollama.brain.replies.append(Reply(DONE))
    assert speech(await say(home, COMMAND)) == DONE
    await settle(home)
    assert ollama.memory.loads == [MODEL, MODEL]
    ollama.routes = handlers


async def test_a_turn_that_fails_leaves_no_model_behind(
    home: HomeAssistant, thinking: ThinkingOllama, make_entry: MakeEntry
) -> None:
    """The server hangs up in the middle of its answer."""
    await make_entry(thinking.url, conversation=ZERO)
    thinking.faults.append(Fault(error_after_lines=1, error_text="out of memory"))
    thinking.brain.replies.append(Reply("One two three four"))
    result = await say(home, "Hello")
    assert result.response.error_code is not None
    await settle(home)
    assert thinking.loaded(MODEL) is None
    assert extra(thinking)[-1] == 0


async def test_two_turns_at_once_unload_after_the_second(
    home: HomeAssistant, thinking: ThinkingOllama, make_entry: MakeEntry
) -> None:
    """Two agents of one model; each has a client of its own for the server."""
    entry = await make_entry(thinking.url, conversation=ZERO)
    await make_entry(thinking.url, conversation=ZERO)
    agents = home.states.async_entity_ids("conversation")
    first, second = (name for name in agents if name != "conversation.home_assistant")
    thinking.hold()
    turns = [
        home.async_create_task(say(home, "Hello", agent_id=agent))
        for agent in (first, second)
    ]
    use = entry.runtime_data.residencies[next(iter(entry.subentries))].use
    for _ in range(1000):
        if use.running_turns == len(thinking.sent("/api/generate")) == 2:
            break
        await asyncio.sleep(0.01)
    thinking.release()
    await asyncio.gather(*turns)
    await settle(home)
    assert thinking.loaded(MODEL) is None
    assert extra(thinking).count(0) == 1


async def test_a_setting_that_changes_in_the_turn(
    home: HomeAssistant, thinking: ThinkingOllama, make_entry: MakeEntry
) -> None:
    """The model stays loaded after the turn, as the new setting wants."""
    entry = await make_entry(thinking.url, conversation=ZERO)
    thinking.brain.replies.append(Reply("Hello."))
    thinking.may_answer.clear()
    turn = home.async_create_task(say(home, "Hello"))
    for _ in range(1000):
        if thinking.sent("/api/generate"):
            break
        await asyncio.sleep(0.01)
    agent = next(iter(entry.subentries.values()))
    home.config_entries.async_update_subentry(
        entry, agent, data={**agent.data, "llm_keep_alive": "-1"}
    )
    use = model_uses(home).async_get(thinking.url, MODEL)
    for _ in range(1000):
        if (longest := use.shared.longest()) and longest.is_indefinite:
            break
        await asyncio.sleep(0.01)
    thinking.may_answer.set()
    await turn
    await settle(home)
    assert 0 not in extra(thinking)
    assert thinking.loaded(MODEL) is not None


async def test_a_load_at_the_end_of_the_turn(
    home: HomeAssistant,
    thinking: ThinkingOllama,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A load that the user asks for holds: the unload before it does not overtake."""
    began, may_go_on = asyncio.Event(), asyncio.Event()
    unload = ollama_client.OllamaServer.unload

    async def unload_late(server: ollama_client.OllamaServer, model: str) -> None:
        began.set()
        await may_go_on.wait()
        await unload(server, model)

    monkeypatch.setattr(ollama_client.OllamaServer, "unload", unload_late)
    await make_entry(thinking.url, conversation=ZERO)
    thinking.brain.replies.append(Reply("Hello."))
    await say(home, "Hello")
    await began.wait()
    load = home.async_create_task(call_action(home, "load_model", keep_alive="1h"))
    for _ in range(50):
        await asyncio.sleep(0)
    may_go_on.set()
    await load
    await settle(home)
    resident = thinking.loaded(MODEL)
    assert resident is not None
    assert resident.seconds == 3600


async def test_another_role_asks_the_model_in_the_turn(
    home: HomeAssistant, thinking: ThinkingOllama, make_entry: MakeEntry
) -> None:
    """Its request, which has no tools, does not unload the model of the agent."""
    external = {"external_llm_model": MODEL, "external_llm_keep_alive": "0"}
    await make_entry(thinking.url, conversation=ZERO, external_llm=external)
    ask = ToolUse("home_agent__ask_external_llm", {"prompt": "Why?"})
    thinking.brain.replies += [Reply(tools=(ask,)), Reply("So."), Reply(DONE)]
    assert speech(await say(home, "Why?")) == DONE
    await settle(home)
    assert thinking.memory.loads == [MODEL]
    assert thinking.loaded(MODEL) is None


async def test_lm_studio_unloads_after_the_turn(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """And not after each of its requests."""
    async with LMStudioStandIn(models=[MODEL]) as server:
        await make_entry(
            f"{server.url}/v1",
            conversation={**ZERO, "llm_server_kind": "lm_studio"},
        )
        await settle(home)
        server.requests.clear()
        server.brain.replies.append(
            Reply(tools=(ToolUse("intent__HassTurnOn", {"name": "Kitchen Light"}),))
        )
        server.brain.replies.append(Reply(DONE))
        assert speech(await say(home, COMMAND)) == DONE
        await settle(home)
        paths = [item.path for item in server.requests if item.method == "POST"]
        chat, unload = "/v1/chat/completions", "/api/v1/models/unload"
        assert paths == [chat, chat, unload]
        assert MODEL not in server.loaded

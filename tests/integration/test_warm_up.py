"""Models are in memory, with their prompt evaluated, before the question is asked."""

import asyncio
from datetime import timedelta
import logging
from typing import Any

from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import Context, CoreState, HomeAssistant
from homeassistant.helpers import issue_registry as ir
from homeassistant.util import dt as dt_util
import pytest
from pytest_homeassistant_custom_component.common import async_fire_time_changed

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.coordinator import AWAY_INTERVAL
from tests.conftest import MakeEntry, say, speech
from tests.servers import ManualClock, OllamaStandIn, Reply, StandInModel
from tests.servers.others import LlamaCppStandIn
from tests.servers.stand_in import Fault

PRIMARY = "llama3.2:3b"
EXTERNAL = "llama3.2:70b"
EMBEDDING = "nomic-embed-text:latest"
WARM: dict[str, Any] = {"llm_warm_up": True, "llm_keep_alive": "-1"}
ALL: dict[str, Any] = {
    "conversation": WARM,
    "external_llm": {
        "external_llm_model": EXTERNAL,
        "external_llm_keep_alive": "2m",
        "external_llm_warm_up": True,
    },
    "embedding": {"embedding_keep_alive": "10m", "embedding_warm_up": True},
}


async def settle(hass: HomeAssistant) -> None:
    """Wait for everything that runs in the background."""
    await hass.async_block_till_done(wait_background_tasks=True)


async def until(condition: Any) -> None:
    """Let the loop run until a condition holds."""
    for _ in range(20000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it does not happen")


async def poll(hass: HomeAssistant) -> None:
    """Let the time of the next poll come."""
    async_fire_time_changed(hass, dt_util.utcnow() + timedelta(seconds=90))
    await settle(hass)


async def unload(hass: HomeAssistant) -> None:
    """Unload all models, as a user or a blueprint does."""
    await hass.services.async_call(DOMAIN, "unload_model", {}, blocking=True)


async def prepare(hass: HomeAssistant) -> None:
    """Begin to speak."""
    await conversation.async_prepare_agent(hass, "conversation.agent", "en")


async def test_each_model_is_loaded_once(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The one that answers first; each with its own keep_alive."""
    caplog.set_level(logging.INFO)
    await make_entry(f"{ollama.url}/v1", **ALL)
    await settle(home)
    assert ollama.memory.loads == [PRIMARY, EMBEDDING, EXTERNAL]
    generate = ollama.sent("/api/generate")
    assert generate == [
        {
            "model": model,
            "keep_alive": keep_alive,
            "stream": False,
            "options": {"num_ctx": 8192},
        }
        for model, keep_alive in ((PRIMARY, -1), (EXTERNAL, "2m"))
    ]
    assert {"model": "nomic-embed-text", "keep_alive": "10m"} in ollama.sent(
        "/api/embed"
    )
    for model in (PRIMARY, EXTERNAL, "nomic-embed-text"):
        assert f"Loaded {model} in " in caplog.text


async def test_set_up_does_not_wait(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A load of minutes goes on behind it, and ends with the entry."""
    ollama.hold()
    entry = await make_entry(ollama.url, **ALL)
    assert entry.state is ConfigEntryState.LOADED
    await until(lambda: ollama.sent("/api/generate"))
    assert await home.config_entries.async_unload(entry.entry_id)
    await until(lambda: ollama.hang_ups)


async def test_it_can_be_switched_off(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """For each model by itself; and 0 means that nothing stays."""
    ahead: dict[str, Any] = {**ALL, "conversation": {"llm_warm_up": False}}
    ahead["external_llm"] = ALL["external_llm"] | {"external_llm_keep_alive": "0"}
    await make_entry(ollama.url, **ahead)
    await settle(home)
    assert ollama.memory.loads == [EMBEDDING]
    await prepare(home)
    assert ollama.memory.loads == [EMBEDDING]


async def test_a_missing_model_is_named(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log and as a repair, until it is there; the others are loaded."""
    external = ALL["external_llm"] | {"external_llm_model": "gone"}
    entry = await make_entry(ollama.url, **{**ALL, "external_llm": external})
    await settle(home)
    assert ollama.memory.loads == [PRIMARY, EMBEDDING]
    assert "does not have the model gone" in caplog.text
    issue = ir.async_get(home).async_get_issue(DOMAIN, "model_missing_external")
    assert issue
    assert issue.translation_placeholders
    assert issue.translation_placeholders["model"] == "gone"
    ollama.models["gone"] = StandInModel("gone")
    await home.config_entries.async_reload(entry.entry_id)
    await settle(home)
    assert not ir.async_get(home).issues


async def test_a_failure_is_one_warning(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And nothing stops."""
    ollama.faults.append(Fault(status=500, body={"error": "out of memory"}))
    await make_entry(ollama.url, **ALL)
    await settle(home)
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.getMessage() for r in warnings if "custom_components" in r.name] == [
        f"Cannot load {PRIMARY}: ModelServerError at {ollama.url[7:]} (HTTP 500): "
        "out of memory"
    ]
    assert ollama.memory.loads == [EMBEDDING, EXTERNAL]
    assert speech(await say(home, "Hello")).startswith("Hello!")


async def test_a_prompt_that_is_refused_says_why(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model that cannot use tools, for example."""
    ollama.models[PRIMARY] = StandInModel(PRIMARY, capabilities=("completion",))
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    assert f"Cannot prime {PRIMARY} with its prompt: ToolsNotSupported" in (caplog.text)
    assert "does not support tools" in caplog.text


async def test_the_real_prefix_is_primed(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """What the first question begins with, byte for byte."""
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    (primed,) = ollama.sent("/api/chat")
    assert primed["options"]["num_predict"] == 1
    await say(home, "Hello")
    await settle(home)
    _, asked = ollama.sent("/api/chat")
    assert asked["messages"][0] == primed["messages"][0]
    assert asked["tools"] == primed["tools"]
    first, second = ollama.evaluated_tokens
    assert first > 300
    assert second <= len(["user", "Hello"])


async def test_it_is_primed_again_when_the_prompt_changes(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Once for a crowd of changes, and only if the model is in memory."""
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)

    async def expose(*names: str) -> None:
        for name in names:
            home.states.async_set(f"light.{name}", "on", {"friendly_name": name})
            async_expose_entity(home, "conversation", f"light.{name}", True)
        async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=15))
        await settle(home)

    await expose("one", "two")
    bodies = ollama.sent("/api/chat")
    assert len(bodies) == 2
    assert "two" in bodies[1]["messages"][0]["content"]
    # Nothing that stands in the prompt has changed.
    home.states.async_set("device_tracker.three", "home")
    await expose()
    assert len(ollama.sent("/api/chat")) == 2
    await unload(home)
    await poll(home)
    await expose("four")
    assert len(ollama.sent("/api/chat")) == 2


async def test_not_while_a_turn_runs(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A turn is never behind its own preparation."""
    await make_entry(ollama.url, conversation=WARM | {"llm_warm_up": True})
    await settle(home)
    ollama.requests.clear()
    ollama.hold()
    turn = home.async_create_task(say(home, "Hello"))
    await until(lambda: ollama.sent("/api/chat"))
    home.states.async_set("light.new", "on", {"friendly_name": "New"})
    async_expose_entity(home, "conversation", "light.new", True)
    async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=15))
    await prepare(home)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(ollama.sent("/api/chat")) == 1
    ollama.release()
    await turn
    await settle(home)
    _, primed = ollama.sent("/api/chat")
    assert "New" in primed["messages"][0]["content"]


async def test_it_is_primed_for_who_asked_last(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The language stands in no prompt of ours; who the user is may."""
    user = await home.auth.async_create_user("Ada")
    prompt = {"prompt": "You talk to {{ user_name }}."}
    entry = await make_entry(ollama.url, conversation=WARM | prompt)
    await settle(home)
    await conversation.async_converse(
        home,
        "Hello",
        None,
        Context(user_id=user.id),
        language="en",
        agent_id="conversation.agent",
    )
    for _ in range(2):
        await settle(home)
        ollama.memory.unload(PRIMARY)
        ollama.requests.clear()
        await home.config_entries.async_reload(entry.entry_id)
    await settle(home)
    (primed,) = ollama.sent("/api/chat")
    assert "You talk to Ada." in primed["messages"][0]["content"]


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.usefixtures("all_entities")
async def test_speech_hides_the_load(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    make_entry: MakeEntry,
    prepared: bool,
) -> None:
    """A load of 5 s, while somebody speaks for 5 s."""
    await make_entry(ollama.url, conversation={**WARM, "llm_keep_alive": "5m"})
    await settle(home)
    await unload(home)
    await poll(home)
    ollama.load_seconds = 5
    ollama.requests.clear()
    if prepared:
        # Two microphones hear it.
        tasks = [home.async_create_task(prepare(home)) for _ in range(2)]
        await until(lambda: ollama.sent("/api/generate"))
        clock.advance(5)
        await asyncio.gather(*tasks)
    turn = home.async_create_task(say(home, "Hello"))
    asked = 1 + prepared
    await until(lambda: len(ollama.sent("/api/chat")) == asked)
    for _ in range(200):
        await asyncio.sleep(0)
    if not prepared:
        assert not turn.done()
        clock.advance(5)
    await turn
    await settle(home)
    assert ollama.memory.loads.count(PRIMARY) == 2
    state = home.states.get("sensor.agent_load_time")
    assert state
    assert float(state.state) == (0 if prepared else 5)


async def test_prepare_is_cheap_when_all_is_warm(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A look at the server, and no request that a model sees."""
    await make_entry(ollama.url, **ALL)
    await settle(home)
    await say(home, "Hello")
    await settle(home)
    ollama.requests.clear()
    await prepare(home)
    assert not ollama.asked
    assert len(ollama.requests) <= 1


async def test_prepare_loads_the_embedding_model_too(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The search tool will ask it; the external LLM may not be needed."""
    await make_entry(ollama.url, **ALL)
    await settle(home)
    await unload(home)
    await poll(home)
    await prepare(home)
    assert sorted(ollama.memory.residents) == [PRIMARY, EMBEDDING]


async def test_a_model_that_leaves_soon_is_held(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    make_entry: MakeEntry,
) -> None:
    """Or it would be gone when the sentence is over."""
    await make_entry(ollama.url, conversation={**WARM, "llm_keep_alive": "30s"})
    await settle(home)
    ollama.requests.clear()
    await prepare(home)
    (body,) = [item.body for item in ollama.asked]
    assert body["keep_alive"] == "30s"
    assert len(ollama.memory.loads) == 1


async def test_what_shall_not_stay_is_held_for_the_question(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """keep_alive 0: there when the question comes, gone after its answer."""
    await make_entry(ollama.url, conversation={**WARM, "llm_keep_alive": "0"})
    await settle(home)
    assert not ollama.memory.loads
    await prepare(home)
    held = ollama.loaded(PRIMARY)
    assert held
    assert held.seconds == 60
    await say(home, "Hello")
    assert ollama.sent("/api/chat")[-1]["keep_alive"] == 0
    assert not ollama.loaded(PRIMARY)
    assert ollama.memory.loads == [PRIMARY]


async def test_a_server_that_comes_back_is_warmed_up_again(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Its memory is empty after a restart."""
    await make_entry(ollama.url, **ALL)
    await settle(home)
    await ollama.stop()
    await poll(home)
    ollama.memory.loads.clear()
    await ollama.start(int(ollama.url.rpartition(":")[2]))
    # Before the next attempt to index the entities, which is a minute later.
    async_fire_time_changed(home, dt_util.utcnow() + AWAY_INTERVAL)
    await settle(home)
    assert ollama.memory.loads == [PRIMARY, EMBEDDING, EXTERNAL]


async def test_priming_waits_for_the_start(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The model is loaded before; the prompt is whole only then."""
    home.set_state(CoreState.starting)
    await make_entry(ollama.url, conversation=WARM)
    await until(lambda: ollama.memory.loads)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not ollama.sent("/api/chat")
    home.set_state(CoreState.running)
    home.bus.async_fire("homeassistant_started")
    await settle(home)
    assert len(ollama.sent("/api/chat")) == 1


async def test_an_always_loaded_server_is_primed(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """llama.cpp has its model; the prompt is what is cold."""
    async with LlamaCppStandIn() as server:
        # Its one model answers to any name.
        await make_entry(server.url, conversation=WARM)
        await settle(home)
        (primed,) = server.sent("/v1/chat/completions")
        assert primed["max_tokens"] == 1
        server.brain.replies.append(Reply("Hi"))
        await say(home, "Hello")
        assert (
            server.sent("/v1/chat/completions")[1]["messages"][0]
            == (primed["messages"][0])
        )
        await settle(home)
        await home.config_entries.async_unload(
            home.config_entries.async_entries(DOMAIN)[0].entry_id
        )

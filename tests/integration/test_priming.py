"""Loading and priming never delay a question, and never undo what the user does."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, override

from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigSubentryData
from homeassistant.core import HomeAssistant
from homeassistant.helpers import (
    area_registry as ar,
    device_registry as dr,
    entity_registry as er,
    llm,
)
from homeassistant.setup import async_setup_component
from homeassistant.util import dt as dt_util
import pytest
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_fire_time_changed,
)

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.prompt.prefix import Prefix, prefix_key
from tests.conftest import MakeEntry, call_action, say, speech, subentry
from tests.integration.test_warm_up import (
    EMBEDDING,
    PRIMARY,
    WARM,
    poll,
    prepare,
    settle,
    until,
)
from tests.servers import OllamaStandIn, Reply, StandInModel, ToolUse

SECOND = "qwen3:8b"


def change_the_prompt(home: HomeAssistant, name: str) -> None:
    """Expose a new light, and let the time come at which the prompt is primed."""
    home.states.async_set(f"light.{name}", "on", {"friendly_name": name})
    async_expose_entity(home, "conversation", f"light.{name}", True)
    async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=15))


async def let_it_run() -> None:
    """Let the loop run for a while."""
    for _ in range(200):
        await asyncio.sleep(0)


async def press(home: HomeAssistant, button: str) -> None:
    """Press a button of the agent's model."""
    await home.services.async_call(
        "button", "press", {"entity_id": f"button.agent_{button}"}, blocking=True
    )


async def two_agents(home: HomeAssistant, url: str, **first: Any) -> MockConfigEntry:
    """Set up two agents with different models on one server."""
    base = {"llm_hass_api": ["assist"], "llm_keep_alive": "-1"}
    agents: list[ConfigSubentryData] = [
        subentry("conversation", base | {"llm_model": PRIMARY} | first, "Agent"),
        subentry("conversation", base | {"llm_model": SECOND}, "Second"),
    ]
    entry = MockConfigEntry(
        domain=DOMAIN, version=2, data={"llm_base_url": url}, subentries_data=agents
    )
    entry.add_to_hass(home)
    assert await home.config_entries.async_setup(entry.entry_id)
    await settle(home)
    return entry


async def test_a_script_of_a_turn_may_load_the_model(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Also while priming waits for the end of that turn."""
    load = {"sequence": [{"action": "home_agent.load_model"}]}
    assert await async_setup_component(home, "script", {"script": {"warm": load}})
    async_expose_entity(home, "conversation", "script.warm", True)
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    ollama.brain.replies.extend(
        [Reply(tools=(ToolUse("script__warm", {}),)), Reply("Done.")]
    )
    ollama.requests.clear()
    ollama.hold()
    turn = home.async_create_task(say(home, "Warm up"))
    await until(lambda: ollama.sent("/api/chat"))
    change_the_prompt(home, "new")
    await let_it_run()
    ollama.release()
    async with asyncio.timeout(5):
        assert speech(await turn) == "Done."
    assert len(ollama.sent("/api/generate")) == 1


async def test_the_load_button_does_not_wait_for_a_turn(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The server applies a new keep_alive while the model answers."""
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    ollama.requests.clear()
    ollama.hold()
    turn = home.async_create_task(say(home, "Hello"))
    await until(lambda: ollama.sent("/api/chat"))
    change_the_prompt(home, "new")
    await let_it_run()
    button = home.async_create_task(press(home, "load"))
    await until(lambda: ollama.sent("/api/generate"))
    ollama.release()
    await asyncio.gather(turn, button)


async def test_a_question_interrupts_priming(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The request of the priming is hung up before that of the question is sent."""
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    ollama.requests.clear()
    ollama.hold()
    change_the_prompt(home, "new")
    await until(lambda: ollama.sent("/api/chat"))
    turn = home.async_create_task(say(home, "Hello"))
    await until(lambda: len(ollama.sent("/api/chat")) == 2)
    await until(lambda: ollama.hang_ups)
    ollama.release()
    await turn
    await settle(home)
    # The question has evaluated the new prompt.
    primed, asked = ollama.sent("/api/chat")
    assert primed["options"]["num_predict"] == 1
    assert asked["options"]["num_predict"] > 1


async def test_an_interrupted_priming_is_made_up_for(
    home: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """A question to another agent on the server has evaluated its own prompt only."""
    ollama.models[SECOND] = StandInModel(SECOND)
    await two_agents(home, ollama.url)
    ollama.requests.clear()
    ollama.hold()
    change_the_prompt(home, "new")
    await until(lambda: ollama.sent("/api/chat"))
    first = ollama.sent("/api/chat")[0]["model"]
    other = {PRIMARY: "second", SECOND: "agent"}[first]
    turn = home.async_create_task(say(home, "Hello", agent_id=f"conversation.{other}"))
    await until(lambda: ollama.hang_ups)
    await until(lambda: len(ollama.sent("/api/chat")) == 2)
    ollama.release()
    await turn
    await settle(home)
    interrupted, question, *later = ollama.sent("/api/chat")
    assert question["model"] != first
    assert interrupted in later


async def test_indexing_waits_for_priming(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Two long evaluations at the same time would each take longer."""
    entry = await make_entry(ollama.url, conversation=WARM, embedding={})
    await settle(home)
    (primer,) = entry.runtime_data.primers.values()
    ollama.requests.clear()
    ollama.hold()
    home.states.async_set("light.new", "on", {"friendly_name": "New"})
    async_expose_entity(home, "conversation", "light.new", True)
    priming = home.async_create_task(primer.async_prime())
    await until(lambda: ollama.sent("/api/chat"))
    reindex = home.async_create_task(call_action(home, "reindex"))
    for _ in range(50):
        # The index is read in a thread before the first texts are embedded.
        await home.async_add_executor_job(int)
        await let_it_run()
    assert not ollama.sent("/api/embed")
    ollama.release()
    assert (await reindex)["indexed"] == 5
    await priming
    assert not ollama.hang_ups


async def test_a_change_during_priming_is_primed(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The prompt that is being evaluated is an old one."""
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    ollama.requests.clear()
    ollama.hold()
    change_the_prompt(home, "one")
    await until(lambda: ollama.sent("/api/chat"))
    change_the_prompt(home, "two")
    await let_it_run()
    ollama.release()
    await settle(home)
    async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=40))
    await settle(home)
    _, primed = ollama.sent("/api/chat")
    assert "two" in primed["messages"][0]["content"]


async def test_a_prompt_is_made_after_the_wait(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A prompt from before a long turn would be an old one."""
    entry = await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    (primer,) = entry.runtime_data.primers.values()
    ollama.requests.clear()
    ollama.hold()
    turn = home.async_create_task(say(home, "Hello"))
    await until(lambda: ollama.sent("/api/chat"))
    home.states.async_set("light.one", "on", {"friendly_name": "one"})
    async_expose_entity(home, "conversation", "light.one", True)
    priming = home.async_create_task(primer.async_prime())
    await let_it_run()
    home.states.async_set("light.two", "on", {"friendly_name": "two"})
    async_expose_entity(home, "conversation", "light.two", True)
    ollama.release()
    await asyncio.gather(turn, priming)
    _, primed = ollama.sent("/api/chat")
    assert "two" in primed["messages"][0]["content"]


async def test_priming_ends_with_its_entry(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Neither a request nor a timer is left."""
    entry = await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    ollama.requests.clear()
    ollama.hold()
    change_the_prompt(home, "one")
    await until(lambda: ollama.sent("/api/chat"))
    home.states.async_set("light.one", "on", {"friendly_name": "two"})
    assert await home.config_entries.async_unload(entry.entry_id)
    await until(lambda: ollama.hang_ups)
    ollama.release()
    await poll(home)
    assert len(ollama.sent("/api/chat")) == 1


async def test_load_then_unload_ends_unloaded(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The priming that follows a load does not load the model again."""
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    await press(home, "unload")
    await poll(home)
    ollama.hold()
    buttons = [home.async_create_task(press(home, "load"))]
    await until(lambda: ollama.sent("/api/generate"))
    buttons.append(home.async_create_task(press(home, "unload")))
    await let_it_run()
    ollama.release()
    await asyncio.gather(*buttons)
    async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=15))
    await settle(home)
    assert not ollama.loaded(PRIMARY)


async def test_unloading_interrupts_priming(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It would be repeated otherwise, and load the model again."""
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    ollama.hold()
    change_the_prompt(home, "new")
    await until(lambda: len(ollama.sent("/api/chat")) == 2)
    button = home.async_create_task(press(home, "unload"))
    await until(lambda: ollama.hang_ups)
    ollama.release()
    await button
    await settle(home)
    assert not ollama.loaded(PRIMARY)
    assert len(ollama.sent("/api/chat")) == 2


async def test_a_failed_unload_is_no_unload(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The model stays loaded, and its prompt is primed when it changes."""
    entry = await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    (loader,) = entry.runtime_data.loaders.values()
    await ollama.stop()
    with pytest.raises(Exception, match="server"):
        await press(home, "unload")
    assert not loader.residency.use.unload_requested


async def test_a_disabled_agent_is_neither_loaded_nor_primed(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Until the user enables it; the models of others are loaded."""
    entry = await make_entry(
        ollama.url,
        conversation={**WARM, "llm_warm_up": True},
        embedding={"embedding_warm_up": True},
    )
    await settle(home)
    registry = er.async_get(home)
    registry.async_update_entity(
        "conversation.agent", disabled_by=er.RegistryEntryDisabler.USER
    )
    for model in (PRIMARY, EMBEDDING):
        ollama.memory.unload(model)
    ollama.memory.loads.clear()
    ollama.requests.clear()
    await home.config_entries.async_reload(entry.entry_id)
    await settle(home)
    change_the_prompt(home, "new")
    await settle(home)
    assert ollama.memory.loads == [EMBEDDING]
    assert not ollama.sent("/api/chat")
    registry.async_update_entity("conversation.agent", disabled_by=None)
    await home.config_entries.async_reload(entry.entry_id)
    await settle(home)
    assert PRIMARY in ollama.memory.loads


class BrokenAPI(llm.API):
    """An LLM API of another integration that has a bug."""

    @override
    async def async_get_api_instance(self, llm_context: llm.LLMContext) -> NoReturn:
        raise KeyError("bug")


async def test_a_broken_llm_api_ends_one_priming_only(
    home: HomeAssistant, ollama: OllamaStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """The other agent is loaded and primed; the log names the error."""
    ollama.models[SECOND] = StandInModel(SECOND)
    llm.async_register_api(home, BrokenAPI(hass=home, id="broken", name="Broken"))
    await two_agents(home, ollama.url, llm_hass_api=["broken"])
    assert ollama.memory.loads == [PRIMARY, SECOND]
    (primed,) = ollama.sent("/api/chat")
    assert primed["model"] == SECOND
    assert f"Cannot prime {PRIMARY} with its prompt: KeyError" in caplog.text
    # While somebody speaks, it is no error either.
    await prepare(home)


async def test_what_is_not_exposed_builds_no_prompt(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Building one costs more than the rest of a turn."""
    entry = await make_entry(ollama.url, conversation=WARM)
    registry, devices = er.async_get(home), dr.async_get(home)
    device = devices.async_get_or_create(
        config_entry_id=entry.entry_id, identifiers={("test", "1")}
    )
    hidden = registry.async_get_or_create("sensor", "test", "hidden")
    async_expose_entity(home, "conversation", hidden.entity_id, False)
    await settle(home)
    # The priming that follows the load.
    async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=15))
    await settle(home)
    made: list[str] = []
    make = Prefix.async_make

    async def counted(prefix: Prefix, language: str | None = None) -> Any:
        made.append("prompt")
        return await make(prefix, language)

    (primer,) = entry.runtime_data.primers.values()
    monkeypatch.setattr(Prefix, "async_make", counted)
    primer.make_prefix = primer.make_prefix.__self__.async_make

    async def built(change: Callable[[], Any]) -> int:
        made.clear()
        change()
        await home.async_block_till_done()
        async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=15))
        await settle(home)
        return len(made)

    states = home.states
    unseen: tuple[Callable[[], Any], ...] = (
        lambda: states.async_set(hidden.entity_id, "1", {"friendly_name": "One"}),
        lambda: states.async_set(hidden.entity_id, "1", {"friendly_name": "Two"}),
        lambda: registry.async_update_entity(hidden.entity_id, name="Three"),
        lambda: states.async_remove(hidden.entity_id),
        lambda: states.async_set("device_tracker.new", "home", {"friendly_name": "A"}),
        lambda: devices.async_update_device(device.id, sw_version="2"),
    )
    assert [await built(change) for change in unseen] == [0] * len(unseen)
    area = ar.async_get(home).async_get_area_by_name("Kitchen")
    assert area
    light = "light.kitchen_light"
    seen: tuple[Callable[[], Any], ...] = (
        lambda: states.async_set(light, "on", {"friendly_name": "Lamp"}),
        lambda: registry.async_update_entity(light, aliases=["Moon"]),
        lambda: devices.async_update_device(device.id, area_id=area.id),
        lambda: ar.async_get(home).async_update(area.id, name="Galley"),
        lambda: registry.async_remove(light),
    )
    assert [await built(change) for change in seen] == [1] * len(seen)


async def test_a_reload_does_not_cancel_who_prepares(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A voice pipeline would end with the task that it waits for."""
    entry = await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    await press(home, "unload")
    await poll(home)
    ollama.hold()
    pipeline = home.async_create_task(prepare(home))
    await until(lambda: len(ollama.sent("/api/generate")) > 1)
    assert await home.config_entries.async_unload(entry.entry_id)
    await pipeline
    ollama.release()


async def test_a_failure_to_prepare_reaches_nobody(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The question that follows reports it."""
    await make_entry(ollama.url, conversation=WARM)
    await settle(home)
    await ollama.stop()
    await prepare(home)


def test_the_key_of_a_prompt() -> None:
    """The parameters of a tool are in the prompt too."""
    tool: Any = {"name": "turn", "description": "Turn", "parameters": {"a": 1}}
    system: Any = [{"role": "system", "content": "You"}]
    other: Any = tool | {"parameters": {"a": 2}}
    assert prefix_key(system, [tool]) == prefix_key(system, [tool.copy()])
    assert prefix_key(system, [tool]) != prefix_key(system, [other])

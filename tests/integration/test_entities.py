"""Which entities there are, what they restore, and when they are available."""

from datetime import timedelta
from typing import Any

from aiohttp import web
from homeassistant.const import EVENT_STATE_CHANGED, STATE_UNAVAILABLE, STATE_UNKNOWN
from homeassistant.core import HomeAssistant
from homeassistant.helpers import device_registry as dr, entity_registry as er
from homeassistant.util import dt as dt_util
import pytest
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_fire_time_changed,
)

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry, say, speech, subentry
from tests.servers import OllamaStandIn, OpenAIStandIn

ROLES: dict[str, Any] = {
    "conversation": {"llm_keep_alive": "-1"},
    "external_llm": {"external_llm_model": "llama3.2:70b"},
    "embedding": {},
}


def state_of(hass: HomeAssistant, entity_id: str) -> str:
    """Return the state of an entity."""
    state = hass.states.get(entity_id)
    assert state, entity_id
    return state.state


async def poll(hass: HomeAssistant) -> None:
    """Let the next poll happen, after those that run already."""
    await hass.async_block_till_done(wait_background_tasks=True)
    async_fire_time_changed(hass, dt_util.utcnow() + timedelta(seconds=61))
    await hass.async_block_till_done(wait_background_tasks=True)


async def test_what_is_enabled(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Few entities for each model; the user can enable the others."""
    entry = await make_entry(ollama.url, **ROLES)
    enabled: dict[str, set[str]] = {}
    disabled: set[str] = set()
    for item in er.async_entries_for_config_entry(er.async_get(home), entry.entry_id):
        if item.disabled_by is None:
            enabled.setdefault(item.config_subentry_id or "", set()).add(
                item.translation_key or item.domain
            )
        else:
            disabled.add(item.translation_key or item.domain)
    model = {"residency", "loaded_until", "memory", "load", "unload"}
    chat = model | {"first_token_time"}
    by_type = {sub.subentry_type: key for key, sub in entry.subentries.items()}
    assert enabled == {
        by_type["conversation"]: chat | {"conversation"},
        by_type["external_llm"]: chat,
        by_type["embedding"]: model,
    }
    assert disabled == {
        "context_length",
        "generation_speed",
        "gpu_share",
        "indexed",
        "load_time",
        "memory_held",
        "prompt_tokens",
        "residency_change",
    }


async def test_an_existing_installation_keeps_its_entities(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """What was enabled stays enabled."""
    entry = await make_entry(ollama.url, conversation={})
    registry = er.async_get(home)
    registry.async_update_entity("sensor.agent_load_time", disabled_by=None)
    await home.config_entries.async_reload(entry.entry_id)
    await home.async_block_till_done()
    assert state_of(home, "sensor.agent_load_time") == STATE_UNKNOWN


async def test_only_memory_has_statistics(
    all_entities: None,
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
) -> None:
    """All other values are no measurements over time."""
    await make_entry(ollama.url, **ROLES)
    assert {
        state.entity_id.partition("_memory_used")[2]
        for state in home.states.async_all("sensor")
        if "state_class" in state.attributes
    } == {"", "_by_all_models"}


async def test_figures_of_a_turn_outlive_a_reload(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """They stand until the next turn."""
    entry = await make_entry(ollama.url, conversation={})
    entity_id = "sensor.agent_time_to_first_token"
    assert state_of(home, entity_id) == STATE_UNKNOWN
    await say(home, "Hello")
    figure = float(state_of(home, entity_id))
    await home.config_entries.async_reload(entry.entry_id)
    await home.async_block_till_done()
    assert float(state_of(home, entity_id)) == figure


async def test_a_model_that_stays(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A word says so, and it is a time again when the model is to be unloaded."""
    await make_entry(ollama.url, conversation={"llm_keep_alive": "-1"})
    await say(home, "Hello")
    await poll(home)
    state = home.states.get("sensor.agent_unloads_at")
    assert state
    assert state.state == "never"
    assert state.attributes["never_unloads"] is True
    assert "device_class" not in state.attributes
    await home.services.async_call(
        DOMAIN, "load_model", {"keep_alive": "1h"}, blocking=True
    )
    await poll(home)
    state = home.states.get("sensor.agent_unloads_at")
    assert state
    assert dt_util.parse_datetime(state.state)
    assert state.attributes["never_unloads"] is False
    assert state.attributes["device_class"] == "timestamp"


async def test_the_page_of_a_device(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The status comes first: it has no category. It shows the setting."""
    await make_entry(ollama.url, conversation={"llm_keep_alive": "45m"})
    await poll(home)
    state = home.states.get("sensor.agent_model_status")
    assert state
    assert state.attributes["keep_alive"] == "45m"
    entry = er.async_get(home).async_get("sensor.agent_model_status")
    assert entry
    assert entry.entity_category is None
    assert float(state_of(home, "sensor.agent_memory_used")) == 0


async def test_no_change_of_state_while_a_model_answers(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Turns do not fill the logbook and the database."""
    await make_entry(ollama.url, conversation={"llm_keep_alive": "-1"})
    await say(home, "Hello")
    await poll(home)
    changes: list[str] = []
    home.bus.async_listen(
        EVENT_STATE_CHANGED, lambda event: changes.append(event.data["entity_id"])
    )
    for _ in range(3):
        await say(home, "Hello")
        await poll(home)
    assert set(changes) <= {"conversation.agent", "sensor.agent_time_to_first_token"}


async def test_a_model_that_is_a_file(
    home: HomeAssistant, openai: OpenAIStandIn, make_entry: MakeEntry
) -> None:
    """Its device has the name of the file."""
    path = "/srv/models/Qwen3-8B-Q4_K_M.gguf"
    entry = await make_entry(
        openai.url,
        conversation={},
        external_llm={"external_llm_model": path},
    )
    (external,) = entry.get_subentries_of_type("external_llm")
    home.config_entries.async_update_subentry(entry, external, title=path)
    await home.async_block_till_done()
    (device,) = (
        item
        for item in dr.async_entries_for_config_entry(
            dr.async_get(home), entry.entry_id
        )
        if (DOMAIN, external.subentry_id) in item.identifiers
    )
    assert device.name == device.model == "Qwen3-8B-Q4_K_M"


# --- A server that is away ------------------------------------------------------


async def test_a_server_goes_and_comes_back(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The agent and the buttons are unavailable meanwhile."""
    await make_entry(ollama.url, conversation={})
    await poll(home)
    port = int(ollama.url.rpartition(":")[2])
    entity_ids = ("conversation.agent", "button.agent_load", "button.agent_unload")
    assert {state_of(home, key) for key in entity_ids} == {STATE_UNKNOWN}
    await ollama.stop()
    await poll(home)
    assert {state_of(home, key) for key in entity_ids} == {STATE_UNAVAILABLE}
    await ollama.start(port)
    # A question is not refused because of that.
    assert speech(await say(home, "Hello")).startswith("Hello!")
    await poll(home)
    assert STATE_UNAVAILABLE not in {state_of(home, key) for key in entity_ids}


@pytest.mark.parametrize(
    ("status", "body", "is_available"),
    [
        (403, {"error": "no"}, True),
        (404, {"error": "no"}, True),
        (500, {"error": "no"}, True),
        (200, {"models": [{"name": None}]}, True),
        (401, {"error": "no"}, False),
        (502, {"error": "no"}, False),
        (504, {"error": "no"}, False),
    ],
)
async def test_a_server_that_does_not_list_its_models(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    *,
    status: int,
    body: dict[str, Any],
    is_available: bool,
) -> None:
    """A proxy may pass on only chat requests: the agent answers, so it is available."""
    await make_entry(ollama.url, conversation={})

    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(body, status=status)

    ollama.routes["GET", "/api/ps"] = answer
    await poll(home)
    state = state_of(home, "conversation.agent")
    assert (state != STATE_UNAVAILABLE) is is_available
    assert state_of(home, "sensor.agent_model_status") == STATE_UNAVAILABLE


async def test_a_server_that_is_not_polled(
    home: HomeAssistant, openai: OpenAIStandIn, make_entry: MakeEntry
) -> None:
    """A request that does not reach it shows that it is away; then it is polled."""
    await make_entry(openai.url, conversation={"llm_model": "local-model"})
    await poll(home)
    port = int(openai.url.rpartition(":")[2])
    assert state_of(home, "conversation.agent") == STATE_UNKNOWN
    await openai.stop()
    await say(home, "Hello")
    await home.async_block_till_done(wait_background_tasks=True)
    assert state_of(home, "conversation.agent") == STATE_UNAVAILABLE
    await poll(home)
    assert state_of(home, "conversation.agent") == STATE_UNAVAILABLE
    await openai.start(port)
    await poll(home)
    assert state_of(home, "conversation.agent") != STATE_UNAVAILABLE
    openai.requests.clear()
    await poll(home)
    assert not openai.requests


# --- Several addresses on one host ----------------------------------------------


def memory_sensors(hass: HomeAssistant, entry: MockConfigEntry) -> list[str]:
    """Return the sensors of servers that are there."""
    return [
        item.entity_id
        for item in er.async_entries_for_config_entry(
            er.async_get(hass), entry.entry_id
        )
        if item.translation_key == "memory_held" and hass.states.get(item.entity_id)
    ]


@pytest.mark.parametrize("path", ["", "/ollama"])
async def test_two_addresses_on_one_host(
    all_entities: None,
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    path: str,
) -> None:
    """Each has its device and its sensor, also with another port."""
    async with OllamaStandIn() as other:
        server = other if not path else ollama
        for (method, route), handler in list(ollama.routes.items()):
            ollama.routes[(method, f"/ollama{route}")] = handler
        external = {
            "external_llm_model": "llama3.2:70b",
            "external_llm_base_url": f"{server.url}{path}",
            "external_llm_server_kind": "ollama",
        }
        entry = await make_entry(
            ollama.url, conversation={}, external_llm=external, llm_server_kind="ollama"
        )
        await home.async_block_till_done(wait_background_tasks=True)
        devices = dr.async_entries_for_config_entry(dr.async_get(home), entry.entry_id)
        servers = [device for device in devices if device.model == "Ollama"]
        assert len(servers) == 2
        assert len(memory_sensors(home, entry)) == 2
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_the_device_of_an_earlier_version_is_kept(
    all_entities: None, home: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """Its identifier had only the host; an address with a path gets another one."""
    for (method, route), handler in list(ollama.routes.items()):
        ollama.routes[(method, f"/ollama{route}")] = handler
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=2,
        minor_version=2,
        data={"llm_base_url": f"{ollama.url}/ollama", "llm_server_kind": "ollama"},
        subentries_data=[subentry("conversation", {"llm_model": "llama3.2:3b"})],
    )
    entry.add_to_hass(home)
    host = ollama.url.removeprefix("http://")
    device = dr.async_get(home).async_get_or_create(
        config_entry_id=entry.entry_id,
        identifiers={(DOMAIN, f"{entry.entry_id}_{host}")},
    )
    sensor = er.async_get(home).async_get_or_create(
        "sensor",
        DOMAIN,
        f"{entry.entry_id}_{host}_memory_held",
        config_entry=entry,
        device_id=device.id,
    )
    assert await home.config_entries.async_setup(entry.entry_id)
    await home.async_block_till_done(wait_background_tasks=True)
    assert entry.minor_version == 3
    devices = dr.async_entries_for_config_entry(dr.async_get(home), entry.entry_id)
    assert [item.id for item in devices if item.model == "Ollama"] == [device.id]
    assert memory_sensors(home, entry) == [sensor.entity_id]

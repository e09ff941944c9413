"""The integration on a real Ollama, where one is at hand.

Set HOME_AGENT_TEST_OLLAMA to its address and HOME_AGENT_TEST_MODEL to a small model;
HOME_AGENT_TEST_TOOL_MODEL to one that takes tools. Other models may be loaded there.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
import os
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.util import dt as dt_util
import pytest
from pytest_homeassistant_custom_component.common import async_fire_time_changed

from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.model.role import ModelRole, Role
from custom_components.home_agent.model.turn import Turn
from custom_components.home_agent.servers.base import (
    Connection,
    LoadedModel,
    ModelServer,
    ServerKind,
    collect,
)
from custom_components.home_agent.servers.errors import ModelServerError
from custom_components.home_agent.servers.factory import connect
from custom_components.home_agent.servers.messages import (
    ChatMessage,
    LoadRequest,
    ToolSpec,
)
from tests.conftest import MakeEntry, call_action, say, speech

URL = os.environ.get("HOME_AGENT_TEST_OLLAMA", "")
NAME = os.environ.get("HOME_AGENT_TEST_MODEL", "smol")
MODEL = NAME if ":" in NAME else f"{NAME}:latest"
TOOL_MODEL = os.environ.get("HOME_AGENT_TEST_TOOL_MODEL", "")
# Looks at the server until it shows something: it needs some milliseconds.
LOOKS = 1000

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not URL, reason="needs HOME_AGENT_TEST_OLLAMA"),
]


@pytest.mark.parametrize("path", ["", "/v1"])
@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [("5m", 300), ("1h30m", 5400), ("-1", None), ("0", 0)]
)
async def test_keep_alive_holds(
    home: HomeAssistant,
    make_entry: MakeEntry,
    path: str,
    keep_alive: str,
    seconds: float | None,
) -> None:
    """After a turn the server holds the model as long as was configured."""
    await make_entry(
        URL + path,
        conversation={
            "llm_model": MODEL,
            "llm_hass_api": [],
            "llm_keep_alive": keep_alive,
            "llm_max_tokens": 3,
            "llm_num_ctx": 1024,
        },
    )
    assert speech(await say(home, "Hello"))
    session = async_get_clientsession(home)
    server = await connect(session, Connection(URL))
    assert server.kind is ServerKind.OLLAMA
    expected = dt_util.utcnow() + timedelta(seconds=seconds or 0)

    def is_held(model: LoadedModel | None) -> bool:
        if seconds == 0 or model is None:
            return seconds == 0 and model is None
        if model.expires_at is None or seconds is None:
            return model.is_indefinite and seconds is None
        return abs(model.expires_at - expected) < timedelta(seconds=5)

    await until(server, is_held)
    if model := await loaded(server):
        assert model.context_length == 1024


async def test_sensors_agree(home: HomeAssistant, make_entry: MakeEntry) -> None:
    """Loaded ahead, used, unloaded by a button and behind our back."""
    entry = await make_entry(
        URL,
        conversation={
            "llm_model": MODEL,
            "llm_hass_api": [],
            "llm_keep_alive": "5m",
            "llm_max_tokens": 3,
            "llm_num_ctx": 1024,
            "llm_warm_up": True,
        },
    )
    server = await connect(async_get_clientsession(home), Connection(URL))
    (coordinator,) = entry.runtime_data.coordinators.values()
    (subentry_id,) = entry.subentries

    async def agree() -> None:
        await home.async_block_till_done(wait_background_tasks=True)
        for _ in range(LOOKS):
            await coordinator.async_refresh()
            if shows(home, subentry_id, model := await loaded(server)):
                return
        pytest.fail(f"the sensors do not show {model}")

    # The warm-up loads it in the background.
    await until(server, lambda model: model is not None)
    await home.async_block_till_done(wait_background_tasks=True)
    await agree()
    assert await loaded(server)
    assert speech(await say(home, "Hello"))
    await agree()
    await home.services.async_call(
        "button", "press", {"entity_id": "button.agent_unload"}, blocking=True
    )
    await until(server, is_gone)
    await agree()
    await home.services.async_call("home_agent", "load_model", {}, blocking=True)
    await agree()
    await server.unload(MODEL)
    await until(server, is_gone)
    await agree()


def shows(home: HomeAssistant, subentry_id: str, model: LoadedModel | None) -> bool:
    """Return whether the sensors of a role show what the server reports."""

    def state(key: str) -> str:
        """Return the state of the agent's sensor; its unique id ends with the key."""
        (entity_id,) = (
            entity_id
            for entity_id, entity in er.async_get(home).entities.items()
            if entity.unique_id == f"{subentry_id}_{key}"
        )
        found = home.states.get(entity_id)
        assert found
        return found.state

    residency, memory = state("residency"), state("memory")
    expires_at = dt_util.parse_datetime(state("loaded_until"))
    if model is None:
        return (residency, memory, expires_at) == ("unloaded", "0.0", None)
    if residency != "loaded" or expires_at is None or memory == "unknown":
        return False
    assert model.expires_at
    assert model.size_bytes
    return (
        abs(expires_at - model.expires_at) < timedelta(seconds=2)
        and abs(float(memory) - model.size_bytes / 1e9) < 0.01
    )


async def test_a_changed_keep_alive_takes_effect_at_once(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """A model that is loaded gets the new value, without a question."""
    entry = await make_entry(URL, conversation=agent("5m"))
    server = await connect(async_get_clientsession(home), Connection(URL))
    assert speech(await say(home, "Hello"))
    await until(server, lambda model: model is not None and not model.is_indefinite)
    (subentry,) = entry.subentries.values()

    async def change(keep_alive: str) -> None:
        home.config_entries.async_update_subentry(
            entry, subentry, data={**subentry.data, "llm_keep_alive": keep_alive}
        )
        await home.async_block_till_done(wait_background_tasks=True)

    await change("-1")
    await until(server, lambda model: model is not None and model.is_indefinite)
    await change("30s")
    await until(server, lambda model: model is not None and stays(model, 30))
    await change("0")
    await until(server, is_gone)
    await change("5m")
    assert await loaded(server) is None


async def test_the_longest_of_those_who_share_a_model_holds(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """Whoever asks last; what remains counts once a role is gone."""
    shorter = await make_entry(URL, conversation=agent("2m"))
    longer = await make_entry(f"{URL}/v1", conversation=agent("-1"))
    server = await connect(async_get_clientsession(home), Connection(URL))
    agents = er.async_get(home).entities.values()
    for wanted in (longer, shorter):
        (agent_id,) = (
            item.entity_id
            for item in agents
            if item.config_entry_id == wanted.entry_id and item.domain == "conversation"
        )
        assert speech(await say(home, "Hello", agent_id=agent_id))
        await until(server, lambda model: model is not None and model.is_indefinite)
    assert await home.config_entries.async_unload(longer.entry_id)
    async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=6))
    await home.async_block_till_done(wait_background_tasks=True)
    await until(server, lambda model: model is not None and stays(model, 120))


async def test_the_context_is_no_more_than_the_model_can_hold(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """The size that counts for prompts is the one with which the server loaded it."""
    entry = await make_entry(URL, conversation=agent("5m") | {"llm_num_ctx": 9_999_999})
    server = await connect(async_get_clientsession(home), Connection(URL))
    assert speech(await say(home, "Hello"))
    await until(server, lambda model: model is not None)
    model = await loaded(server)
    (residency,) = entry.runtime_data.residencies.values()
    assert model
    assert residency.role.context_size(ServerKind.OLLAMA) == model.context_length


def agent(keep_alive: str) -> dict[str, Any]:
    """Return the settings of an agent that answers shortly."""
    return {
        "llm_model": MODEL,
        "llm_hass_api": [],
        "llm_keep_alive": keep_alive,
        "llm_max_tokens": 3,
        "llm_num_ctx": 1024,
    }


def stays(model: LoadedModel, seconds: float) -> bool:
    """Return whether a model that was just used is unloaded after some seconds."""
    if model.expires_at is None:
        return False
    left = model.expires_at - dt_util.utcnow()
    return abs(left - timedelta(seconds=seconds)) < timedelta(seconds=10)


async def test_load_and_unload(hass: HomeAssistant) -> None:
    """A model can be loaded, held longer and unloaded without a question."""
    server = await connect(async_get_clientsession(hass), Connection(URL))
    await server.load(
        LoadRequest(model=MODEL, keep_alive=KeepAlive.parse("-1"), num_ctx=1024)
    )
    await until(server, lambda model: model is not None and model.is_indefinite)
    await server.unload(MODEL)
    await until(server, is_gone)


@pytest.mark.skipif(not TOOL_MODEL, reason="needs HOME_AGENT_TEST_TOOL_MODEL")
@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_with_keep_alive_0_loads_once(
    hass: HomeAssistant, *, stream: bool
) -> None:
    """Two requests of one turn: the second finds the model, and then it is gone."""
    config = {
        "llm_base_url": URL,
        "llm_model": TOOL_MODEL,
        "llm_num_ctx": 1024,
        "llm_max_tokens": 40,
    }
    role = ModelRole(hass, config, Role.LLM)
    server = await role.server()
    with suppress(ModelServerError):
        await server.unload(TOOL_MODEL)
    await until(server, is_gone, TOOL_MODEL)
    tool: ToolSpec = {
        "name": "turn_on",
        "description": "Turn on a light",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
    }
    message: ChatMessage = {"role": "user", "content": "Count from one to forty."}
    request = role.chat_request([message], KeepAlive.parse("0"), [tool])
    loads = []
    with Turn(role) as turn:
        for _ in range(2):
            answer = (
                await collect(turn.chat_stream(request))
                if stream
                else await turn.chat(request)
            )
            assert answer.stats
            loads.append(answer.stats.load_seconds or 0)
            # A tool runs; Ollama needs some milliseconds for an unload.
            session = async_get_clientsession(hass)
            for _ in range(20):
                async with session.get(f"{URL}/api/ps") as response:
                    await response.read()
    print(f"loaded in {loads[0]:.2f} s, found in {loads[1]:.2f} s")
    assert loads[1] < loads[0] / 3
    await hass.async_block_till_done(wait_background_tasks=True)
    await until(server, is_gone, TOOL_MODEL)


@pytest.mark.parametrize("what", ["agent", "entry"])
async def test_a_removed_model_leaves(
    home: HomeAssistant, make_entry: MakeEntry, what: str
) -> None:
    """A model with -1 is unloaded when its agent or its entry is removed."""
    entry = await make_entry(
        URL, conversation={"llm_model": MODEL, "llm_keep_alive": "-1"}
    )
    await call_action(home, "load_model")
    server = await connect(async_get_clientsession(home), Connection(URL))
    await until(server, lambda model: model is not None and model.is_indefinite)
    if what == "entry":
        await home.config_entries.async_remove(entry.entry_id)
    else:
        (agent,) = entry.subentries
        home.config_entries.async_remove_subentry(entry, agent)
    await home.async_block_till_done(wait_background_tasks=True)
    await until(server, is_gone)


async def loaded(server: ModelServer, name: str = MODEL) -> LoadedModel | None:
    """Return a model as the server reports it, None if it is not loaded."""
    models = await server.loaded_models({name}) or []
    # The server may list it by another name of the same file.
    return next((model for model in models if name in model.names), None)


async def until(
    server: ModelServer,
    is_so: Callable[[LoadedModel | None], bool],
    name: str = MODEL,
) -> None:
    """Look until the server reports something.

    For some milliseconds after an answer it reports what was before.
    """
    model = None
    for _ in range(LOOKS):
        model = await loaded(server, name)
        if is_so(model):
            return
    pytest.fail(f"the server keeps reporting {model}")


def is_gone(model: LoadedModel | None) -> bool:
    """Return whether the model is not loaded."""
    return model is None

"""The integration on a real Ollama, where one is at hand.

Set HOME_AGENT_TEST_OLLAMA to its address and HOME_AGENT_TEST_MODEL to a small model.
"""

from datetime import timedelta
import os

from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.util import dt as dt_util
import pytest

from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.servers.base import (
    Connection,
    ModelServer,
    ServerKind,
)
from custom_components.home_agent.servers.factory import connect
from custom_components.home_agent.servers.messages import LoadRequest
from tests.conftest import MakeEntry, say, speech

URL = os.environ.get("HOME_AGENT_TEST_OLLAMA", "")
MODEL = os.environ.get("HOME_AGENT_TEST_MODEL", "smol")

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
    if seconds == 0:
        await assert_leaves(server)
        return
    (model,) = await server.loaded_models(()) or []
    assert model.context_length == 1024
    if seconds is None:
        assert model.is_indefinite
    else:
        assert model.expires_at is not None
        left = model.expires_at - dt_util.utcnow()
        assert abs(left - timedelta(seconds=seconds)) < timedelta(seconds=5)


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

    async def agree() -> None:
        await home.async_block_till_done(wait_background_tasks=True)
        await coordinator.async_refresh()
        models = await server.loaded_models(()) or []
        state = home.states.get("sensor.agent_residency")
        assert state
        assert state.state == ("loaded" if models else "unloaded")
        until = home.states.get("sensor.agent_loaded_until")
        memory = home.states.get("sensor.agent_memory")
        assert until
        assert memory
        if not models:
            assert (until.state, memory.state) == ("unknown", "unknown")
            return
        (model,) = models
        assert model.expires_at
        assert model.size_bytes
        shown = dt_util.parse_datetime(until.state)
        assert shown
        assert abs(shown - model.expires_at) < timedelta(seconds=2)
        assert abs(float(memory.state) - model.size_bytes / 1e9) < 0.01

    await agree()
    assert await server.loaded_models(())
    assert speech(await say(home, "Hello"))
    await agree()
    await home.services.async_call(
        "button", "press", {"entity_id": "button.agent_unload"}, blocking=True
    )
    await assert_leaves(server)
    await agree()
    await home.services.async_call("home_agent", "load_model", {}, blocking=True)
    await agree()
    await server.unload(MODEL)
    await assert_leaves(server)
    await agree()


async def test_load_and_unload(hass: HomeAssistant) -> None:
    """A model can be loaded, held longer and unloaded without a question."""
    server = await connect(async_get_clientsession(hass), Connection(URL))
    await server.load(
        LoadRequest(model=MODEL, keep_alive=KeepAlive.parse("-1"), num_ctx=1024)
    )
    assert [model.is_indefinite for model in await server.loaded_models(()) or ()] == [
        True
    ]
    await server.unload(MODEL)
    await assert_leaves(server)


async def assert_leaves(server: ModelServer) -> None:
    """Ask until the model is gone: the server needs a moment."""
    for _ in range(500):
        if not await server.loaded_models(()):
            return
    pytest.fail("the model does not leave")

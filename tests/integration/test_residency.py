"""What the entities show of a model's residency, and how it is steered."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web
from freezegun.api import FrozenDateTimeFactory
from homeassistant.components.sensor import SensorDeviceClass
from homeassistant.config_entries import ConfigEntry
from homeassistant.const import ATTR_DEVICE_CLASS, STATE_UNAVAILABLE, STATE_UNKNOWN
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError, ServiceValidationError
from homeassistant.helpers import device_registry as dr, entity_registry as er
from homeassistant.util import dt as dt_util
import pytest
from pytest_homeassistant_custom_component.common import (
    async_capture_events,
    async_fire_time_changed,
)

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry, call_action, say
from tests.passing_time import PassingTime
from tests.servers import ManualClock, OllamaStandIn, Reply, ToolUse
from tests.servers.others import (
    DockerModelRunnerStandIn,
    LlamaCppStandIn,
    LlamaSwapStandIn,
    LMStudioStandIn,
)
from tests.servers.stand_in import Fault

PRIMARY = "llama3.2:3b"
EXTERNAL = "llama3.2:70b"
EMBEDDING = "nomic-embed-text:latest"
# MISSION 1.13, with the roles' devices.
DEVICES = {"agent": PRIMARY, "external_llm": EXTERNAL, "embedding": EMBEDDING}
COMBINATIONS = [
    ("-1", "2m", "10m"),
    ("5m", "5m", "5m"),
    ("0", "-1", "0"),
    ("1h30m", "0", "-1"),
]


class Home(PassingTime):
    """A home whose sensors are compared with the server."""

    async def poll(self) -> None:
        """Let one poll's time pass, and that of a poll after the requests in it."""
        await self.advance(61)
        await self.advance(1)

    def state(self, device: str, key: str) -> str:
        """Return the state of a sensor."""
        state = self.hass.states.get(f"sensor.{device}_{key}")
        assert state, (device, key)
        return state.state

    def agrees(self) -> None:
        """Compare all sensors with the server's memory."""
        for device, model in DEVICES.items():
            resident = self.server.loaded(model)
            keys = ("unloads_at", "memory_used", "in_gpu_memory", "context_length")
            if resident is None:
                assert self.state(device, "model_status") == "unloaded", device
                for key in keys:
                    expected = "0.0" if key == "memory_used" else STATE_UNKNOWN
                    assert self.state(device, key) == expected
                continue
            assert self.state(device, "model_status") == "loaded", device
            assert float(self.state(device, "memory_used")) == pytest.approx(
                resident.size / 1e9
            )
            assert float(self.state(device, "in_gpu_memory")) == 100
            assert int(self.state(device, "context_length")) == resident.num_ctx
            until = self.hass.states.get(f"sensor.{device}_unloads_at")
            assert until
            forever = resident.seconds > 1e9
            assert until.attributes["never_unloads"] is forever
            if forever:
                assert until.state == "never"
            else:
                expires = datetime.fromtimestamp(resident.expires_at, dt_util.UTC)
                shown = datetime.fromisoformat(until.state)
                assert abs(shown - expires) < timedelta(seconds=2)
        held = sum(item.size for item in self.server.memory.residents.values())
        host = self.server.url.removeprefix("http://").replace(".", "_")
        server = f"sensor.ollama_{host.replace(':', '_')}_memory_used_by_all_models"
        state = self.hass.states.get(server)
        assert state, server
        assert float(state.state) == pytest.approx(held / 1e9)

    async def use_all(self) -> None:
        """Use the three models in one turn, and index."""
        self.server.brain.replies.extend(
            [
                Reply(tools=(ToolUse("home_agent__ask_external_llm", {"prompt": "?"}),))
                for _ in range(1)
            ]
            + [Reply("42"), Reply("It is 42.")]
        )
        await say(self.hass, "Ask the other one")
        await self.hass.services.async_call(
            DOMAIN,
            "search_entities",
            {"query": "lamp"},
            blocking=True,
            return_response=True,
        )
        await self.settle()


@pytest.fixture
async def at_home(
    all_entities: None,
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> Home:
    """Return a home."""
    return Home(home, ollama, clock, freezer)


def roles(primary: str, external: str, embedding: str) -> dict[str, Any]:
    """Return the three roles with their keep_alive."""
    return {
        "conversation": {"llm_keep_alive": primary},
        "external_llm": {
            "external_llm_model": EXTERNAL,
            "external_llm_keep_alive": external,
        },
        "embedding": {"embedding_keep_alive": embedding},
    }


@pytest.mark.parametrize("keep_alives", COMBINATIONS)
async def test_sensors_agree_with_the_server(
    at_home: Home, make_entry: MakeEntry, keep_alives: tuple[str, str, str]
) -> None:
    """Used, idle, expired, evicted, restarted, unloaded behind our back."""
    server = at_home.server
    await make_entry(f"{server.url}/v1", **roles(*keep_alives))
    await at_home.settle()
    await at_home.poll()
    at_home.agrees()
    await at_home.use_all()
    await at_home.poll()
    at_home.agrees()
    for seconds in (70, 300, 600, 6000):
        await at_home.advance(seconds)
        await at_home.poll()
        at_home.agrees()
    await at_home.use_all()
    # Somebody else's model needs the room.
    for name in list(server.memory.residents):
        server.memory.unload(name)
        break
    await at_home.poll()
    at_home.agrees()
    # A restart empties it.
    port = int(server.url.rpartition(":")[2])
    await server.stop()
    await at_home.poll()
    for device in DEVICES:
        assert at_home.state(device, "model_status") == STATE_UNAVAILABLE
    await server.start(port)
    await at_home.poll()
    at_home.agrees()
    await at_home.use_all()
    for name in list(server.memory.residents):
        server.memory.unload(name)
    await at_home.poll()
    at_home.agrees()


async def test_polls_at_rest(at_home: Home, make_entry: MakeEntry) -> None:
    """One small request a minute for all roles, which resets no timer."""
    await make_entry(at_home.server.url, **roles("5m", "5m", "5m"))
    await at_home.settle()
    await at_home.use_all()
    for _ in range(40):
        await at_home.advance(10)
    resident = at_home.server.loaded(PRIMARY)
    assert resident is None
    at_home.server.requests.clear()
    for _ in range(60):
        await at_home.advance(10)
    polls = [item.path for item in at_home.server.requests]
    assert set(polls) == {"/api/ps"}
    assert 9 <= len(polls) <= 10


@pytest.mark.parametrize("ahead", [-3600.7, -5.3, -3.0, 2.6, 3.2, 5.3, 600.4])
async def test_the_clock_of_the_server_differs(
    at_home: Home, make_entry: MakeEntry, clock: ManualClock, ahead: float
) -> None:
    """The time of unloading stands still, and nothing is polled for its sake."""
    server = at_home.server
    clock.advance(ahead)
    await make_entry(server.url, **roles("30m", "-1", "-1"))
    await at_home.settle()
    await say(at_home.hass, "Hello")
    await at_home.advance(5.1)
    shown = at_home.state("agent", "unloads_at")
    left = datetime.fromisoformat(shown) - dt_util.utcnow()
    assert abs(left - timedelta(minutes=30)) < timedelta(seconds=10)
    changes = async_capture_events(at_home.hass, "state_changed")
    server.requests.clear()
    for _ in range(60):
        await at_home.advance(10.3)
    assert at_home.state("agent", "unloads_at") == shown
    of_the_agent = [event for event in changes if "agent" in event.data["entity_id"]]
    assert len(of_the_agent) <= 1
    assert len(server.requests) <= 11


async def test_each_entry_polls_its_server(
    at_home: Home, make_entry: MakeEntry, home: HomeAssistant
) -> None:
    """Once a minute, while the entry is loaded and may poll."""
    server = at_home.server
    first = await make_entry(server.url, conversation={})
    second = await make_entry(f"{server.url}/v1", conversation={})
    await at_home.settle()
    for _ in range(10):
        await at_home.advance(10)

    async def polls() -> int:
        server.requests.clear()
        for _ in range(30):
            await at_home.advance(10)
        return len(server.requests)

    assert 8 <= await polls() <= 10
    assert await home.config_entries.async_unload(first.entry_id)
    assert 4 <= await polls() <= 5
    # "Enable polling" in the entry's system options.
    home.config_entries.async_update_entry(second, pref_disable_polling=True)
    await home.config_entries.async_reload(second.entry_id)
    await at_home.settle()
    assert await polls() == 0
    assert await home.config_entries.async_unload(second.entry_id)
    assert await polls() == 0


async def test_a_model_that_is_due_is_polled(
    at_home: Home, make_entry: MakeEntry
) -> None:
    """The entities show at once that the server has unloaded it."""
    await make_entry(at_home.server.url, **roles("90s", "5m", "5m"))
    await at_home.settle()
    await say(at_home.hass, "Hello")
    await at_home.settle()
    for _ in range(8):
        await at_home.advance(10)
    assert at_home.state("agent", "model_status") == "loaded"
    # Between two polls at rest.
    await at_home.advance(14)
    assert at_home.state("agent", "model_status") == "unloaded"


async def test_an_expiry_is_shown_at_once(at_home: Home, make_entry: MakeEntry) -> None:
    """Within a second and a half, at whatever part of a second it happens."""
    await make_entry(at_home.server.url, **roles("30s", "5m", "5m"))
    await at_home.settle()
    for _ in range(6):
        await say(at_home.hass, "Hello")
        await at_home.settle()
        while at_home.server.loaded(PRIMARY):
            await at_home.advance(0.5)
        await at_home.advance(0.5)
        await at_home.advance(0.5)
        assert at_home.state("agent", "model_status") == "unloaded"
        at_home.tick(0.15)


async def test_states_while_something_runs(
    at_home: Home, make_entry: MakeEntry, hass: HomeAssistant
) -> None:
    """Loading and loaded: shown at once; a model that answers stays loaded."""
    seen: list[str] = []
    hass.bus.async_listen(
        "state_changed",
        lambda event: (
            seen.append(event.data["new_state"].state)
            if event.data["entity_id"] == "sensor.agent_model_status"
            else None
        ),
    )
    await make_entry(at_home.server.url, **roles("5m", "5m", "5m"))
    await at_home.settle()
    for _ in range(2):
        await say(hass, "Hello")
        await at_home.advance(4)
    assert [s for i, s in enumerate(seen) if i == 0 or seen[i - 1] != s] == [
        "unknown",
        "unloaded",
        "loading",
        "loaded",
    ]


async def test_an_answer_that_takes_long(
    at_home: Home, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that was loaded for it is loaded, and not loading any more."""
    has_begun, may_end = asyncio.Event(), asyncio.Event()
    write_lines = OllamaStandIn.write_lines

    async def slow(
        server: OllamaStandIn, request: web.Request, kind: str, lines: list[bytes]
    ) -> web.StreamResponse:
        """Send the first line of an answer, and the rest when the test says so."""
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        await response.write(lines[0])
        await may_end.wait()
        await response.write(b"".join(lines[1:]))
        await response.write_eof()
        return response

    entry = await make_entry(at_home.server.url, **roles("5m", "5m", "5m"))
    # All polls that follow requests are over: the next one is most of a minute away.
    await at_home.poll()
    for _ in range(3):
        await at_home.advance(5)
    for residency in entry.runtime_data.residencies.values():
        residency.use.answer_began.add(has_begun.set)
    monkeypatch.setattr(OllamaStandIn, "write_lines", slow)
    turn = at_home.hass.async_create_task(say(at_home.hass, "Hello"))
    await has_begun.wait()
    monkeypatch.setattr(OllamaStandIn, "write_lines", write_lines)
    assert at_home.state("agent", "model_status") == "loading"
    at_home.tick(0.6)
    for _ in range(5000):
        if at_home.state("agent", "model_status") != "loading":
            break
        await asyncio.sleep(0)
    assert not turn.done()
    assert at_home.state("agent", "model_status") == "loaded"
    assert at_home.state("agent", "memory_used") != STATE_UNKNOWN
    may_end.set()
    await turn
    await at_home.advance(1)
    assert at_home.state("agent", "model_status") == "loaded"


async def test_figures_of_a_turn(at_home: Home, make_entry: MakeEntry) -> None:
    """Of all its requests together."""
    await make_entry(at_home.server.url, **roles("5m", "5m", "5m"))
    await at_home.settle()
    await at_home.use_all()
    assert float(at_home.state("agent", "load_time")) == 0
    assert float(at_home.state("agent", "time_to_first_token")) >= 0
    assert int(at_home.state("agent", "prompt_tokens")) > 600
    assert float(at_home.state("agent", "generation_speed")) == pytest.approx(20)
    assert int(at_home.state("external_llm", "prompt_tokens")) < 200
    for entity_id, unit in (
        ("sensor.agent_load_time", "s"),
        ("sensor.agent_prompt_tokens", "tokens"),
        ("sensor.agent_generation_speed", "tokens/s"),
    ):
        state = at_home.hass.states.get(entity_id)
        assert state
        assert state.attributes["unit_of_measurement"] == unit
        # It stands until the next turn: a mean over time would mean nothing.
        assert "state_class" not in state.attributes
    # Ollama does not count them.
    assert at_home.hass.states.get("sensor.agent_prompt_tokens_from_the_cache") is None


async def test_what_entities_look_like(at_home: Home, make_entry: MakeEntry) -> None:
    """Diagnostic ones, with classes that Home Assistant can draw."""
    entry = await make_entry(at_home.server.url, **roles("5m", "5m", "5m"))
    await at_home.settle()
    registry = er.async_get(at_home.hass)
    for item in er.async_entries_for_config_entry(registry, entry.entry_id):
        if item.domain == "sensor":
            is_status = item.translation_key == "residency"
            assert item.entity_category == (None if is_status else "diagnostic")
            assert item.translation_key
    classes = {
        "model_status": SensorDeviceClass.ENUM,
        "unloads_at": SensorDeviceClass.TIMESTAMP,
        "memory_used": SensorDeviceClass.DATA_SIZE,
        "load_time": SensorDeviceClass.DURATION,
    }
    for key, device_class in classes.items():
        state = at_home.hass.states.get(f"sensor.agent_{key}")
        assert state
        assert state.attributes[ATTR_DEVICE_CLASS] == device_class


# --- Events ---------------------------------------------------------------------


async def test_events(at_home: Home, make_entry: MakeEntry) -> None:
    """Loaded, unloaded in its time, evicted before it; nothing at the start."""
    server = at_home.server
    await make_entry(server.url, **roles("5m", "-1", "5m"))
    await at_home.settle()
    changes = async_capture_events(at_home.hass, "state_changed")

    def events(device: str = "agent") -> list[str]:
        found = [
            event.data["new_state"].attributes["event_type"]
            for event in changes
            if event.data["entity_id"] == f"event.{device}_model_loaded_or_unloaded"
        ]
        changes.clear()
        return found

    await say(at_home.hass, "Hello")
    await at_home.advance(4)
    assert events() == ["loaded"]
    await at_home.advance(310)
    assert events() == ["unloaded"]
    await say(at_home.hass, "Hello")
    await at_home.advance(4)
    server.memory.unload(PRIMARY)
    await at_home.poll()
    assert events() == ["loaded", "evicted"]
    await say(at_home.hass, "Hello")
    await at_home.advance(4)
    await press(at_home.hass, "agent_unload")
    await at_home.poll()
    assert events() == ["loaded", "unloaded"]
    assert not server.loaded(PRIMARY)


# --- Steering -------------------------------------------------------------------


async def press(hass: HomeAssistant, name: str) -> None:
    """Press a button."""
    await hass.services.async_call(
        "button", "press", {"entity_id": f"button.{name}"}, blocking=True
    )


async def test_buttons(at_home: Home, make_entry: MakeEntry) -> None:
    """Load with the configured keep_alive and the chat's num_ctx; unload."""
    await make_entry(at_home.server.url, **roles("-1", "2m", "10m"))
    await at_home.settle()
    await at_home.poll()
    for name in ("agent", "external_llm", "embedding"):
        await press(at_home.hass, f"{name}_load")
        await press(at_home.hass, f"{name}_load")
    await at_home.settle()
    at_home.agrees()
    assert len(at_home.server.memory.loads) == 3
    external = at_home.server.loaded(EXTERNAL)
    assert external
    assert (external.seconds, external.num_ctx) == (120, 8192)
    for name in ("agent", "external_llm", "embedding"):
        await press(at_home.hass, f"{name}_unload")
    await at_home.poll()
    at_home.agrees()
    assert not at_home.server.memory.residents
    at_home.server.faults.append(Fault(status=500, body={"error": "no memory"}))
    with pytest.raises(HomeAssistantError) as caught:
        await press(at_home.hass, "agent_load")
    assert caught.value.translation_key == "server_error"


async def test_actions(at_home: Home, make_entry: MakeEntry) -> None:
    """One model or all; the caller's keep_alive wins."""
    hass = at_home.hass
    entry = await make_entry(at_home.server.url, **roles("-1", "2m", "10m"))
    await at_home.settle()
    device = device_of(hass, entry, EXTERNAL)
    result = await call_action(hass, "load_model", device_id=device, keep_alive="1h")
    (loaded,) = result["models"]
    assert loaded["model"] == EXTERNAL
    assert loaded["seconds"] >= 0
    external = at_home.server.loaded(EXTERNAL)
    assert external
    assert external.seconds == 3600
    assert len(at_home.server.memory.residents) == 1
    await hass.services.async_call(DOMAIN, "load_model", {}, blocking=True)
    assert len(at_home.server.memory.residents) == 3
    assert external.seconds == 120
    await hass.services.async_call(
        DOMAIN, "load_model", {"device_id": [device], "keep_alive": -1}, blocking=True
    )
    assert external.seconds > 1e9
    await hass.services.async_call(
        DOMAIN, "unload_model", {"device_id": [device]}, blocking=True
    )
    assert EXTERNAL not in at_home.server.memory.residents
    await hass.services.async_call(DOMAIN, "unload_model", {}, blocking=True)
    assert not at_home.server.memory.residents


def device_of(hass: HomeAssistant, entry: ConfigEntry, model: str) -> str:
    """Return the id of a model's device."""
    (found,) = [
        device.id
        for device in dr.async_entries_for_config_entry(
            dr.async_get(hass), entry.entry_id
        )
        if device.model == model
    ]
    return found


async def test_actions_that_cannot_be(at_home: Home, make_entry: MakeEntry) -> None:
    """A value that is no keep_alive, a device that is no model."""
    await make_entry(at_home.server.url, **roles("-1", "2m", "10m"))
    for data, key in (
        ({"keep_alive": "5"}, "invalid_keep_alive"),
        ({"keep_alive": True}, "invalid_keep_alive"),
        ({"keep_alive": "0s"}, "load_for_nothing"),
        ({"device_id": ["nothing"]}, "no_model_device"),
    ):
        with pytest.raises(ServiceValidationError) as caught:
            await at_home.hass.services.async_call(
                DOMAIN, "load_model", data, blocking=True
            )
        assert caught.value.translation_key == key
    assert not at_home.server.memory.loads


# --- Other servers --------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "absent"),
    [
        (LlamaCppStandIn, {"button.agent_load", "sensor.agent_memory_used"}),
        (LlamaSwapStandIn, {"sensor.agent_unloads_at"}),
        (LMStudioStandIn, {"sensor.agent_unloads_at"}),
        (DockerModelRunnerStandIn, {"sensor.agent_context_length"}),
    ],
)
async def test_only_what_a_server_reports_is_shown(
    all_entities: None,
    home: HomeAssistant,
    make_entry: MakeEntry,
    make: Callable[[], Any],
    absent: set[str],
) -> None:
    """A figure that a kind of server does not report has no entity."""
    async with make() as server:
        entry = await make_entry(
            server.url, conversation={"llm_model": "local-model", "llm_warm_up": True}
        )
        await say(home, "Hello")
        await home.async_block_till_done(wait_background_tasks=True)
        # The poll after the request, if the one before it was a moment ago.
        async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=1))
        await home.async_block_till_done(wait_background_tasks=True)
        residency = home.states.get("sensor.agent_model_status")
        assert residency
        assert residency.state == "loaded"
        assert not absent & set(home.states.async_entity_ids())
        cached = home.states.get("sensor.agent_prompt_tokens_from_the_cache")
        assert cached
        assert cached.state == "12"
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_the_kind_of_a_roles_own_server_is_learned(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Entries from before it was stored get the entities that belong to it."""
    async with LlamaCppStandIn() as server:
        external = {
            "external_llm_model": "local-model",
            "external_llm_base_url": server.url,
        }
        entry = await make_entry(ollama.url, external_llm=external, conversation={})
        await home.async_block_till_done(wait_background_tasks=True)
        assert entry.subentries["external"].data["external_llm_server_kind"] == (
            "llama_cpp"
        )
        state = home.states.get("sensor.external_llm_model_status")
        assert state
        assert state.state == "loaded"
        devices = dr.async_entries_for_config_entry(dr.async_get(home), entry.entry_id)
        assert {d.model for d in devices} >= {"Ollama", "llama.cpp"}
        assert await home.config_entries.async_unload(entry.entry_id)

"""A home, its model server and everybody who uses it, with one time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any

import aiohttp
from freezegun.api import FrozenDateTimeFactory
from homeassistant.config_entries import ConfigSubentryData, ConfigSubentryDataWithId
from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.helpers.intent import IntentResponseType
from homeassistant.helpers.storage import Store
from homeassistant.util import dt as dt_util
from homeassistant.util.async_ import get_scheduled_timer_handles
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.const import DOMAIN
from tests.conftest import say

from .server import JumpingClock, RecordingOllama

VOICE = "llama3.2:3b"
TASKS = "qwen3:8b"
EMBEDDING = "nomic-embed-text:latest"
# The subentries: their model, and the keys of their settings.
ROLES = {
    "voice": (VOICE, "llm"),
    "tasks": (TASKS, "llm"),
    "external": (TASKS, "external_llm"),
    "embedding": (EMBEDDING, "embedding"),
}
KEEP_ALIVES = {"voice": "30m", "tasks": "10m", "external": "10m", "embedding": "1h"}
NUM_CTX = 8192
# For whom each model is loaded during a question to "voice".
_ASKERS_OF_VOICE = {VOICE: "voice", TASKS: "external", EMBEDDING: "embedding"}


def _subentry(name: str, title: str, **data: Any) -> ConfigSubentryDataWithId:
    """Return a subentry with a model and a keep_alive."""
    model, prefix = ROLES[name]
    kind = "conversation" if prefix == "llm" else prefix
    data = {"model": model, "keep_alive": KEEP_ALIVES[name], "warm_up": True, **data}
    return {
        **ConfigSubentryData(
            subentry_type=kind,
            title=title,
            unique_id=None,
            data={f"{prefix}_{key}": value for key, value in data.items()},
        ),
        "subentry_id": name,
    }


class World:
    """Lets time pass from one event to the next.

    skew is how many seconds the server's clock is ahead. observe is called whenever
    nothing moves any more.
    """

    def __init__(
        self, hass: HomeAssistant, freezer: FrozenDateTimeFactory, skew: float
    ) -> None:
        """Start at midnight with a server that does not listen yet."""
        self.hass = hass
        self._freezer = freezer
        midnight = dt_util.start_of_local_day()
        freezer.move_to(midnight.astimezone(dt_util.UTC))
        self._skew = skew
        self._clock = JumpingClock()
        self._clock.advance(midnight.timestamp() + skew - self._clock.now())
        self._clock.jump = self._tick
        self.server = RecordingOllama(self._clock)
        self.is_up = False
        # Any free port at first, and then always the same.
        self._port = 0
        self.started_at = self.now
        self.writes = Counter[str]()
        self.observe: Callable[[], None] = lambda: None

    @property
    def now(self) -> float:
        """Return the time of the home as Unix seconds."""
        return self._clock.now() - self._skew

    @property
    def server_now(self) -> float:
        """Return the time of the server as Unix seconds."""
        return self._clock.now()

    def datetime_of(self, server_time: float) -> datetime:
        """Return the time of the home at a time of the server."""
        return datetime.fromtimestamp(server_time - self._skew, dt_util.UTC)

    def _tick(self, seconds: float) -> None:
        """Let time pass for the home and the server."""
        self._clock.advance(seconds)
        self._freezer.tick(seconds)

    async def start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start the server and set up Home Agent with two agents."""
        write = Store._async_write_data

        async def count(store: Store[Any], data: dict[str, Any]) -> None:
            self.writes[store.key] += 1
            await write(store, data)

        monkeypatch.setattr(Store, "_async_write_data", count)
        await self.start_server()
        assist: dict[str, Any] = {"hass_api": ["assist"]}
        self.entry = MockConfigEntry(
            domain=DOMAIN,
            version=2,
            title="Ollama",
            data={"llm_base_url": self.server.url},
            subentries_data=[
                {
                    **(voice := _subentry("voice", "Voice", **assist)),
                    "data": {**voice["data"], "external_llms": ["external"]},
                },
                _subentry("tasks", "Tasks", hass_api=[]),
                _subentry("external", "Expert"),
                _subentry("embedding", "Search"),
            ],
        )
        self.entry.add_to_hass(self.hass)
        assert await self.hass.config_entries.async_setup(self.entry.entry_id)
        await self.settle()

    async def start_server(self) -> None:
        """Start the server, with nothing in memory."""
        await self.server.start(self._port)
        self._port = int(self.server.url.rpartition(":")[2])
        self.is_up = True

    async def stop_server(self) -> None:
        """Stop the server."""
        self.is_up = False
        await self.server.stop()

    async def settle(self) -> None:
        """Wait for everything in the background, and look at what is shown."""
        for _ in range(3):
            await asyncio.sleep(0)
        await self.hass.async_block_till_done(wait_background_tasks=True)
        self.observe()

    async def wait_until(self, time: float) -> None:
        """Let time pass until then, from each timer to the next."""
        while self.now < time:
            due = [time - self.now]
            if (server_due := self._clock.next_due) is not None:
                due.append(server_due - self._clock.now())
            now = self.hass.loop.time()
            due += [
                handle.when() - now
                for handle in get_scheduled_timer_handles(self.hass.loop)
                if not handle.cancelled() and not _is_of_aiohttp(handle)
            ]
            self._tick(max(min(due), 0.0) + 0.001)
            await self.settle()

    async def wait(self, seconds: float) -> None:
        """Let so many seconds pass."""
        await self.wait_until(self.now + seconds)

    async def ask(self, agent: str, text: str) -> bool:
        """Ask an agent, and return whether it could answer."""
        entity_id = self._entity_id("conversation", agent)
        askers = {"tasks": {TASKS: "tasks"}, "voice": _ASKERS_OF_VOICE}[agent]
        self.server.memory.askers = askers
        result = await say(self.hass, text, agent_id=entity_id)
        self.server.memory.askers = {}
        await self.settle()
        return result.response.response_type is not IntentResponseType.ERROR

    async def press(self, role: str, key: str) -> None:
        """Press a button of a model."""
        entity_id = self._entity_id("button", f"{role}_{key}")
        data = {"entity_id": entity_id}
        await self.hass.services.async_call("button", "press", data, blocking=True)
        await self.settle()

    async def reload(self) -> None:
        """Reload the entry."""
        await self.hass.config_entries.async_reload(self.entry.entry_id)
        await self.settle()

    async def configure(self, role: str, **settings: Any) -> None:
        """Change settings of a role."""
        subentry = self.entry.subentries[role]
        _, prefix = ROLES[role]
        data = {f"{prefix}_{key}": value for key, value in settings.items()}
        self.hass.config_entries.async_update_subentry(
            self.entry, subentry, data={**subentry.data, **data}
        )
        await self.settle()

    async def foreign(self, model: str, keep_alive: str | int, **body: Any) -> None:
        """Let another client use a model; it does not see why that fails."""
        path = "embed" if model == EMBEDDING else "generate"
        self.server.memory.askers = {model: "guest"}
        with suppress(aiohttp.ClientError):
            await self._post(path, {"model": model, "keep_alive": keep_alive} | body)
        self.server.memory.askers = {}
        await self.settle()

    def _post(self, path: str, body: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        """Send a request of another client."""
        session = async_get_clientsession(self.hass)
        return session.post(f"{self.server.url}/api/{path}", json=body)

    def state(self, role: str, key: str) -> str:
        """Return the state of a sensor of a role."""
        state = self.hass.states.get(self._entity_id("sensor", f"{role}_{key}"))
        assert state, (role, key)
        return state.state

    def _entity_id(self, domain: str, unique_id: str) -> str:
        """Return the id of an entity of Home Agent."""
        registry = er.async_get(self.hass)
        entity_id = registry.async_get_entity_id(domain, DOMAIN, unique_id)
        assert entity_id, unique_id
        return entity_id


def _is_of_aiohttp(handle: asyncio.TimerHandle) -> bool:
    """Return whether a timer only looks after connections."""
    callback = getattr(handle, "_callback", None)
    return "aiohttp" in str(getattr(callback, "__module__", ""))

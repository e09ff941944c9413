r"""What a real Ollama says of a model and what our entities say of it, event by event.

    HOME_AGENT_TEST_OLLAMA=http://127.0.0.1:11434 HOME_AGENT_TEST_MODEL=smollm2:135m \
    HOME_AGENT_TEST_OTHER_MODEL=other:135m HOME_AGENT_TEST_OLLAMA_BINARY=ollama \
        python -m pytest -s tests/live/test_residency_table.py

With the binary a server of its own is started, which has the models of OLLAMA_MODELS
and keeps one of them in memory; without it the events that need that are left out.
-s prints the table. What Home Agent does itself must be shown within a second, what
another program does with the next poll, and an expiry within two seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
import os
from pathlib import Path
import signal
import socket
from time import monotonic
from typing import Any

import aiohttp
from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigSubentry
from homeassistant.const import STATE_UNAVAILABLE, STATE_UNKNOWN
from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.util import dt as dt_util
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.model.role import merged_config
from custom_components.home_agent.tools.external_llm import ExternalLLMTool
from tests.conftest import MakeEntry, say, speech

URL = os.environ.get("HOME_AGENT_TEST_OLLAMA", "")
MODEL = os.environ.get("HOME_AGENT_TEST_MODEL", "smol")
OTHER = os.environ.get("HOME_AGENT_TEST_OTHER_MODEL", "")
BINARY = os.environ.get("HOME_AGENT_TEST_OLLAMA_BINARY", "")
# Seconds in which the entities must show what the server says.
AT_ONCE = 1.0
AFTER_EXPIRY = 2.0
# Seconds in which the server itself must have done what is waited for.
PATIENCE = 30.0
LOOK_EVERY = 0.02

ROLES = {
    "llm": "conversation",
    "external_llm": "external_llm",
    "embedding": "embedding",
}
KEYS = ("residency", "loaded_until", "memory", "context_length")
NOT_LOADED = dict(
    zip(KEYS, ("unloaded", STATE_UNKNOWN, "0.0", STATE_UNKNOWN), strict=True)
)

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(0),
    pytest.mark.skipif(not URL, reason="needs HOME_AGENT_TEST_OLLAMA"),
    pytest.mark.usefixtures("all_entities"),
]


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Return the rows of the table, which is printed at the end."""
    rows = ["| role | keep_alive | event | /api/ps | entities | seconds |"]
    yield rows
    print("", *rows, sep="\n")


class Server:
    """The Ollama of a test: one of its own, or the one that is there."""

    def __init__(self, hass: HomeAssistant, folder: Path) -> None:
        """Start nothing yet."""
        self._hass = hass
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.url = URL

    async def start(self) -> None:
        """Start a server that keeps one model in memory, if there is a binary."""
        if not BINARY:
            return
        if self.url == URL:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        own = {
            "HOME": str(self._folder),
            "OLLAMA_HOST": self.url.removeprefix("http://"),
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NO_CLOUD": "1",
        }
        self._process = await asyncio.create_subprocess_exec(
            BINARY,
            "serve",
            env=os.environ | own,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            # Its runners outlive it, so they are killed with it.
            start_new_session=True,
        )
        async with asyncio.timeout(PATIENCE):
            while await self.models() is None:  # noqa: ASYNC110 - another process
                await asyncio.sleep(LOOK_EVERY)

    async def kill(self) -> None:
        """Kill the server, if it is one of our own."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._process = None

    async def models(self) -> dict[str, dict[str, Any]] | None:
        """Return what /api/ps says by the names, None without an answer."""
        session = async_get_clientsession(self._hass)
        try:
            async with session.get(f"{self.url}/api/ps") as response:
                models = (await response.json())["models"]
        except aiohttp.ClientError:
            return None
        return {model["name"]: model for model in models}

    async def use(self, model: str, keep_alive: str | int) -> None:
        """Load or unload a model as another program does; `ollama stop` sends 0."""
        session = async_get_clientsession(self._hass)
        body = {"model": model, "keep_alive": keep_alive, "stream": False}
        async with session.post(f"{self.url}/api/generate", json=body) as response:
            response.raise_for_status()


@pytest.fixture
async def server(home: HomeAssistant, tmp_path: Path) -> AsyncIterator[Server]:
    """Return a running server, with nothing in memory."""
    ollama = Server(home, tmp_path)
    await ollama.start()
    for name in await ollama.models() or {}:
        await ollama.use(name, 0)
    yield ollama
    await ollama.kill()


@dataclass
class Table:
    """Adds the rows of one role with one keep_alive."""

    hass: HomeAssistant
    server: Server
    entry: MockConfigEntry
    subentry: ConfigSubentry
    role: str
    keep_alive: str
    rows: list[str]

    async def request(self) -> None:
        """Send a real request of the role."""
        (subentry,) = self.entry.get_subentries_of_type(ROLES[self.role])
        if self.role == "llm":
            assert speech(await say(self.hass, "Hello"))
        elif self.role == "embedding":
            (manager,) = self.entry.runtime_data.vector_db_managers.values()
            assert await manager.generate_embedding("a lamp")
        else:
            tool = ExternalLLMTool(self.hass, merged_config(self.entry, subentry))
            assert await tool._execute("Hello", None)

    async def poll(self) -> None:
        """Poll as Home Agent does once a minute."""
        for coordinator in self.entry.runtime_data.coordinators.values():
            await coordinator.async_refresh()

    def shown(self) -> dict[str, str]:
        """Return the states of the role's sensors."""
        registry = er.async_get(self.hass)
        states = {}
        for key in KEYS:
            entity_id = registry.async_get_entity_id(
                "sensor", DOMAIN, f"{self.subentry.subentry_id}_{key}"
            )
            state = self.hass.states.get(entity_id or "")
            assert state, key
            states[key] = state.state
        return states

    async def add(
        self,
        event: str,
        is_done: Callable[[dict[str, Any] | None], bool],
        *,
        within: float = AT_ONCE,
        polls: bool = False,
    ) -> None:
        """Wait until the server says that an event is done, and the entities too.

        polls: the event was not of Home Agent's doing, so that its next poll shows it.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                said = (await self.server.models() or {}).get(MODEL)
                if is_done(said):
                    break
                await asyncio.sleep(LOOK_EVERY)
        done = monotonic()
        if polls:
            await self.poll()
        is_away = await self.server.models() is None
        while not _is_equal(said, shown := self.shown(), is_away=is_away):
            passed = monotonic() - done
            assert passed < within, f"{event}: {shown}, but {said} for {passed:.1f} s"
            await asyncio.sleep(LOOK_EVERY)
        cells = (
            *(self.role, self.keep_alive, event),
            "no answer" if is_away else _as_text(said),
            ", ".join(shown.values()),
            f"{monotonic() - done:.2f}",
        )
        self.rows.append(f"| {' | '.join(cells)} |")


def _as_text(said: dict[str, Any] | None) -> str:
    """Return what /api/ps says of a model, for the table."""
    if said is None:
        return "not there"
    until = said["expires_at"][:19]
    return f"{until}, {said['size'] / 1e9:.3f} GB, {said['context_length']}"


def _is_equal(
    said: dict[str, Any] | None, shown: dict[str, str], *, is_away: bool
) -> bool:
    """Return whether the sensors show what /api/ps says of a model."""
    if is_away:
        return set(shown.values()) == {STATE_UNAVAILABLE}
    if said is None:
        return shown == NOT_LOADED
    until = dt_util.parse_datetime(said["expires_at"])
    assert until
    if until - dt_util.utcnow() > timedelta(days=365):
        is_right = shown["loaded_until"] == "never"
    else:
        seen = dt_util.parse_datetime(shown["loaded_until"])
        is_right = seen is not None and abs(seen - until) < timedelta(seconds=2)
    return (
        is_right
        and shown["residency"] == "loaded"
        and shown["context_length"] == str(said["context_length"])
        and abs(float(shown["memory"]) - said["size"] / 1e9) < 1e-3
    )


@pytest.fixture
async def make_table(
    home: HomeAssistant, make_entry: MakeEntry, server: Server, table: list[str]
) -> Callable[[str, str], Any]:
    """Return a function that sets up one role with a keep_alive."""

    async def make(role: str, keep_alive: str) -> Table:
        data: dict[str, Any] = {
            f"{role}_model": MODEL,
            f"{role}_keep_alive": keep_alive,
        }
        if role != "embedding":
            data |= {f"{role}_max_tokens": 3, f"{role}_num_ctx": 1024}
        if role == "llm":
            data["llm_hass_api"] = []
        # What is exposed would be indexed, by requests of the role.
        for entity_id in home.states.async_entity_ids():
            async_expose_entity(home, conversation.DOMAIN, entity_id, False)
        roles = {ROLES[role]: data}
        if role == "external_llm":
            # The agent that has the tool, and is asked nothing.
            agent = {"llm_model": MODEL, "llm_keep_alive": "0", "llm_num_ctx": 1024}
            roles["conversation"] = agent
        entry = await make_entry(server.url, **roles)
        await home.async_block_till_done(wait_background_tasks=True)
        (subentry,) = entry.get_subentries_of_type(ROLES[role])
        return Table(home, server, entry, subentry, role, keep_alive, table)

    return make


def is_there(said: dict[str, Any] | None) -> bool:
    """Return whether the model is in memory."""
    return said is not None


def is_gone(said: dict[str, Any] | None) -> bool:
    """Return whether the model is not in memory."""
    return said is None


@pytest.mark.parametrize("keep_alive", ["30s", "-1", "0", "1h30m"])
@pytest.mark.parametrize("role", list(ROLES))
async def test_each_event(
    make_table: Callable[[str, str], Any], server: Server, role: str, keep_alive: str
) -> None:
    """A request, a new context, `ollama stop`, an eviction, a kill and a restart."""
    rows: Table = await make_table(role, keep_alive)
    seconds = {"30s": 30, "-1": None, "0": 0, "1h30m": 5400}[keep_alive]
    context = None if role == "embedding" else 1024

    def holds(said: dict[str, Any] | None) -> bool:
        """Return whether the server holds the model as was configured."""
        if seconds == 0 or said is None:
            return seconds == 0 and said is None
        until = datetime.fromisoformat(said["expires_at"][:26] + "+00:00")
        left = (until - dt_util.utcnow()).total_seconds()
        is_long = left > 1e8 if seconds is None else abs(left - seconds) < 5
        return is_long and context in (None, said["context_length"])

    await rows.request()
    await rows.add("load", holds)
    if role != "embedding":
        context = 2048
        data = {**rows.subentry.data, f"{role}_num_ctx": context}
        rows.hass.config_entries.async_update_subentry(
            rows.entry, rows.subentry, data=data
        )
        await rows.hass.async_block_till_done(wait_background_tasks=True)
        await rows.request()
        await rows.add("num_ctx 2048", holds)
    await server.use(MODEL, 0)
    await rows.add("ollama stop", is_gone, polls=True)
    if not BINARY or not OTHER:
        return
    await rows.request()
    await rows.add("load again", holds)
    await server.use(OTHER, "5m")
    await rows.add("eviction", is_gone, polls=True)
    await rows.request()
    await rows.add("load again", holds)
    await server.kill()
    await rows.add("kill", is_gone, polls=True)
    await server.start()
    await rows.add("restart", is_gone, polls=True)


@pytest.mark.parametrize("role", list(ROLES))
async def test_expiry(make_table: Callable[[str, str], Any], role: str) -> None:
    """Nobody polls for it but Home Agent itself, at the right time."""
    rows: Table = await make_table(role, "5s")
    await rows.request()
    await rows.add("load", is_there)
    await rows.add("expiry", is_gone, within=AFTER_EXPIRY)

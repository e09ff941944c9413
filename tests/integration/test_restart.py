"""A server is warmed up again after a restart, but not after a lost poll."""

from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.core import HomeAssistant
import pytest

from tests.conftest import MakeEntry, say
from tests.integration.test_warm_up import EMBEDDING, EXTERNAL, PRIMARY, unload
from tests.passing_time import PassingTime
from tests.servers import ManualClock, OllamaStandIn
from tests.servers.stand_in import StandIn

HELD: dict[str, Any] = {
    "conversation": {"llm_warm_up": True, "llm_keep_alive": "-1"},
    "embedding": {"embedding_warm_up": True, "embedding_keep_alive": "10m"},
}


class Outage(PassingTime):
    """A home whose server goes away and comes back."""

    async def lose(self, *, restarted: bool) -> None:
        """Let the server go away, and notice it; a restart empties its memory."""
        await (self.server.stop() if restarted else StandIn.stop(self.server))
        await self.advance(61)

    async def come_back(self) -> None:
        """Let the server come back."""
        await self.server.start(int(self.server.url.rpartition(":")[2]))

    async def restart_between_polls(self) -> None:
        """Restart the server without a poll in between."""
        await self.server.stop()
        await self.come_back()
        await self.advance(61)

    def state(self) -> str:
        """Return the status of the agent's model."""
        state = self.hass.states.get("sensor.agent_model_status")
        assert state
        return state.state


@pytest.fixture
async def at_home(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> Outage:
    """Return a home."""
    return Outage(home, ollama, clock, freezer)


async def test_a_server_that_comes_back_is_noticed_soon(
    at_home: Outage, make_entry: MakeEntry, caplog: pytest.LogCaptureFixture
) -> None:
    """Within 15 seconds, after an hour too; the log has one line for it."""
    await make_entry(at_home.server.url, **HELD)
    await at_home.settle()
    await at_home.lose(restarted=True)
    for _ in range(360):
        await at_home.advance(10)
    at_home.server.memory.loads.clear()
    await at_home.come_back()
    await at_home.advance(14)
    assert at_home.server.memory.loads == [PRIMARY, EMBEDDING]
    assert at_home.state() == "loaded"
    errors = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "ERROR" and "home_agent" in record.name
    ]
    assert len(errors) == 1


async def test_one_lost_poll_loads_nothing(
    at_home: Outage, make_entry: MakeEntry
) -> None:
    """What the user has unloaded, and what has expired, stays unloaded."""
    entry = await make_entry(at_home.server.url, **HELD)
    await at_home.settle()
    await at_home.advance(20)
    await unload(at_home.hass)
    await at_home.advance(61)
    at_home.server.memory.loads.clear()
    at_home.server.requests.clear()
    for restarted in (False, True):
        await at_home.lose(restarted=restarted)
        await at_home.come_back()
        await at_home.advance(61)
    # The user has unloaded them for the night: a reload is no reason either.
    await at_home.hass.config_entries.async_reload(entry.entry_id)
    await at_home.settle()
    assert not at_home.server.memory.loads
    assert not at_home.server.sent("/api/chat", "/api/generate")


async def test_an_outage_of_the_network_loads_nothing(
    at_home: Outage, make_entry: MakeEntry
) -> None:
    """The models are still in memory."""
    await make_entry(at_home.server.url, **HELD)
    await at_home.settle()
    await at_home.advance(20)
    at_home.server.requests.clear()
    await at_home.lose(restarted=False)
    await at_home.advance(61)
    await at_home.come_back()
    await at_home.advance(61)
    assert not at_home.server.asked


async def test_a_model_that_has_expired_is_not_loaded_for_a_lost_poll(
    at_home: Outage, make_entry: MakeEntry
) -> None:
    """It is loaded when it is used."""
    await make_entry(
        at_home.server.url, conversation=HELD["conversation"] | {"llm_keep_alive": "5m"}
    )
    await at_home.settle()
    for _ in range(10):
        await at_home.advance(61)
    assert at_home.state() == "unloaded"
    at_home.server.memory.loads.clear()
    await at_home.lose(restarted=False)
    await at_home.come_back()
    await at_home.advance(11)
    assert at_home.state() == "unloaded"
    assert not at_home.server.memory.loads


async def test_a_restart_between_two_polls_is_noticed(
    at_home: Outage, make_entry: MakeEntry
) -> None:
    """All models are gone before their time, and no other has come."""
    await make_entry(at_home.server.url, **HELD)
    await at_home.settle()
    await at_home.advance(61)
    at_home.server.memory.loads.clear()
    await at_home.restart_between_polls()
    assert at_home.server.memory.loads == [PRIMARY, EMBEDDING]
    assert at_home.state() == "loaded"
    # The same again may be somebody who wants the memory.
    await at_home.advance(61)
    at_home.server.memory.loads.clear()
    await at_home.restart_between_polls()
    assert not at_home.server.memory.loads
    for _ in range(60):
        await at_home.advance(61)
    await say(at_home.hass, "Hello")
    await at_home.advance(61)
    await at_home.restart_between_polls()
    assert at_home.server.memory.loads == [PRIMARY, PRIMARY, EMBEDDING]


async def test_an_eviction_is_no_restart(
    at_home: Outage, make_entry: MakeEntry
) -> None:
    """Another model is in memory, or has come."""
    await make_entry(at_home.server.url, **HELD)
    await at_home.settle()
    await at_home.advance(61)
    at_home.server.memory.loads.clear()
    at_home.server.memory.unload(PRIMARY)
    await at_home.advance(61)
    assert not at_home.server.memory.loads
    assert at_home.state() == "unloaded"


async def test_a_server_that_is_away_at_the_start(
    at_home: Outage, make_entry: MakeEntry, caplog: pytest.LogCaptureFixture
) -> None:
    """The models of a role's own server are loaded once it is there."""
    async with OllamaStandIn() as other:
        port = int(other.url.rpartition(":")[2])
        await other.stop()
        external = {
            "external_llm_model": EXTERNAL,
            "external_llm_base_url": other.url,
            "external_llm_server_kind": "ollama",
            "external_llm_warm_up": True,
        }
        entry = await make_entry(
            at_home.server.url, conversation={}, external_llm=external
        )
        await at_home.settle()
        assert "Cannot load" not in caplog.text
        await other.start(port)
        await at_home.advance(12)
        assert other.memory.loads == [EXTERNAL]
        assert await at_home.hass.config_entries.async_unload(entry.entry_id)


@pytest.mark.parametrize("how", ["keep_alive 0", "button"])
async def test_an_unload_is_shown_within_a_second(
    at_home: Outage, make_entry: MakeEntry, how: str
) -> None:
    """Also if the server takes its time."""
    keep_alive = "0" if how == "keep_alive 0" else "5m"
    await make_entry(at_home.server.url, conversation={"llm_keep_alive": keep_alive})
    await at_home.settle()
    memory = at_home.server.memory
    unloaded = memory.unload

    def unload_slowly(name: str) -> None:
        memory.residents[name].expires_at = at_home.now() - 0.1

    memory.unload = unload_slowly  # type: ignore[method-assign]
    await say(at_home.hass, "Hello")
    await at_home.advance(1)
    if how == "button":
        await unload(at_home.hass)
        await at_home.advance(0.6)
    for _ in range(4):
        assert at_home.state() == "loaded"
        await at_home.advance(0.6)
    memory.unload = unloaded  # type: ignore[method-assign]
    memory.unload(PRIMARY)
    await at_home.advance(0.6)
    assert at_home.state() == "unloaded"


async def test_polls_of_a_busy_model_end(
    at_home: Outage, make_entry: MakeEntry
) -> None:
    """Another client's request may run for minutes with a time in the past."""
    await make_entry(at_home.server.url, conversation={"llm_keep_alive": "5m"})
    await at_home.settle()
    await say(at_home.hass, "Hello")
    await at_home.advance(1)
    resident = at_home.server.loaded(PRIMARY)
    assert resident
    resident.expires_at = at_home.now() - 1
    await say(at_home.hass, "Hello")
    resident.expires_at = at_home.now() - 1
    at_home.server.requests.clear()
    for _ in range(120):
        await at_home.advance(0.5)
    assert at_home.state() == "loaded"
    assert len(at_home.server.requests) <= 24

"""A model that the user has unloaded stays unloaded until a request needs it."""

import asyncio
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.core import HomeAssistant
from homeassistant.helpers import area_registry as ar
import pytest

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.model.use import STORAGE_KEY, ModelUse, model_uses
from custom_components.home_agent.servers.ollama import OllamaServer
from tests.conftest import MakeEntry, call_action, say
from tests.integration.test_warm_up import EMBEDDING, PRIMARY, WARM, until
from tests.passing_time import PassingTime
from tests.servers import ManualClock, OllamaStandIn
from tests.servers.stand_in import Fault

KEPT: dict[str, Any] = {**WARM, "llm_keep_alive": "-1"}


class Home(PassingTime):
    """A home whose user unloads models."""

    def unload(self) -> asyncio.Task[Any]:
        """Begin to unload all models, as an automation does."""
        action = self.hass.services.async_call(DOMAIN, "unload_model", blocking=True)
        return self.hass.async_create_background_task(action, "unload")

    async def until_sent(self, path: str, count: int) -> None:
        """Wait until the server has got so many requests to a path."""
        await until(lambda: len(self.server.sent(path)) >= count)

    def use(self) -> ModelUse:
        """Return the use of the primary LLM's model."""
        return model_uses(self.hass).async_get(self.server.url, PRIMARY)


@pytest.fixture
async def at_home(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> Home:
    """Return a home."""
    return Home(home, ollama, clock, freezer)


async def test_a_reload_while_the_unload_is_slow(
    at_home: Home, make_entry: MakeEntry
) -> None:
    """The warm-up of the reloaded entry waits for the unload and loads nothing."""
    server = at_home.server
    entry = await make_entry(server.url, conversation=KEPT)
    await at_home.settle()
    server.hold()
    unloading = at_home.unload()
    await at_home.until_sent("/api/generate", 2)
    await at_home.hass.config_entries.async_reload(entry.entry_id)
    server.release()
    await unloading
    await at_home.settle()
    await at_home.advance(3)
    assert not server.loaded(PRIMARY)


async def test_another_load_waits_behind_the_unload(
    at_home: Home, make_entry: MakeEntry
) -> None:
    """The second entry comes to its turn when the user has unloaded the model."""
    server = at_home.server
    server.hold()
    await make_entry(server.url, conversation=KEPT)
    await at_home.until_sent("/api/generate", 1)
    unloading = at_home.unload()
    await asyncio.sleep(0)
    await make_entry(f"{server.url}/v1", conversation=KEPT)
    server.release()
    await unloading
    await at_home.settle()
    await at_home.advance(3)
    assert not server.loaded(PRIMARY)
    assert at_home.use().unloaded_by_user


async def test_a_question_before_the_unload_is_answered(
    at_home: Home, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question has loaded the model again: it counts."""
    await make_entry(at_home.server.url, conversation=KEPT)
    await at_home.settle()
    answered = asyncio.Event()
    unload = OllamaServer.unload

    async def slow(server: OllamaServer, model: str) -> None:
        await unload(server, model)
        await answered.wait()

    monkeypatch.setattr(OllamaServer, "unload", slow)
    unloading = at_home.unload()
    await at_home.until_sent("/api/generate", 2)
    await say(at_home.hass, "Hello")
    answered.set()
    await unloading
    await at_home.settle()
    assert at_home.server.loaded(PRIMARY)
    assert not at_home.use().unloaded_by_user


async def test_a_cancelled_unload_goes_on(at_home: Home, make_entry: MakeEntry) -> None:
    """The server has got the request: what is shown must not depend on the caller."""
    server = at_home.server
    await make_entry(server.url, conversation=KEPT)
    await at_home.settle()
    server.hold()
    unloading = at_home.unload()
    await at_home.until_sent("/api/generate", 2)
    unloading.cancel()
    await asyncio.wait([unloading])
    server.release()
    await at_home.settle()
    await at_home.advance(3)
    assert not server.loaded(PRIMARY)
    assert at_home.use().unloaded_by_user


async def test_a_model_that_is_there_again_stays_unloaded(
    at_home: Home, make_entry: MakeEntry, hass_storage: dict[str, Any]
) -> None:
    """Unloaded before a restart, deleted and created again."""
    server = at_home.server
    stored = {
        "uses": [],
        "loads": [],
        "evictions": [],
        "characters_per_token": 4.0,
        "unloaded_by_user": True,
    }
    hass_storage[STORAGE_KEY] = {
        "version": 1,
        "minor_version": 1,
        "data": {f"{server.url} {PRIMARY}": stored},
    }
    model = server.models.pop(PRIMARY)
    await make_entry(server.url, conversation=KEPT)
    await at_home.settle()
    assert at_home.use().unloaded_by_user
    server.models[PRIMARY] = model
    await at_home.advance(301)
    await at_home.advance(5)
    assert not server.loaded(PRIMARY)


async def test_the_index_waits_for_the_next_question(
    at_home: Home, make_entry: MakeEntry
) -> None:
    """A changed name does not load the embedding model; a search does."""
    server = at_home.server
    await make_entry(server.url, conversation={}, embedding={})
    await at_home.advance(61)
    await at_home.advance(61)
    await at_home.unload()
    sent = len(server.sent("/api/embed"))
    ar.async_get(at_home.hass).async_create("Attic")
    for _ in range(5):
        await at_home.advance(61)
    assert len(server.sent("/api/embed")) == sent
    assert not server.loaded(EMBEDDING)
    server.memory.loads.clear()
    await call_action(at_home.hass, "search_entities", query="lamp")
    await at_home.advance(61)
    assert server.memory.loads == [EMBEDDING]


async def test_a_load_that_fails_once_is_tried_again(
    at_home: Home, make_entry: MakeEntry
) -> None:
    """The server answers all the time, so no outage leads to another warm-up."""
    server = at_home.server
    server.faults.append(Fault(status=500, body={"error": "llama runner terminated"}))
    await make_entry(server.url, conversation=KEPT)
    await at_home.settle()
    assert not server.loaded(PRIMARY)
    await at_home.advance(61)
    assert server.loaded(PRIMARY)


async def test_priming_keeps_the_time_of_an_action(
    at_home: Home, make_entry: MakeEntry
) -> None:
    """The load leads to priming, which is no use of the model."""
    server = at_home.server
    await make_entry(server.url, conversation={**WARM, "llm_keep_alive": "5m"})
    await at_home.settle()
    await at_home.advance(301)
    await at_home.advance(5)
    assert not server.loaded(PRIMARY)
    await call_action(at_home.hass, "load_model", keep_alive="8h")
    await at_home.advance(11)
    await at_home.advance(5)
    assert len(server.sent("/api/chat")) == 2
    model = server.loaded(PRIMARY)
    assert model
    assert model.seconds == 8 * 3600

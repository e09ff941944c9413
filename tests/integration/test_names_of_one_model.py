"""Roles that use one file of an Ollama server by several names."""

from collections.abc import AsyncIterator
from dataclasses import replace

from aiohttp import web
from freezegun.api import FrozenDateTimeFactory
from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from tests.conftest import MakeEntry, say
from tests.passing_time import PassingTime
from tests.servers import ManualClock, OllamaStandIn, StandInModel
from tests.servers.ollama_models import DEFAULT_MODELS

from .test_keep_alive_in_effect import advance_minutes, hold_elsewhere, shown

BASE = "base:3b"
TOOLS = "tools:3b"


@pytest.fixture
async def time(
    home: HomeAssistant, clock: ManualClock, freezer: FrozenDateTimeFactory
) -> AsyncIterator[PassingTime]:
    """Return the time of the home and of a server on which two names are one file."""
    models = [
        *DEFAULT_MODELS,
        StandInModel(BASE, file="f1"),
        StandInModel(TOOLS, file="f1"),
    ]
    async with OllamaStandIn(models, clock=clock) as server:
        yield PassingTime(home, server, clock, freezer)


async def two_entries(
    time: PassingTime, make_entry: MakeEntry, second: str, **settings: int
) -> tuple[ConfigEntry, ConfigEntry]:
    """Return an agent with BASE and -1 that is kept ready, and one with TOOLS."""
    url = time.server.url
    first = await make_entry(
        url,
        conversation={
            "llm_model": BASE,
            "llm_keep_alive": "-1",
            "llm_warm_up": True,
        },
    )
    await time.settle()
    other = await make_entry(
        url,
        conversation={"llm_model": TOOLS, "llm_keep_alive": second, **settings},
    )
    await time.settle()
    return first, other


def lengths(server: OllamaStandIn) -> list[float]:
    """Return the keep_alive of each model in memory, in seconds."""
    return [resident.seconds for resident in server.memory.residents.values()]


def issues(hass: HomeAssistant, name: str) -> list[str]:
    """Return the ids of the issues of a name."""
    return [
        issue_id
        for _, issue_id in ir.async_get(hass).issues
        if issue_id.startswith(f"{name}_")
    ]


async def test_the_longest_keep_alive_of_all_names_is_sent(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Ollama has one model, for which the last request counts."""
    server = time.server
    first, _ = await two_entries(time, make_entry, "1m")
    await say(time.hass, "Hello", agent_id="conversation.agent_2")
    await time.settle()
    (length,) = lengths(server)
    assert length > 1e9
    assert shown(time, "agent")["kept_by"] == ["Agent"]
    assert issues(time.hass, "keep_alive_differs")
    # The name with the longest value goes.
    assert await time.hass.config_entries.async_unload(first.entry_id)
    await time.advance(6)
    assert lengths(server) == [60]
    assert not issues(time.hass, "keep_alive_differs")


async def test_the_names_are_found_after_both_have_been_used(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Nothing was loaded before: the first poll shows that they are one model."""
    server = time.server
    for name, keep_alive in ((BASE, "-1"), (TOOLS, "1m")):
        await make_entry(
            server.url, conversation={"llm_model": name, "llm_keep_alive": keep_alive}
        )
    await say(time.hass, "Hello")
    await say(time.hass, "Hello", agent_id="conversation.agent_2")
    await time.settle()
    await time.advance(6)
    await time.advance(6)
    (length,) = lengths(server)
    assert length > 1e9


async def test_the_user_unloads_one_of_the_names(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """That is no eviction of the other, nor a restart of the server."""
    server = time.server
    settings = {"llm_warm_up": True, "llm_keep_alive": "-1"}
    await make_entry(
        server.url,
        conversation={"llm_model": BASE, **settings},
        external_llm={
            "external_llm_model": TOOLS,
            "external_llm_warm_up": True,
            "external_llm_keep_alive": "-1",
        },
    )
    await time.settle()
    await time.advance(61)
    assert lengths(server)
    await time.hass.services.async_call(
        "button", "press", {"entity_id": "button.agent_unload"}, blocking=True
    )
    await time.settle()
    await advance_minutes(time, 3)
    assert lengths(server) == []


async def test_context_sizes_of_two_names(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Each change between them loads the model again."""
    await two_entries(time, make_entry, "-1", llm_num_ctx=16384)
    assert issues(time.hass, "num_ctx")


async def test_the_core_integration_uses_another_name(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """It is known as soon as the model is loaded by that name."""
    server = time.server
    core = MockConfigEntry(
        domain="ollama",
        data={"url": server.url},
        subentries_data=[
            {
                "subentry_type": "conversation",
                "title": "Their agent",
                "unique_id": None,
                "data": {"model": TOOLS, "num_ctx": 4096},
            }
        ],
    )
    core.add_to_hass(time.hass)
    await make_entry(server.url, conversation={"llm_model": BASE})
    await time.settle()
    assert not issues(time.hass, "num_ctx")
    await hold_elsewhere(server, 300, TOOLS)
    await time.advance(61)
    assert issues(time.hass, "num_ctx")


async def test_a_file_that_could_not_be_read_is_read_again(
    time: PassingTime, make_entry: MakeEntry, home: HomeAssistant
) -> None:
    """The name is not taken for another model for good."""
    server = time.server
    await make_entry(
        server.url, conversation={"llm_model": TOOLS, "llm_keep_alive": "-1"}
    )
    await time.settle()
    show = server.routes["POST", "/api/show"]

    async def fail(request: web.Request, body: object) -> web.Response:
        return web.json_response({"error": "busy"}, status=500)

    server.routes["POST", "/api/show"] = fail
    await hold_elsewhere(server, 1e10, BASE)
    await time.advance(61)
    state = home.states.get("sensor.agent_model_status")
    assert state
    assert state.state == "unloaded"
    server.routes["POST", "/api/show"] = show
    await time.advance(61)
    state = home.states.get("sensor.agent_model_status")
    assert state
    assert state.state == "loaded"


async def test_a_name_is_created_again_from_another_file(
    time: PassingTime, make_entry: MakeEntry, home: HomeAssistant
) -> None:
    """From then on it shares nothing with the other name."""
    server = time.server
    await two_entries(time, make_entry, "1m")

    def state() -> str:
        found = home.states.get("sensor.agent_model_status_2")
        assert found
        return found.state

    assert state() == "loaded"
    server.models[TOOLS] = replace(server.models[TOOLS], file="f2")
    await advance_minutes(time, 5)
    assert state() == "unloaded"
    assert not issues(home, "keep_alive_differs")
    await say(home, "Hello", agent_id="conversation.agent_2")
    await time.settle()
    assert server.memory.residents[TOOLS].seconds == 60
    assert server.memory.residents[BASE].seconds > 1e9


async def test_a_name_that_the_server_does_not_have(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """It is not asked for with each poll."""
    server = time.server
    await make_entry(server.url, conversation={"llm_model": "gone:3b"})
    await hold_elsewhere(server, 1e10, BASE)
    await advance_minutes(time, 2)
    shows = len(server.sent("/api/show"))
    await time.advance(61)
    assert len(server.sent("/api/show")) == shows

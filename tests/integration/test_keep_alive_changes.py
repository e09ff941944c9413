"""What becomes of a keep_alive between requests: changed settings, shared models."""

import asyncio
from dataclasses import replace
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.model.use import model_uses
from tests.conftest import MakeEntry, call_action, say
from tests.passing_time import PassingTime
from tests.servers import ManualClock, OllamaStandIn, Reply, ToolUse
from tests.servers.others import LMStudioStandIn
from tests.servers.stand_in import Fault

PRIMARY = "llama3.2:3b"
EMBEDDING = "nomic-embed-text:latest"
FOREVER = float("inf")


@pytest.fixture
def time(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> PassingTime:
    """Return the time of the home and of the server."""
    return PassingTime(home, ollama, clock, freezer)


def seconds(server: OllamaStandIn, model: str = PRIMARY) -> float | None:
    """Return the keep_alive by which the server holds a model, None if it does not."""
    if (resident := server.loaded(model)) is None:
        return None
    return FOREVER if resident.seconds > 1e9 else resident.seconds


def applied(server: OllamaStandIn) -> list[Any]:
    """Return the keep_alive of each request that asks nothing of the model."""
    return [
        body.get("keep_alive")
        for body in server.sent("/api/generate", "/api/embed")
        if not body.get("prompt") and not body.get("input")
    ]


async def change(
    time: PassingTime, entry: ConfigEntry, kind: str = "conversation", **values: Any
) -> None:
    """Change settings of the first subentry of a kind, which reloads the entry."""
    subentry = next(iter(entry.get_subentries_of_type(kind)))
    time.hass.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, **values}
    )
    await time.settle()


# --- A setting that changes -------------------------------------------------------


async def test_a_changed_keep_alive_takes_effect_at_once(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Longer, shorter, never and at once, without a question."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "30s"})
    await say(time.hass, "Hello")
    await time.settle()
    loads = list(server.memory.loads)
    for text, length in (("-1", FOREVER), ("30s", 30), ("1h", 3600)):
        await change(time, entry, llm_keep_alive=text)
        assert seconds(server) == length
    assert applied(server) == [-1, "30s", "1h"]
    assert server.memory.loads == loads
    await change(time, entry, llm_keep_alive="0")
    assert seconds(server) is None
    assert server.memory.loads == loads


async def test_the_keep_alive_of_an_embedding_model(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Ollama takes it by /api/embed only."""
    server = time.server
    entry = await make_entry(
        server.url, conversation={}, embedding={"embedding_keep_alive": "30s"}
    )
    await time.settle()
    await call_action(time.hass, "reindex")
    await time.settle()
    assert seconds(server, EMBEDDING) == 30
    await change(time, entry, "embedding", embedding_keep_alive="-1")
    assert seconds(server, EMBEDDING) == FOREVER
    await change(time, entry, "embedding", embedding_keep_alive="0")
    assert seconds(server, EMBEDDING) is None


async def test_a_reload_that_changes_nothing_sends_nothing(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Nor does another setting, or another way to write the same time."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "30m"})
    await say(time.hass, "Hello")
    await time.settle()
    await time.hass.config_entries.async_reload(entry.entry_id)
    await time.settle()
    await change(time, entry, llm_temperature=0.5)
    await change(time, entry, llm_keep_alive="1800s")
    await time.advance(6)
    assert applied(server) == []


async def test_a_load_with_the_value_from_before_a_change(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """A loader from before the reload sends it; the new one is applied after it."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "-1"})
    await say(time.hass, "Hello")
    await time.settle()
    (loader,) = entry.runtime_data.loaders.values()
    await change(time, entry, llm_keep_alive="30s")
    await loader.async_load()
    assert seconds(server) == FOREVER
    await time.advance(6)
    assert seconds(server) == 30


async def test_a_change_loads_no_model(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """The next question brings the new value."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "30s"})
    await say(time.hass, "Hello")
    await time.advance(40)
    assert seconds(server) is None
    loads = list(server.memory.loads)
    await change(time, entry, llm_keep_alive="-1")
    await time.advance(6)
    assert applied(server) == []
    assert server.memory.loads == loads


async def test_a_change_reloads_no_model(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Another client has loaded it with another context."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "30m"})
    await say(time.hass, "Hello")
    await time.settle()
    resident = server.loaded(PRIMARY)
    assert resident
    resident.num_ctx = resident.requested_num_ctx = 2048
    loads = list(server.memory.loads)
    await change(time, entry, llm_keep_alive="-1")
    assert server.memory.loads == loads
    assert applied(server) == []


async def test_a_context_that_the_server_limits_is_the_own_one(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """The model is loaded with less than was asked for, and not by another client."""
    server = time.server
    entry = await make_entry(
        server.url, conversation={"llm_keep_alive": "30m", "llm_num_ctx": 1_000_000}
    )
    await say(time.hass, "Hello")
    await time.settle()
    await change(time, entry, llm_keep_alive="-1")
    assert seconds(server) == FOREVER
    assert server.memory.loads == [PRIMARY]


async def test_a_change_while_the_model_is_loaded_for_a_question(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """The question was sent with the value of before."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "30m"})
    await time.settle()
    server.load_seconds = 20
    turn = time.hass.async_create_task(say(time.hass, "Hello"))
    while not server.sent("/api/chat"):  # noqa: ASYNC110 - until it is there
        await asyncio.sleep(0)
    (subentry,) = entry.subentries.values()
    time.hass.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, "llm_keep_alive": "-1"}
    )
    for _ in range(2000):
        await asyncio.sleep(0)
    time.tick(20)
    await turn
    await time.settle()
    assert seconds(server) == 1800
    await time.advance(6)
    assert seconds(server) == FOREVER
    assert server.memory.loads == [PRIMARY]


async def test_a_server_that_fails_gets_the_change_when_it_is_back(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """Nothing breaks, and nothing is forgotten."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "30m"})
    await say(time.hass, "Hello")
    await time.settle()
    server.faults.append(Fault(status=500, body={"error": "broken"}))
    await change(time, entry, llm_keep_alive="-1")
    assert seconds(server) == 1800
    routes, server.routes = server.routes, {}
    await time.advance(61)
    server.routes = routes
    await time.advance(61)
    await time.advance(6)
    assert seconds(server) == FOREVER


async def test_an_action_has_priority_over_an_unchanged_setting(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """A reload does not take back what an automation has set."""
    server = time.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "5m"})
    await call_action(time.hass, "load_model", keep_alive="2h")
    await time.settle()
    await time.hass.config_entries.async_reload(entry.entry_id)
    await time.advance(6)
    assert seconds(server) == 7200
    await change(time, entry, llm_keep_alive="10m")
    assert seconds(server) == 600


async def test_lm_studio_unloads_for_0(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """Each kind of server gets the change in its own way."""
    async with LMStudioStandIn() as server:
        entry = await make_entry(
            server.url,
            conversation={"llm_model": "local-model", "llm_keep_alive": "-1"},
        )
        await say(home, "Hello")
        await home.async_block_till_done(wait_background_tasks=True)
        assert server.loaded["local-model"] == {"ttl": None}
        (subentry,) = entry.subentries.values()
        home.config_entries.async_update_subentry(
            entry, subentry, data={**subentry.data, "llm_keep_alive": "0"}
        )
        await home.async_block_till_done(wait_background_tasks=True)
        assert "local-model" not in server.loaded
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_lm_studio_loads_a_model_again_for_another_keep_alive(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """Its ttl is that of the request which loaded it: later ones change nothing."""
    async with LMStudioStandIn() as server:
        entry = await make_entry(
            server.url,
            conversation={"llm_model": "local-model", "llm_keep_alive": "-1"},
        )
        await say(home, "Hello")
        await home.async_block_till_done(wait_background_tasks=True)
        (subentry,) = entry.subentries.values()
        for text, ttl in (("5m", 300), ("10m", 600), ("-1", None), ("5m", 300)):
            home.config_entries.async_update_subentry(
                entry, subentry, data={**subentry.data, "llm_keep_alive": text}
            )
            await home.async_block_till_done(wait_background_tasks=True)
            assert server.loaded["local-model"] == {"ttl": ttl}
            await say(home, "Hello")
            assert server.loaded["local-model"] == {"ttl": ttl}
        loads = len(server.sent("/api/v1/models/unload"))
        await call_action(home, "load_model")
        assert len(server.sent("/api/v1/models/unload")) == loads
        await call_action(home, "load_model", keep_alive="2h")
        assert server.loaded["local-model"] == {"ttl": 7200}
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_lm_studio_is_not_unloaded_during_a_turn(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """The answer would break off: the model is loaded again after it."""
    async with LMStudioStandIn() as server:
        entry = await make_entry(
            server.url,
            conversation={"llm_model": "local-model", "llm_keep_alive": "-1"},
        )
        await say(time.hass, "Hello")
        await time.settle()
        use = model_uses(time.hass).async_get(server.url, "local-model")
        use.begin_turn()
        with use.count_request():
            await change(time, entry, llm_keep_alive="5m")
            await time.advance(6)
            assert server.loaded["local-model"] == {"ttl": None}
        use.end_turn()
        await time.advance(61)
        await time.advance(6)
        assert server.loaded["local-model"] == {"ttl": 300}
        assert await time.hass.config_entries.async_unload(entry.entry_id)


# --- A model that several roles use -----------------------------------------------


async def two_roles(
    time: PassingTime, make_entry: MakeEntry, primary: str, external: str
) -> ConfigEntry:
    """Return an entry whose agent and external LLM use one model, by two names."""
    # The stand-in finds both names, as Ollama does.
    return await make_entry(
        time.server.url,
        conversation={"llm_model": "nomic-chat", "llm_keep_alive": primary},
        external_llm={
            "external_llm_model": "nomic-chat:latest",
            "external_llm_keep_alive": external,
        },
    )


@pytest.mark.parametrize(
    ("primary", "external", "held"),
    [("-1", "5s", FOREVER), ("5s", "-1", FOREVER), ("0", "5m", 300), ("0", "0", None)],
)
async def test_the_longest_of_those_who_share_a_model_holds(
    time: PassingTime,
    make_entry: MakeEntry,
    primary: str,
    external: str,
    held: float | None,
) -> None:
    """The last request counts on the server, so each one sends the longest value."""
    server = time.server
    server.models["nomic-chat:latest"] = replace(
        server.models[PRIMARY], name="nomic-chat:latest"
    )
    await two_roles(time, make_entry, primary, external)
    server.brain.replies.extend(
        [
            Reply(tools=(ToolUse("home_agent__ask_external_llm", {"prompt": "?"}),)),
            Reply("42"),
            Reply("It is 42."),
        ]
    )
    await say(time.hass, "Ask the other one")
    await time.settle()
    sent = [body["keep_alive"] for body in server.sent("/api/chat")]
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert seconds(server, "nomic-chat:latest") == held


async def test_entries_share_a_model(time: PassingTime, make_entry: MakeEntry) -> None:
    """Whoever asks; and what remains counts when one of them goes."""
    server = time.server
    first = await make_entry(server.url, conversation={"llm_keep_alive": "-1"})
    second = await make_entry(
        f"{server.url}/v1", conversation={"llm_keep_alive": "10m"}
    )
    agents = sorted(time.hass.states.async_entity_ids("conversation"))
    for agent_id in agents:
        if agent_id.startswith("conversation.agent"):
            await say(time.hass, "Hello", agent_id=agent_id)
    await time.settle()
    assert [body["keep_alive"] for body in server.sent("/api/chat")] == [-1, -1]
    # A reload of one of them is no change.
    await time.hass.config_entries.async_reload(first.entry_id)
    await time.advance(6)
    assert applied(server) == []
    assert await time.hass.config_entries.async_unload(first.entry_id)
    await time.advance(6)
    assert applied(server) == ["10m"]
    assert seconds(server) == 600
    assert await time.hass.config_entries.async_setup(first.entry_id)
    await time.settle()
    assert seconds(server) == FOREVER
    time.hass.config_entries.async_remove_subentry(first, next(iter(first.subentries)))
    await time.advance(6)
    assert seconds(server) == 600
    assert await time.hass.config_entries.async_unload(second.entry_id)


async def test_the_device_says_which_keep_alive_holds(
    time: PassingTime, make_entry: MakeEntry
) -> None:
    """And which role has it."""
    server = time.server
    await make_entry(
        server.url,
        conversation={"llm_keep_alive": "5m"},
        external_llm={
            "external_llm_model": PRIMARY,
            "external_llm_keep_alive": "-1",
        },
    )
    await say(time.hass, "Hello")
    await time.advance(3)

    def shown(device: str) -> tuple[str, list[str]]:
        state = time.hass.states.get(f"sensor.{device}_unloads_at")
        assert state
        found = state.attributes
        return found["keep_alive_in_effect"], found["kept_by"]

    assert shown("agent") == ("-1", ["External Llm"])
    assert shown("external_llm") == ("-1", ["External Llm"])
    await call_action(time.hass, "load_model", keep_alive="2h")
    await time.advance(3)
    assert shown("agent") == ("2h", [])


async def test_the_log_shows_the_value_that_is_sent(
    time: PassingTime, make_entry: MakeEntry, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the one that the role has."""
    caplog.set_level("DEBUG", "custom_components.home_agent")
    await make_entry(
        time.server.url,
        conversation={"llm_keep_alive": "5m"},
        external_llm={"external_llm_model": PRIMARY, "external_llm_keep_alive": "1h"},
    )
    await say(time.hass, "Hello")
    (line,) = (
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("llm request to")
    )
    assert line.endswith("keep_alive 1h")

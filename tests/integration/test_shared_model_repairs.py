"""Repairs of models that are shared: by several roles, and with other clients."""

from dataclasses import replace
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.config_entries import (
    SIGNAL_CONFIG_ENTRY_CHANGED,
    ConfigEntryChange,
    ConfigEntryDisabler,
)
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.helpers.dispatcher import async_dispatcher_send
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry, call_action, say
from tests.servers import ManualClock, OllamaStandIn, OpenAIStandIn
from tests.servers.stand_in import Fault

from .test_repairs import PRIMARY, Day, data_of, fix, issue

EMBEDDING = "nomic-embed-text:latest"


@pytest.fixture
def day(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> Day:
    """Return a day of questions."""
    return Day(home, ollama, clock, freezer)


async def use_elsewhere(day: Day, keep_alive: str | int, model: str = PRIMARY) -> None:
    """Let another client use a model with a keep_alive of its own."""
    session = async_get_clientsession(day.hass)
    body: dict[str, Any] = {"model": model, "prompt": "x", "stream": False}
    body["keep_alive"] = keep_alive
    if resident := day.server.loaded(model):
        body["options"] = {"num_ctx": resident.num_ctx}
    async with session.post(f"{day.server.url}/api/generate", json=body) as answer:
        assert answer.status == 200


def placeholders(hass: HomeAssistant, name: str) -> dict[str, str]:
    """Return the placeholders of the one issue of a name."""
    reported = issue(hass, name)
    assert reported
    assert reported.translation_placeholders
    return reported.translation_placeholders


# --- Another client ---------------------------------------------------------------


@pytest.mark.parametrize("wait", [0.2, 5], ids=["gone before the poll", "seen"])
async def test_another_client_shortens_the_keep_alive(
    day: Day, make_entry: MakeEntry, wait: float
) -> None:
    """Reported also if the model is gone before Home Agent polls the server."""
    await make_entry(day.server.url, conversation={"llm_keep_alive": "-1"})
    for turn in range(3):
        assert issue(day.hass, "not_held") is None, turn
        await day.ask()
        day.tick(0.1)
        await use_elsewhere(day, "3s")
        day.tick(wait)
        await day.advance(61)
    found = placeholders(day.hass, "not_held")
    assert found["keep_alive"] == "-1"
    assert found["held"].startswith("≤ ")


async def test_another_client_keeps_the_model_longer(
    day: Day, make_entry: MakeEntry
) -> None:
    """The issue names for how long; it is cleared once a keep_alive has held."""
    await make_entry(day.server.url, conversation={"llm_keep_alive": "5m"})
    for _ in range(3):
        await day.ask()
        await use_elsewhere(day, -1)
        await day.advance(61)
    assert placeholders(day.hass, "not_held")["held"] == "-1"
    for _ in range(2):
        await day.ask()
        await day.advance(61)
    assert issue(day.hass, "not_held") is None


async def test_another_client_with_the_same_keep_alive(
    day: Day, make_entry: MakeEntry
) -> None:
    """The model stays longer after it than after our request, as it should."""
    await make_entry(day.server.url, conversation={"llm_keep_alive": "5m"})
    for _ in range(4):
        await day.ask()
        await day.advance(61)
        await use_elsewhere(day, "5m")
        await day.advance(61)
    assert issue(day.hass, "not_held") is None


async def test_an_action_is_no_other_client(day: Day, make_entry: MakeEntry) -> None:
    """Home Agent itself has set another value after each turn."""
    await make_entry(day.server.url, conversation={"llm_keep_alive": "5m"})
    for _ in range(4):
        await day.ask()
        await call_action(day.hass, "load_model", keep_alive="2h")
        await day.advance(61)
    assert issue(day.hass, "not_held") is None


async def test_failed_turns_are_not_compared(day: Day, make_entry: MakeEntry) -> None:
    """The server may not even have got the request."""
    await make_entry(day.server.url, conversation={"llm_keep_alive": "1h"})
    await day.ask()
    for _ in range(4):
        await day.advance(1200)
        day.server.faults.append(Fault(hang_up_after=200))
        await day.ask()
        await day.advance(10)
    assert issue(day.hass, "not_held") is None


async def test_the_former_embedding_model_answers(
    day: Day, make_entry: MakeEntry
) -> None:
    """Its requests say nothing of the model that is being indexed with."""
    new = replace(day.server.models[EMBEDDING], name="new:latest")
    day.server.models[new.name] = new
    entry = await make_entry(
        day.server.url, conversation={}, embedding={"embedding_keep_alive": "1h"}
    )
    await call_action(day.hass, "reindex")
    (subentry,) = entry.get_subentries_of_type("embedding")
    del day.server.models["new:latest"]
    day.hass.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, "embedding_model": "new"}
    )
    await day.settle()
    day.server.requests.clear()
    for _ in range(4):
        await call_action(day.hass, "search_entities", query="a lamp")
        await day.advance(61)
    values = {
        body["keep_alive"]
        for body in day.server.sent("/api/embed")
        if body["model"] != "new"
    }
    assert values == {"1m"}
    assert issue(day.hass, "not_held") is None
    use = entry.runtime_data.residencies[subentry.subentry_id].use
    assert use.last_answered is None


# --- Roles that share a model -----------------------------------------------------


async def test_roles_with_different_keep_alives(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """Across entries and names; a click sets the longer one."""
    day.server.models["chat:latest"] = replace(
        day.server.models[PRIMARY], name="chat:latest"
    )
    await make_entry(
        day.server.url, conversation={"llm_model": "chat", "llm_keep_alive": "1h"}
    )
    shorter = await make_entry(
        f"{day.server.url}/v1",
        conversation={"llm_model": "chat:latest", "llm_keep_alive": "5m"},
    )
    found = placeholders(day.hass, "keep_alive_differs")
    assert (found["keep_alive"], found["longest"]) == ("5m", "1h")
    reported = issue(day.hass, "keep_alive_differs")
    assert reported
    form = await fix(day.hass, hass_client, reported, {"keep_alive": "1h"})
    assert form["data_schema"][0]["default"] == "1h"
    assert data_of(shorter)["llm_keep_alive"] == "1h"
    assert issue(day.hass, "keep_alive_differs") is None


async def test_a_role_that_goes_ends_the_difference(
    day: Day, make_entry: MakeEntry
) -> None:
    """Nobody has a longer keep_alive any more."""
    entry = await make_entry(
        day.server.url,
        conversation={"llm_keep_alive": "5m"},
        external_llm={
            "external_llm_model": PRIMARY,
            "external_llm_keep_alive": "-1",
        },
    )
    assert issue(day.hass, "keep_alive_differs")
    day.hass.config_entries.async_remove_subentry(entry, "external")
    await day.settle()
    assert issue(day.hass, "keep_alive_differs") is None


async def test_sizes_of_context_in_two_entries(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """The fix sets one size in both, which is no more than the model can hold."""
    day.server.models["chat:latest"] = replace(
        day.server.models[PRIMARY], name="chat:latest", context_length=8192
    )
    first = await make_entry(
        day.server.url, conversation={"llm_model": "chat", "llm_num_ctx": 4096}
    )
    second = await make_entry(
        f"{day.server.url}/v1",
        conversation={"llm_model": "chat:latest", "llm_num_ctx": 16384},
    )
    await day.settle()
    entries = (first, second)
    (subentry,) = first.subentries.values()
    registered = {
        data["num_ctx"]: issue_id
        for issue_id, data in issues(day.hass, "num_ctx").items()
    }
    assert set(registered) == {8192}
    reported = issue_of(day.hass, f"num_ctx_{subentry.subentry_id}")
    await fix(day.hass, hass_client, reported, {"num_ctx": 8192})
    assert [data_of(entry)["llm_num_ctx"] for entry in entries] == [8192, 8192]
    assert not issues(day.hass, "num_ctx")


async def test_a_size_that_is_only_too_large(day: Day, make_entry: MakeEntry) -> None:
    """No other user asks for another size, so that nothing reloads the model."""
    day.server.models[PRIMARY] = replace(
        day.server.models[PRIMARY], context_length=8192
    )
    entry = await make_entry(day.server.url, conversation={"llm_num_ctx": 16384})
    await day.settle()
    await day.ask()
    loader = next(iter(entry.runtime_data.loaders.values()))
    assert loader.residency.use.max_context == 8192
    assert issue(day.hass, "num_ctx") is None


def core_entry(day: Day, model: str, num_ctx: int) -> MockConfigEntry:
    """Return an entry of Home Assistant's own Ollama integration."""
    core = MockConfigEntry(
        domain="ollama",
        data={"url": day.server.url},
        subentries_data=[
            {
                "subentry_type": "conversation",
                "title": "Their agent",
                "unique_id": None,
                "data": {"model": model, "num_ctx": num_ctx},
            }
        ],
    )
    core.add_to_hass(day.hass)
    return core


async def test_the_other_side_is_mended(day: Day, make_entry: MakeEntry) -> None:
    """The issue goes when the user changes or disables the other integration."""
    core = core_entry(day, PRIMARY.upper(), 4096)
    await make_entry(day.server.url, conversation={})
    assert issue(day.hass, "num_ctx")
    (subentry,) = core.subentries.values()

    def change(num_ctx: int) -> None:
        day.hass.config_entries.async_update_subentry(
            core, subentry, data={"model": PRIMARY, "num_ctx": num_ctx}
        )

    change(8192)
    await day.settle()
    assert issue(day.hass, "num_ctx") is None
    change(2048)
    await day.settle()
    assert issue(day.hass, "num_ctx")
    await day.hass.config_entries.async_set_disabled_by(
        core.entry_id, ConfigEntryDisabler.USER
    )
    # Home Assistant sends this when the state of a loaded entry changes; 2026.11 also
    # sends it for an entry that is not loaded, such as this one.
    async_dispatcher_send(
        day.hass, SIGNAL_CONFIG_ENTRY_CHANGED, ConfigEntryChange.UPDATED, core
    )
    await day.settle()
    assert issue(day.hass, "num_ctx") is None


# --- Prompts and contexts ---------------------------------------------------------


async def test_two_repairs_do_not_undo_each_other(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """A prompt that needs a large context: the other side is to be changed."""
    core_entry(day, PRIMARY, 2048)
    entry = await make_entry(
        day.server.url, conversation={"llm_num_ctx": 2048, "prompt": "word " * 3000}
    )
    assert issue(day.hass, "num_ctx") is None
    await day.ask()
    reported = issue(day.hass, "prompt_too_long")
    assert reported
    assert reported.data
    size = reported.data["num_ctx"]
    await fix(day.hass, hass_client, reported, {"num_ctx": size})
    assert data_of(entry)["llm_num_ctx"] == size
    await day.ask()
    assert issue(day.hass, "prompt_too_long") is None
    reported = issue(day.hass, "num_ctx")
    assert reported
    assert not reported.is_fixable
    assert reported.translation_key == "num_ctx_by_hand"


@pytest.mark.parametrize(
    ("words", "fixed"), [(2300, 4096), (6000, None)], ids=["it can", "it cannot"]
)
async def test_no_more_than_the_model_can_hold(
    day: Day, make_entry: MakeEntry, words: int, fixed: int | None
) -> None:
    """A larger context is suggested only if the model was trained for it."""
    day.server.models[PRIMARY] = replace(
        day.server.models[PRIMARY], context_length=4096
    )
    await make_entry(
        day.server.url,
        conversation={
            "llm_num_ctx": 2048,
            "prompt": "word " * words,
            "llm_hass_api": [],
        },
    )
    await day.ask()
    reported = issue(day.hass, "prompt_too_long")
    assert reported
    assert reported.is_fixable is (fixed is not None)
    assert (reported.data or {}).get("num_ctx") == fixed


async def test_a_context_that_the_server_limits(
    day: Day, make_entry: MakeEntry
) -> None:
    """More was asked for than the model was trained for: its own limit counts."""
    day.server.models[PRIMARY] = replace(
        day.server.models[PRIMARY], context_length=1024
    )
    await make_entry(
        day.server.url,
        conversation={"llm_num_ctx": 8192, "prompt": "word " * 3000},
    )
    await day.ask()
    found = placeholders(day.hass, "prompt_too_long")
    assert found["limit"] == "1024"
    reported = issue(day.hass, "prompt_too_long")
    assert reported
    assert not reported.is_fixable


async def test_estimates_raise_nothing(day: Day, make_entry: MakeEntry) -> None:
    """Many characters, but few tokens as the server counts them."""
    await make_entry(
        day.server.url,
        conversation={
            "llm_num_ctx": 2048,
            # The stand-in counts a word as a token, and no blanks.
            "prompt": f"word{' ' * 12}" * 600,
            "llm_hass_api": [],
        },
    )
    await day.ask()
    assert day.server.sent("/api/chat")
    assert issue(day.hass, "prompt_too_long") is None


# --- A keep_alive that is refused -------------------------------------------------


async def test_a_keep_alive_is_refused_at_run_time(
    home: HomeAssistant, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """With the server's words; the fix removes the setting."""
    async with OpenAIStandIn(strictness="openai") as server:
        entry = await make_entry(
            server.url,
            conversation={"llm_model": "local-model", "llm_keep_alive": "1h"},
        )
        assert issue(home, "keep_alive_refused") is None
        await say(home, "Hello")
        found = placeholders(home, "keep_alive_refused")
        assert found["keep_alive"] == "1h"
        assert "keep_alive" in found["error"]
        reported = issue(home, "keep_alive_refused")
        assert reported
        await fix(home, hass_client, reported, {})
        assert "llm_keep_alive" not in data_of(entry)
        assert issue(home, "keep_alive_refused") is None
        await say(home, "Hello")
        assert issue(home, "keep_alive_refused") is None
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_a_value_that_an_ollama_refuses(day: Day, make_entry: MakeEntry) -> None:
    """Without secrets, and only until the server takes it."""
    await make_entry(
        day.server.url,
        conversation={"llm_keep_alive": "1h"},
        llm_api_key="sk-secret-1234567",
    )
    await day.settle()
    text = 'time: invalid duration "1h" for sk-secret-1234567'
    day.server.faults.append(Fault(status=400, body={"error": text}))
    await day.ask()
    error = placeholders(day.hass, "keep_alive_refused")["error"]
    assert error.startswith('time: invalid duration "1h"')
    assert "secret" not in error
    await day.ask()
    assert issue(day.hass, "keep_alive_refused") is None


def issues(hass: HomeAssistant, name: str) -> dict[str, dict[str, Any]]:
    """Return the data of all issues of a name, by their ids."""
    return {
        issue_id: item.data or {}
        for (domain, issue_id), item in ir.async_get(hass).issues.items()
        if domain == DOMAIN and issue_id.startswith(f"{name}_") and item.active
    }


def issue_of(hass: HomeAssistant, issue_id: str) -> ir.IssueEntry:
    """Return an issue by its id."""
    found = ir.async_get(hass).async_get_issue(DOMAIN, issue_id)
    assert found
    return found

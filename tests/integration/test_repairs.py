"""What is reported of the residency of models, and how a click fixes it."""

import asyncio
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
)
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.diagnostics import (
    async_get_config_entry_diagnostics,
)
from tests.conftest import MakeEntry, say
from tests.passing_time import PassingTime
from tests.servers import ManualClock, OllamaStandIn, StandInModel
from tests.servers.ollama import GIB
from tests.servers.others import LlamaCppStandIn, LMStudioStandIn

PRIMARY = "llama3.2:3b"
EXTERNAL = "llama3.2:70b"


class Day(PassingTime):
    """A day of questions."""

    async def ask(self, agent_id: str = "conversation.agent") -> None:
        """Ask, and wait as long as a load takes."""
        turn = self.hass.async_create_task(say(self.hass, "Hello", agent_id=agent_id))
        for _ in range(2000):
            if turn.done():
                break
            await asyncio.sleep(0)
        else:
            self.tick(self.server.load_seconds)
        await turn
        await self.hass.async_block_till_done(wait_background_tasks=True)


@pytest.fixture
def day(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> Day:
    """Return a day."""
    return Day(home, ollama, clock, freezer)


def issue(hass: HomeAssistant, name: str) -> ir.IssueEntry | None:
    """Return the one issue of a name."""
    found = [
        item
        for (domain, issue_id), item in ir.async_get(hass).issues.items()
        if domain == DOMAIN and issue_id.startswith(name) and item.active
    ]
    assert len(found) <= 1
    return found[0] if found else None


async def signed_in(hass: HomeAssistant, hass_client: ClientSessionGenerator) -> Any:
    """Return a web client whose token is of today's date."""
    assert await async_setup_component(hass, "repairs", {})
    token = next(
        token
        for user in await hass.auth.async_get_users()
        for token in user.refresh_tokens.values()
        if user.is_admin and not user.system_generated
    )
    return await hass_client(hass.auth.async_create_access_token(token))


async def fix(
    hass: HomeAssistant,
    hass_client: ClientSessionGenerator,
    reported: ir.IssueEntry,
    *values: dict[str, Any],
) -> dict[str, Any]:
    """Go through the fix flow as the web page does; return its form."""
    client = await signed_in(hass, hass_client)
    response = await client.post(
        "/api/repairs/issues/fix",
        json={"handler": DOMAIN, "issue_id": reported.issue_id},
    )
    form: dict[str, Any] = await response.json()
    assert form["type"] == "form", form
    answer = form
    for value in values:
        response = await client.post(
            f"/api/repairs/issues/fix/{form['flow_id']}", json=value
        )
        answer = await response.json()
    assert answer["type"] == "create_entry", answer
    await hass.async_block_till_done(wait_background_tasks=True)
    return form


def data_of(entry: ConfigEntry, kind: str = "conversation") -> dict[str, Any]:
    """Return the data of an entry's first subentry of a kind."""
    return dict(next(iter(entry.get_subentries_of_type(kind))).data)


async def test_a_day_with_a_cadence(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """A task every 60 minutes and a keep_alive of 1h: cold each time, until fixed."""
    server = day.server
    entry = await make_entry(server.url, conversation={"llm_keep_alive": "1h"})
    server.load_seconds = 8
    start = day.now()

    async def tasks(hours: int) -> int:
        """Ask every hour; return how often the model had to be loaded."""
        server.memory.loads.clear()
        for _ in range(hours):
            await day.ask()
            passed = (day.now() - start) % 3600
            await day.advance(3600 - passed)
        return len(server.memory.loads)

    # A use that waited for the load ends later, and the next one is just in time;
    # that one ends at once, and the one after it comes too late.
    loads = await tasks(24)
    assert loads >= 12
    (model,) = (await async_get_config_entry_diagnostics(day.hass, entry))["models"]
    table = {row["keep_alive"]: row for row in model["adviser"]["candidates"]}
    print()
    for row in table.values():
        print(" | ".join(f"{name}: {value}" for name, value in row.items()))
    # The very first load is no fault of the keep_alive.
    assert table["1h"]["cold_starts"] == loads - 1
    assert table["1h"]["seconds_waited"] == 8 * (loads - 1)
    assert table["90m"]["cold_starts"] == table["-1"]["cold_starts"] == 0
    reported = issue(day.hass, "cadence")
    assert reported
    assert reported.translation_placeholders
    assert reported.translation_placeholders["minutes"] == "60"
    assert reported.translation_placeholders["seconds"] == "8"
    form = await fix(day.hass, hass_client, reported, {"keep_alive": "90m"})
    (field,) = form["data_schema"]
    assert (field["name"], field["default"]) == ("keep_alive", "90m")
    assert data_of(entry)["llm_keep_alive"] == "90m"
    assert issue(day.hass, "cadence") is None
    assert await tasks(24) <= 1
    assert issue(day.hass, "cadence") is None


async def test_the_fix_checks_what_is_written(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """The error is at the field, and nothing is lost."""
    day.server.load_seconds = 8
    entry = await make_entry(day.server.url, conversation={"llm_keep_alive": "5m"})
    for _ in range(8):
        await day.ask()
        await day.advance(1200)
    reported = issue(day.hass, "cadence")
    assert reported
    client = await signed_in(day.hass, hass_client)
    response = await client.post(
        "/api/repairs/issues/fix",
        json={"handler": DOMAIN, "issue_id": reported.issue_id},
    )
    form = await response.json()
    response = await client.post(
        f"/api/repairs/issues/fix/{form['flow_id']}", json={"keep_alive": "30"}
    )
    assert (await response.json())["errors"] == {"keep_alive": "invalid_keep_alive"}
    assert data_of(entry)["llm_keep_alive"] == "5m"
    assert form["description_placeholders"]["minutes"] == "20"


async def test_the_history_outlives_a_restart(
    day: Day, make_entry: MakeEntry, hass_storage: dict[str, Any]
) -> None:
    """Written within a minute; the issue is there again at once."""
    day.server.load_seconds = 8
    await make_entry(day.server.url, conversation={"llm_keep_alive": "5m"})
    for _ in range(8):
        await day.ask()
        await day.advance(1200)
    stored = hass_storage["home_agent.model_uses"]["data"]
    (history,) = stored.values()
    assert len(history["uses"]) == 8
    reported = issue(day.hass, "cadence")
    assert reported
    assert reported.is_persistent


async def test_a_cadence_of_one_agent(day: Day, make_entry: MakeEntry) -> None:
    """Only the agent that is used is named, and only while the uses are recent."""
    day.server.load_seconds = 8
    await make_entry(day.server.url, conversation={"llm_keep_alive": "5m"})
    other = await make_entry(
        day.server.url, conversation={"llm_keep_alive": "10m", "prompt": "Be short."}
    )
    for _ in range(8):
        await day.ask()
        await day.advance(1200)
    reported = issue(day.hass, "cadence")
    assert reported
    assert reported.translation_placeholders
    # The longest one of the two agents is what the server gets.
    assert reported.translation_placeholders["keep_alive"] == "10m"
    # Nothing more comes of the other agent after a reload.
    await day.hass.config_entries.async_reload(other.entry_id)
    await day.settle()
    assert issue(day.hass, "cadence") == reported
    for _ in range(26):
        await day.advance(3600)
    assert issue(day.hass, "cadence") is None


async def test_sizes_of_context_that_fight(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """Two of our roles: the larger one is taken for both."""
    entry = await make_entry(
        day.server.url,
        conversation={"llm_num_ctx": 4096},
        external_llm={"external_llm_model": PRIMARY, "external_llm_num_ctx": 16384},
    )
    reported = issue(day.hass, "num_ctx")
    assert reported
    assert reported.translation_placeholders
    assert reported.translation_placeholders["others"] == "External Llm: 16384"
    await fix(day.hass, hass_client, reported, {"num_ctx": 16384})
    assert data_of(entry)["llm_num_ctx"] == 16384
    assert data_of(entry, "external_llm")["external_llm_num_ctx"] == 16384
    assert issue(day.hass, "num_ctx") is None


async def test_home_assistants_own_ollama(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """Its size cannot be changed here, so ours is."""
    core = MockConfigEntry(
        domain="ollama",
        data={"url": f"{day.server.url}/"},
        subentries_data=[
            {
                "subentry_type": "conversation",
                "title": "Their agent",
                "unique_id": None,
                "data": {"model": PRIMARY, "num_ctx": 4096},
            }
        ],
    )
    core.add_to_hass(day.hass)
    entry = await make_entry(day.server.url, conversation={})
    reported = issue(day.hass, "num_ctx")
    assert reported
    assert reported.translation_placeholders
    assert "Ollama, Their agent: 4096" in reported.translation_placeholders["others"]
    await fix(day.hass, hass_client, reported, {"num_ctx": 4096})
    assert data_of(entry)["llm_num_ctx"] == 4096
    assert issue(day.hass, "num_ctx") is None


async def test_models_that_push_each_other_out(
    home: HomeAssistant,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
    make_entry: MakeEntry,
) -> None:
    """Seen twice in a day; how to make room cannot be clicked."""
    models = [StandInModel(PRIMARY, size=5 * GIB), StandInModel("big", size=6 * GIB)]
    async with OllamaStandIn(models, clock=clock, capacity=8 * GIB) as server:
        day = Day(home, server, clock, freezer)
        entry = await make_entry(
            server.url,
            conversation={"llm_keep_alive": "1h"},
            external_llm={"external_llm_model": "big"},
        )
        for _ in range(2):
            await day.ask()
            await day.advance(61)
            await home.services.async_call(
                "button", "press", {"entity_id": "button.external_llm_load"}, True
            )
            await day.advance(61)
        reported = issue(home, "pushed_out")
        assert reported
        assert not reported.is_fixable
        assert reported.translation_placeholders
        assert reported.translation_placeholders["others"] == "big"
        assert reported.translation_placeholders["times"] == "2"
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_lm_studios_auto_evict(
    home: HomeAssistant,
    make_entry: MakeEntry,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
    hass_client: ClientSessionGenerator,
) -> None:
    """Which a click ends for all models: explicit loads are spared."""
    async with LMStudioStandIn() as server:
        server.models = [*server.models, "other-embedding"]
        day = Day(home, OllamaStandIn(), clock, freezer)
        entry = await make_entry(
            server.url,
            conversation={"llm_model": "local-model", "llm_keep_alive": "1h"},
            external_llm={
                "external_llm_model": "local-embedding",
                "external_llm_keep_alive": "5m",
            },
            embedding={
                "embedding_model": "other-embedding",
                "embedding_keep_alive": "5m",
            },
        )
        await day.advance(61)
        for model in ("local-embedding", "other-embedding"):
            assert issue(home, "pushed_out") is None
            await day.ask()
            await day.advance(61)
            server.on_question({"model": model, "ttl": 300})
            await day.advance(61)
        reported = issue(home, "pushed_out")
        assert reported
        assert reported.translation_placeholders
        others = reported.translation_placeholders["others"]
        assert others == "local-embedding, other-embedding"
        await fix(home, hass_client, reported, {"keep_alive": "-1"})
        assert data_of(entry)["llm_keep_alive"] == "-1"
        external = data_of(entry, "external_llm")
        assert external["external_llm_keep_alive"] == "-1"
        assert data_of(entry, "embedding")["embedding_keep_alive"] == "-1"
        await day.ask()
        server.on_question({"model": "local-embedding", "ttl": 300})
        assert server.loaded["local-model"] == {"ttl": None}
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_a_setting_without_effect(
    home: HomeAssistant, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """Left over from another server; the fix takes it out."""
    async with LlamaCppStandIn() as server:
        entry = await make_entry(
            server.url,
            conversation={"llm_model": "local-model", "llm_keep_alive": "1h"},
        )
        await home.async_block_till_done(wait_background_tasks=True)
        reported = issue(home, "no_effect")
        assert reported
        await fix(home, hass_client, reported, {})
        assert "llm_keep_alive" not in data_of(entry)
        assert issue(home, "no_effect") is None
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_another_program_sets_another_value(
    day: Day, make_entry: MakeEntry
) -> None:
    """Told after three turns in a row; taken back when it holds again."""
    await make_entry(day.server.url, conversation={"llm_keep_alive": "1h"})
    honored = day.server.memory._start_timer

    def start_timer(resident: Any) -> None:
        resident.seconds = 300
        honored(resident)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(day.server.memory, "_start_timer", start_timer)
        for turn in range(4):
            assert (issue(day.hass, "not_held") is not None) is (turn >= 3)
            await day.ask()
            await day.advance(10)
    await day.ask()
    await day.advance(61)
    await day.ask()
    assert issue(day.hass, "not_held") is None


async def test_a_prompt_that_does_not_fit(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """Raised when the server refuses it; the fix makes room."""
    entry = await make_entry(
        day.server.url,
        conversation={"llm_num_ctx": 1024, "prompt": "word " * 3000},
    )
    await say(day.hass, "Hello")
    reported = issue(day.hass, "prompt_too_long")
    assert reported
    assert reported.translation_placeholders
    assert reported.translation_placeholders["limit"] == "1024"
    assert int(reported.translation_placeholders["tokens"]) > 3000
    assert reported.data
    size = reported.data["num_ctx"]
    assert size in (8192, 16384)
    await fix(day.hass, hass_client, reported, {"num_ctx": size})
    assert data_of(entry)["llm_num_ctx"] == size
    await day.ask()
    assert issue(day.hass, "prompt_too_long") is None


@pytest.mark.parametrize("size", [3072, 4096])
async def test_one_overlong_question(
    day: Day, make_entry: MakeEntry, size: int
) -> None:
    """It is no reason to change a setting; a prompt that never fits still is."""
    entry = await make_entry(day.server.url, conversation={"llm_num_ctx": size})
    first = await say(day.hass, "Hello")
    pasted = "word " * 3000
    for _ in range(2):
        await say(day.hass, f"Hello {pasted}", first.conversation_id)
        assert issue(day.hass, "prompt_too_long") is None
    (agent,) = entry.get_subentries_of_type("conversation")
    day.hass.config_entries.async_update_subentry(
        entry, agent, data={**agent.data, "prompt": pasted * 2}
    )
    await day.settle()
    await say(day.hass, f"Hello {pasted}")
    assert issue(day.hass, "prompt_too_long")


async def test_a_missing_model_is_pulled(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """In a click, with its progress; what the server says if it fails."""
    external = {"external_llm_model": "new", "external_llm_warm_up": True}
    await make_entry(day.server.url, conversation={}, external_llm=external)
    await day.hass.async_block_till_done(wait_background_tasks=True)
    reported = issue(day.hass, "model_missing")
    assert reported
    assert reported.is_fixable
    client = await signed_in(day.hass, hass_client)

    async def pull() -> dict[str, Any]:
        response = await client.post(
            "/api/repairs/issues/fix",
            json={"handler": DOMAIN, "issue_id": reported.issue_id},
        )
        answer: dict[str, Any] = await response.json()
        assert answer["description_placeholders"]["model"] == "new"
        path = f"/api/repairs/issues/fix/{answer['flow_id']}"
        day.server.hold()
        answer = await (await client.post(path, json={})).json()
        assert (answer["type"], answer["progress_action"]) == ("progress", "pull")
        day.server.release()
        for _ in range(200):
            await asyncio.sleep(0)
        await day.hass.async_block_till_done(wait_background_tasks=True)
        after: dict[str, Any] = await (await client.get(path)).json()
        return after

    answer = await pull()
    assert (answer["type"], answer["reason"]) == ("abort", "pull_failed")
    assert "file does not exist" in answer["description_placeholders"]["error"]
    assert issue(day.hass, "model_missing")
    day.server.library["new"] = StandInModel("new")
    assert (await pull())["type"] == "create_entry"
    assert issue(day.hass, "model_missing") is None
    await day.hass.async_block_till_done(wait_background_tasks=True)
    assert day.server.memory.loads == ["new"]


async def test_issues_of_what_is_gone(day: Day, make_entry: MakeEntry) -> None:
    """They go with their subentry, and with their entry."""
    external = {"external_llm_model": "gone", "external_llm_warm_up": True}
    entry = await make_entry(day.server.url, conversation={}, external_llm=external)
    await day.hass.async_block_till_done(wait_background_tasks=True)
    assert issue(day.hass, "model_missing")
    day.hass.config_entries.async_remove_subentry(entry, "external")
    await day.hass.async_block_till_done(wait_background_tasks=True)
    assert issue(day.hass, "model_missing") is None
    day.server.models.clear()
    day.server.models["other"] = StandInModel("other")
    await day.hass.config_entries.async_reload(entry.entry_id)
    await day.hass.async_block_till_done(wait_background_tasks=True)
    assert EXTERNAL not in day.server.models
    await day.hass.config_entries.async_remove(entry.entry_id)
    assert issue(day.hass, "model_missing") is None

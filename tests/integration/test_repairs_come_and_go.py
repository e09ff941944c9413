"""When repairs appear and disappear, in every state of their entry."""

from http import HTTPStatus
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.config_entries import ConfigEntryDisabler, ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry, call_action, say, speech
from tests.integration.test_repairs import (
    EXTERNAL,
    PRIMARY,
    Day,
    data_of,
    issue,
    signed_in,
)
from tests.servers import ManualClock, OllamaStandIn, StandInModel


@pytest.fixture
def day(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> Day:
    """Return a day."""
    return Day(home, ollama, clock, freezer)


def raised(hass: HomeAssistant, name: str) -> list[dict[str, str]]:
    """Return the placeholders of all issues of a name."""
    return [
        dict(item.translation_placeholders or {})
        for (domain, issue_id), item in ir.async_get(hass).issues.items()
        if domain == DOMAIN and issue_id.startswith(name) and item.active
    ]


async def push_out(day: Day, *names: str) -> None:
    """Let another program load models in place of the agent's."""
    await day.ask()
    await day.advance(61)
    day.server.memory.unload(PRIMARY)
    session = async_get_clientsession(day.hass)
    for name in names:
        url = f"{day.server.url}/api/{'embed' if 'embed' in name else 'generate'}"
        await session.post(url, json={"model": name, "keep_alive": "90s"})
    await day.advance(61)
    await day.advance(61)


# --- pushed_out -----------------------------------------------------------------


async def test_one_eviction_counts_once(day: Day, make_entry: MakeEntry) -> None:
    """Whatever the number of models that came, and of agents that saw it."""
    agent = {"llm_keep_alive": "1h"}
    await make_entry(day.server.url, conversation=agent)
    await make_entry(
        day.server.url, conversation=agent, external_llm={"external_llm_model": PRIMARY}
    )
    await push_out(day, EXTERNAL, "nomic-embed-text:latest")
    assert not raised(day.hass, "pushed_out")
    await push_out(day, EXTERNAL)
    found = raised(day.hass, "pushed_out")
    assert {item["times"] for item in found} == {"2"}
    assert {item["title"] for item in found} == {"Agent", "External Llm"}


async def test_evictions_become_old(day: Day, make_entry: MakeEntry) -> None:
    """The repair outlives a reload, and goes after a day without evictions."""
    entry = await make_entry(day.server.url, conversation={"llm_keep_alive": "1h"})
    for _ in range(2):
        await push_out(day, EXTERNAL)
    assert issue(day.hass, "pushed_out")
    await day.hass.config_entries.async_reload(entry.entry_id)
    await day.settle()
    for hour in range(26):
        assert (issue(day.hass, "pushed_out") is not None) is (hour < 24)
        await day.advance(3600)


@pytest.mark.parametrize("subentry_type", ["conversation", "external_llm"])
async def test_another_model_is_chosen(
    day: Day, make_entry: MakeEntry, subentry_type: str
) -> None:
    """The evictions say nothing about the new model."""
    external = {"external_llm_model": EXTERNAL}
    entry = await make_entry(
        day.server.url, conversation={"llm_keep_alive": "1h"}, external_llm=external
    )
    for _ in range(2):
        await push_out(day, EXTERNAL)
    assert issue(day.hass, "pushed_out")
    day.server.models["small"] = StandInModel("small")
    (subentry,) = entry.get_subentries_of_type(subentry_type)
    key = "llm_model" if subentry_type == "conversation" else "external_llm_model"
    day.hass.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, key: "small"}
    )
    await day.settle()
    assert issue(day.hass, "pushed_out") is None


# --- model_missing --------------------------------------------------------------


async def test_a_model_is_deleted_and_pulled_by_hand(
    day: Day, make_entry: MakeEntry
) -> None:
    """It is noticed without a reload, within an hour and within five minutes."""
    await make_entry(day.server.url, conversation={"llm_warm_up": True})
    await day.settle()
    model = day.server.models.pop(PRIMARY)
    for _ in range(13):
        await day.advance(300)
    assert issue(day.hass, "model_missing")
    day.server.models[PRIMARY] = model
    day.server.memory.unload(PRIMARY)
    await day.advance(301)
    assert issue(day.hass, "model_missing") is None
    assert day.server.loaded(PRIMARY)


async def test_the_only_model_is_deleted(day: Day, make_entry: MakeEntry) -> None:
    """An Ollama without models lists none, which is an answer too."""
    await make_entry(day.server.url, conversation={})
    day.server.models.clear()
    for _ in range(13):
        await day.advance(300)
    assert issue(day.hass, "model_missing")


async def test_a_question_to_a_deleted_model(day: Day, make_entry: MakeEntry) -> None:
    """Its failure raises the repair at once."""
    await make_entry(day.server.url, conversation={})
    del day.server.models[PRIMARY]
    assert PRIMARY in speech(await say(day.hass, "Hello"))
    await day.settle()
    assert issue(day.hass, "model_missing")


async def test_the_load_of_a_deleted_model(day: Day, make_entry: MakeEntry) -> None:
    """Its failure raises the repair at once, and names the model."""
    await make_entry(day.server.url, conversation={})
    await day.settle()
    del day.server.models[PRIMARY]
    with pytest.raises(HomeAssistantError, match=PRIMARY):
        await call_action(day.hass, "load_model")
    await day.settle()
    assert issue(day.hass, "model_missing")


async def test_the_dialog_is_closed_during_the_download(
    day: Day, make_entry: MakeEntry, hass_client: ClientSessionGenerator
) -> None:
    """The download goes on; then the repair goes and the model is loaded."""
    external = {"external_llm_model": "new", "external_llm_warm_up": True}
    await make_entry(day.server.url, conversation={}, external_llm=external)
    await day.settle()
    reported = issue(day.hass, "model_missing")
    assert reported
    client = await signed_in(day.hass, hass_client)
    response = await client.post(
        "/api/repairs/issues/fix",
        json={"handler": DOMAIN, "issue_id": reported.issue_id},
    )
    path = f"/api/repairs/issues/fix/{(await response.json())['flow_id']}"
    day.server.library["new"] = StandInModel("new")
    day.server.hold()
    answer = await (await client.post(path, json={})).json()
    assert answer["type"] == "progress"
    assert (await client.delete(path)).status == HTTPStatus.OK
    day.server.release()
    await day.settle()
    assert issue(day.hass, "model_missing") is None
    assert day.server.memory.loads == ["new"]


# --- The states of an entry -----------------------------------------------------


async def stop(day: Day, entry: MockConfigEntry, state: ConfigEntryState) -> None:
    """Bring an entry into a state in which it is not loaded."""
    if state is ConfigEntryState.NOT_LOADED:
        assert await day.hass.config_entries.async_unload(entry.entry_id)
    else:
        await day.server.stop()
        await day.hass.config_entries.async_reload(entry.entry_id)
    assert entry.state is state


NOT_LOADED_STATES = pytest.mark.parametrize(
    "state", [ConfigEntryState.NOT_LOADED, ConfigEntryState.SETUP_RETRY]
)


async def with_a_cadence(day: Day, make_entry: MakeEntry) -> MockConfigEntry:
    """Return an entry with an issue that has a fix, and one of a missing model."""
    day.server.load_seconds = 8
    entry = await make_entry(
        day.server.url,
        conversation={"llm_keep_alive": "5m"},
        external_llm={"external_llm_model": "new", "external_llm_warm_up": True},
    )
    for _ in range(8):
        await day.ask()
        await day.advance(1200)
    assert issue(day.hass, "cadence")
    assert issue(day.hass, "model_missing")
    return entry


@NOT_LOADED_STATES
async def test_a_fix_while_the_entry_is_not_loaded(
    day: Day,
    make_entry: MakeEntry,
    hass_client: ClientSessionGenerator,
    state: ConfigEntryState,
) -> None:
    """A setting is stored; a download says that it needs a connection."""
    entry = await with_a_cadence(day, make_entry)
    await stop(day, entry, state)
    client = await signed_in(day.hass, hass_client)

    async def answer_to(name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Go through the fix flow of an issue."""
        (reported,) = (
            item
            for item in ir.async_get(day.hass).issues.values()
            if item.issue_id.startswith(name)
        )
        response = await client.post(
            "/api/repairs/issues/fix",
            json={"handler": DOMAIN, "issue_id": reported.issue_id},
        )
        assert response.status == HTTPStatus.OK
        path = f"/api/repairs/issues/fix/{(await response.json())['flow_id']}"
        response = await client.post(path, json=values)
        assert response.status == HTTPStatus.OK
        answer: dict[str, Any] = await response.json()
        return answer

    answer = await answer_to("model_missing", {})
    assert (answer["type"], answer["reason"]) == ("abort", "entry_not_loaded")
    answer = await answer_to("cadence", {"keep_alive": "30m"})
    assert answer["type"] == "create_entry"
    assert data_of(entry)["llm_keep_alive"] == "30m"
    assert issue(day.hass, "cadence") is None


@NOT_LOADED_STATES
async def test_diagnostics_while_the_entry_is_not_loaded(
    day: Day,
    make_entry: MakeEntry,
    hass_client: ClientSessionGenerator,
    state: ConfigEntryState,
) -> None:
    """They are downloaded, with the settings only."""
    entry = await make_entry(day.server.url, conversation={})
    await stop(day, entry, state)
    assert await async_setup_component(day.hass, "diagnostics", {})
    client = await signed_in(day.hass, hass_client)
    response = await client.get(f"/api/diagnostics/config_entry/{entry.entry_id}")
    assert response.status == HTTPStatus.OK
    assert "servers" not in (await response.json())["data"]


@pytest.mark.parametrize("is_loaded", [True, False])
async def test_a_disabled_entry(
    day: Day, make_entry: MakeEntry, is_loaded: bool
) -> None:
    """It has no issues; what is still true comes back when it is enabled."""
    entry = await with_a_cadence(day, make_entry)
    port = int(day.server.url.rpartition(":")[2])
    if not is_loaded:
        await stop(day, entry, ConfigEntryState.SETUP_RETRY)
    day.server.load_seconds = 0
    disable = day.hass.config_entries.async_set_disabled_by
    await disable(entry.entry_id, ConfigEntryDisabler.USER)
    await day.settle()
    assert not [
        item for item in ir.async_get(day.hass).issues.values() if item.domain == DOMAIN
    ]
    if not is_loaded:
        await day.server.start(port)
    await disable(entry.entry_id, None)
    await day.settle()
    assert issue(day.hass, "cadence")
    assert issue(day.hass, "model_missing")
    day.server.models["new"] = StandInModel("new")
    await disable(entry.entry_id, ConfigEntryDisabler.USER)
    await disable(entry.entry_id, None)
    await day.settle()
    assert issue(day.hass, "model_missing") is None

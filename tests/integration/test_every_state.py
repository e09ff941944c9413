"""Diagnostics and repairs of an entry in every state that it can have."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from homeassistant.config_entries import ConfigEntryDisabler, ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn

from .test_repairs import data_of, fix, signed_in

STATES = [
    ConfigEntryState.LOADED,
    ConfigEntryState.NOT_LOADED,
    ConfigEntryState.SETUP_RETRY,
    ConfigEntryState.SETUP_ERROR,
    ConfigEntryState.MIGRATION_ERROR,
]


@pytest.fixture
async def server() -> AsyncIterator[OllamaStandIn]:
    """Return an Ollama behind a key."""
    async with OllamaStandIn(api_key="right") as ollama:
        yield ollama


@pytest.fixture(params=STATES, ids=[state.value for state in STATES])
async def entry(
    home: HomeAssistant,
    server: OllamaStandIn,
    make_entry: MakeEntry,
    request: pytest.FixtureRequest,
) -> MockConfigEntry:
    """Return an entry that was loaded once, and is in the state of the parameter."""
    entry = await make_entry(
        server.url,
        conversation={"llm_keep_alive": "1h"},
        external_llm={"external_llm_model": "llama3.2:70b"},
        llm_api_key="right",
    )
    await home.async_block_till_done(wait_background_tasks=True)
    await bring_into(home, server, entry, request.param)
    assert entry.state is request.param
    return entry


async def bring_into(
    hass: HomeAssistant,
    server: OllamaStandIn,
    entry: MockConfigEntry,
    state: ConfigEntryState,
) -> None:
    """Bring a loaded entry into a state."""
    entries = hass.config_entries
    if state in (ConfigEntryState.SETUP_RETRY, ConfigEntryState.SETUP_ERROR):
        if state is ConfigEntryState.SETUP_RETRY:
            await server.stop()
        else:
            server.api_key = "another"
        assert not await entries.async_reload(entry.entry_id)
    elif state is ConfigEntryState.NOT_LOADED:
        await entries.async_set_disabled_by(entry.entry_id, ConfigEntryDisabler.USER)
    elif state is ConfigEntryState.MIGRATION_ERROR:
        assert await entries.async_unload(entry.entry_id)
        entries.async_update_entry(entry, version=3)
        assert not await entries.async_setup(entry.entry_id)
    await hass.async_block_till_done(wait_background_tasks=True)


async def test_diagnostics(
    home: HomeAssistant, entry: MockConfigEntry, hass_client: ClientSessionGenerator
) -> None:
    """The settings are in them in each state, and the server's while it is loaded."""
    assert await async_setup_component(home, "diagnostics", {})
    client = await signed_in(home, hass_client)
    response = await client.get(f"/api/diagnostics/config_entry/{entry.entry_id}")
    assert response.status == 200
    found: dict[str, Any] = (await response.json())["data"]
    assert found["data"]["llm_api_key"] == "**REDACTED**"
    titles = {item["title"] for item in found["subentries"]}
    assert titles == {"Agent", "External Llm"}
    assert ("models" in found) == (entry.state is ConfigEntryState.LOADED)


def report(
    hass: HomeAssistant, entry: MockConfigEntry, name: str, **data: Any
) -> ir.IssueEntry:
    """Report a fixable issue of the agent, as the checks do; return it."""
    (agent,) = entry.get_subentries_of_type("conversation")
    issue_id = f"{name}_{agent.subentry_id}"
    ids = {"entry_id": entry.entry_id, "subentry_id": agent.subentry_id}
    ir.async_create_issue(
        hass,
        DOMAIN,
        issue_id,
        data={**ids, **data},
        is_fixable=True,
        is_persistent=True,
        severity=ir.IssueSeverity.WARNING,
        translation_key=name,
        translation_placeholders={"title": "Agent", "model": "m", "host": "h"},
    )
    issue = ir.async_get(hass).async_get_issue(DOMAIN, issue_id)
    assert issue
    return replace(issue)


@pytest.mark.parametrize(
    ("name", "data", "values", "stored"),
    [
        ("cadence", {"keep_alive": "2h"}, {"keep_alive": "2h"}, "2h"),
        ("no_effect", {"keep_alive": None}, {}, None),
        ("pushed_out", {"is_notice": True}, {}, "1h"),
    ],
)
async def test_a_fix(
    home: HomeAssistant,
    entry: MockConfigEntry,
    hass_client: ClientSessionGenerator,
    name: str,
    data: dict[str, Any],
    values: dict[str, Any],
    stored: str | None,
) -> None:
    """It is stored, and the issue is gone."""
    reported = report(home, entry, name, **data)
    await fix(home, hass_client, reported, values)
    assert data_of(entry).get("llm_keep_alive") == stored
    assert not ir.async_get(home).async_get_issue(DOMAIN, reported.issue_id)


async def test_a_context_size(
    home: HomeAssistant, entry: MockConfigEntry, hass_client: ClientSessionGenerator
) -> None:
    """It is stored for the role."""
    reported = report(home, entry, "num_ctx", num_ctx=4096)
    await fix(home, hass_client, reported, {"num_ctx": 4096})
    assert data_of(entry)["llm_num_ctx"] == 4096


async def test_a_download(
    home: HomeAssistant, entry: MockConfigEntry, hass_client: ClientSessionGenerator
) -> None:
    """The dialog says so if there is no connection to the server."""
    reported = report(home, entry, "model_missing", pull=True)
    client = await signed_in(home, hass_client)
    response = await client.post(
        "/api/repairs/issues/fix",
        json={"handler": DOMAIN, "issue_id": reported.issue_id},
    )
    form = await response.json()
    path = f"/api/repairs/issues/fix/{form['flow_id']}"
    answer = await (await client.post(path, json={})).json()
    if entry.state is ConfigEntryState.LOADED:
        assert answer["type"] == "progress"
    else:
        assert (answer["type"], answer["reason"]) == ("abort", "entry_not_loaded")

"""Fix flows of an entry that is not loaded, or that is reloaded meanwhile."""

import asyncio
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.data_entry_flow import FlowResultType
from homeassistant.helpers import issue_registry as ir
import pytest

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.repairs import PullFlow, async_create_fix_flow
from custom_components.home_agent.residency.loader import ModelLoader
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn, StandInModel

MISSING = {"llm_model": "new:1b", "llm_warm_up": True}


async def fix_flow(hass: HomeAssistant, name: str) -> PullFlow:
    """Return the fix flow of the one issue of a name."""
    await hass.async_block_till_done(wait_background_tasks=True)
    (issue_id,) = (
        item.issue_id
        for item in ir.async_get(hass).issues.values()
        if item.domain == DOMAIN and item.issue_id.startswith(name)
    )
    return await flow_of(hass, issue_id)


async def flow_of(hass: HomeAssistant, issue_id: str) -> PullFlow:
    """Return the fix flow of an issue."""
    issue = ir.async_get(hass).async_get_issue(DOMAIN, issue_id)
    assert issue
    flow = await async_create_fix_flow(hass, issue.issue_id, issue.data)
    flow.hass, flow.handler, flow.issue_id = hass, DOMAIN, issue.issue_id
    flow.flow_id = "flow"
    return flow  # type: ignore[return-value]


async def test_no_download_while_the_entry_is_not_loaded(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The dialog says that Home Agent is not connected."""
    entry = await make_entry(ollama.url, conversation=MISSING)
    flow = await fix_flow(home, "model_missing")
    assert await home.config_entries.async_unload(entry.entry_id)
    result = await flow.async_step_confirm({})
    assert (result["type"], result["reason"]) == ("abort", "entry_not_loaded")


async def test_a_setting_is_stored_while_the_entry_is_not_loaded(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is stored for all chat roles of the model, and for no other model."""
    model = "llama3.2:3b"
    entry = await make_entry(
        ollama.url,
        conversation={"llm_model": model, "llm_num_ctx": 2048},
        external_llm={"external_llm_model": model, "external_llm_num_ctx": 4096},
        embedding={},
    )
    flow = await fix_flow(home, "num_ctx")
    assert await home.config_entries.async_unload(entry.entry_id)
    result = await flow.async_step_confirm({"num_ctx": 8192})
    assert result["type"] is FlowResultType.CREATE_ENTRY
    stored = {
        key: value
        for subentry in entry.subentries.values()
        for key, value in subentry.data.items()
        if key.endswith("num_ctx")
    }
    assert stored == {"llm_num_ctx": 8192, "external_llm_num_ctx": 8192}


async def test_a_download_that_a_reload_cancels(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is no success: the dialog says that the download was interrupted."""
    entry = await make_entry(ollama.url, conversation=MISSING)
    flow = await fix_flow(home, "model_missing")
    ollama.hold()
    result = await flow.async_step_confirm({})
    assert result["type"] is FlowResultType.SHOW_PROGRESS
    await asyncio.sleep(0)
    assert await home.config_entries.async_unload(entry.entry_id)
    ollama.release()
    result = await flow.async_step_pull()
    assert result["type"] is FlowResultType.SHOW_PROGRESS_DONE
    await assert_interrupted(flow)


async def test_a_download_that_crashes(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no success either."""

    def crash(_: ModelLoader) -> None:
        raise RuntimeError("a fault of Home Agent")

    await make_entry(ollama.url, conversation=MISSING)
    flow = await fix_flow(home, "model_missing")
    monkeypatch.setattr(ModelLoader, "async_pull", crash)
    await flow.async_step_confirm({})
    assert flow._pull
    with pytest.raises(RuntimeError):
        await flow._pull.task
    await assert_interrupted(flow)


@pytest.mark.parametrize("has_two_roles", [True, False])
async def test_two_dialogs_for_one_download(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    has_two_roles: bool,
) -> None:
    """The model is downloaded once, and both dialogs end with success."""
    roles: dict[str, Any] = {"conversation": MISSING}
    if has_two_roles:
        roles["external_llm"] = {"external_llm_model": "new:1b"}
    await make_entry(ollama.url, **roles)
    ollama.library["new:1b"] = StandInModel("new:1b")
    await home.async_block_till_done(wait_background_tasks=True)
    issues = [
        item.issue_id
        for item in ir.async_get(home).issues.values()
        if item.domain == DOMAIN and item.issue_id.startswith("model_missing")
    ]
    flows = [await flow_of(home, issues[0]), await flow_of(home, issues[-1])]
    ollama.hold()
    for flow in flows:
        result = await flow.async_step_confirm({})
        assert result["type"] is FlowResultType.SHOW_PROGRESS
    ollama.release()
    await home.async_block_till_done(wait_background_tasks=True)
    for flow in flows:
        result = await flow.async_step_pulled()
        assert result["type"] is FlowResultType.CREATE_ENTRY
    assert len(ollama.sent("/api/pull")) == 1
    assert not [key for _, key in ir.async_get(home).issues if "model_missing" in key]


async def assert_interrupted(flow: PullFlow) -> None:
    """Check that the flow aborts and says why."""
    result = await flow.async_step_pulled()
    assert (result["type"], result["reason"]) == ("abort", "pull_interrupted")
    placeholders = result["description_placeholders"]
    assert placeholders
    assert placeholders["model"] == MISSING["llm_model"]

"""The blueprints, in automations of a real Home Assistant."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
import shutil
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.core import HomeAssistant
from homeassistant.helpers import device_registry as dr
from homeassistant.setup import async_setup_component
from homeassistant.util import dt as dt_util
import pytest
from pytest_homeassistant_custom_component.common import async_fire_time_changed

from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn

FOLDER = Path("blueprints/automation/home_agent")
PRIMARY = "llama3.2:3b"


@pytest.fixture
async def automate(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> AsyncIterator[Any]:
    """Return a function that makes an automation for the agent's model."""
    entry = await make_entry(ollama.url, conversation={"llm_keep_alive": "-1"})
    (device,) = [
        device.id
        for device in dr.async_entries_for_config_entry(
            dr.async_get(home), entry.entry_id
        )
        if device.model == PRIMARY
    ]
    folder = Path(home.config.path("blueprints/automation/home_agent"))

    async def run(blueprint: str, **inputs: Any) -> None:
        await home.async_add_executor_job(shutil.copytree, FOLDER, folder)
        use = {
            "path": f"home_agent/{blueprint}.yaml",
            "input": {"models": [device], **inputs},
        }
        config = {"automation": {"alias": "Test", "use_blueprint": use}}
        assert await async_setup_component(home, "automation", config)
        await home.async_block_till_done()
        state = home.states.get("automation.test")
        assert state
        assert state.state == "on"

    yield run
    await home.services.async_call(
        "automation", "turn_off", {"entity_id": "automation.test"}, blocking=True
    )


async def test_load_at_home(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    automate: Any,
    freezer: FrozenDateTimeFactory,
) -> None:
    """There with the first person, gone some time after the last."""
    home.states.async_set("zone.home", "0")
    await automate("load_at_home", delay={"minutes": 5})
    home.states.async_set("zone.home", "1")
    await home.async_block_till_done(wait_background_tasks=True)
    assert ollama.loaded(PRIMARY)
    home.states.async_set("zone.home", "2")
    home.states.async_set("zone.home", "0")
    await home.async_block_till_done(wait_background_tasks=True)
    assert ollama.loaded(PRIMARY)
    freezer.tick(timedelta(minutes=6))
    async_fire_time_changed(home)
    await home.async_block_till_done(wait_background_tasks=True)
    assert not ollama.loaded(PRIMARY)


async def test_unload_at_night(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    automate: Any,
    freezer: FrozenDateTimeFactory,
) -> None:
    """And back before breakfast."""
    freezer.move_to(dt_util.now().replace(hour=12, minute=0, second=0))
    await home.services.async_call("home_agent", "load_model", {}, blocking=True)
    assert ollama.loaded(PRIMARY)
    await automate("unload_at_night", evening="22:30:00", morning="05:30:00")
    for hour, is_loaded in ((23, False), (6, True)):
        later = dt_util.now().replace(hour=hour, minute=0, second=0)
        freezer.move_to(later + timedelta(days=hour < 12))
        async_fire_time_changed(home)
        await home.async_block_till_done(wait_background_tasks=True)
        assert (ollama.loaded(PRIMARY) is not None) is is_loaded

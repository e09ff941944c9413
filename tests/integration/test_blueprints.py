"""The blueprints, in automations of a real Home Assistant."""

from collections.abc import AsyncIterator
from datetime import timedelta
import json
from pathlib import Path
import shutil
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.components.blueprint.importer import fetch_blueprint_from_url
from homeassistant.const import EVENT_HOMEASSISTANT_STARTED
from homeassistant.core import CoreState, HomeAssistant
from homeassistant.helpers import device_registry as dr, entity_registry as er
from homeassistant.helpers.selector import selector
from homeassistant.setup import async_setup_component
from homeassistant.util import dt as dt_util
from homeassistant.util.yaml import parse_yaml
import pytest
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_fire_time_changed,
)
from pytest_homeassistant_custom_component.test_util.aiohttp import AiohttpClientMocker

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.model.use import ModelUses, model_uses
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn

FOLDER = Path("blueprints/automation/home_agent")
PRIMARY = "llama3.2:3b"


@pytest.fixture
async def entry(ollama: OllamaStandIn, make_entry: MakeEntry) -> MockConfigEntry:
    """Return an entry with an agent that is kept ready."""
    agent = {"llm_keep_alive": "-1", "llm_warm_up": True}
    return await make_entry(ollama.url, conversation=agent)


@pytest.fixture
async def automate(home: HomeAssistant, entry: MockConfigEntry) -> AsyncIterator[Any]:
    """Return a function that makes an automation for the agent's model."""
    await home.async_block_till_done(wait_background_tasks=True)
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
    entry: MockConfigEntry,
    automate: Any,
    freezer: FrozenDateTimeFactory,
) -> None:
    """There with the first person, gone some time after the last."""
    await home.services.async_call(DOMAIN, "unload_model", {}, blocking=True)
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
    await reload_and_restart(home, ollama, entry)
    assert not ollama.loaded(PRIMARY)


async def reload_and_restart(
    home: HomeAssistant, ollama: OllamaStandIn, entry: MockConfigEntry
) -> None:
    """Reload an entry, also as after a restart of Home Assistant."""
    await home.config_entries.async_reload(entry.entry_id)
    await home.async_block_till_done(wait_background_tasks=True)
    assert not ollama.loaded(PRIMARY)
    async_fire_time_changed(home, dt_util.utcnow() + timedelta(seconds=61))
    await home.async_block_till_done(wait_background_tasks=True)
    assert await home.config_entries.async_unload(entry.entry_id)
    key = next(key for key, value in home.data.items() if isinstance(value, ModelUses))
    del home.data[key]
    await model_uses(home).async_load()
    assert await home.config_entries.async_setup(entry.entry_id)
    await home.async_block_till_done(wait_background_tasks=True)


async def test_unload_at_night(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    entry: MockConfigEntry,
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
        if not is_loaded:
            await reload_and_restart(home, ollama, entry)
            assert not ollama.loaded(PRIMARY)


@pytest.fixture
def hour(request: pytest.FixtureRequest, freezer: FrozenDateTimeFactory) -> int:
    """Begin at an hour of the day."""
    now: int = request.param
    freezer.move_to(dt_util.now().replace(hour=now, minute=30))
    return now


@pytest.mark.parametrize("hour", [1, 12, 23], indirect=True)
async def test_a_start_after_the_time(
    hour: int, home: HomeAssistant, ollama: OllamaStandIn, automate: Any
) -> None:
    """What was to be done while Home Assistant was not running is done then."""
    is_loaded = hour == 12
    action = "unload_model" if is_loaded else "load_model"
    await home.services.async_call(DOMAIN, action, {}, blocking=True)
    home.set_state(CoreState.starting)
    await automate("unload_at_night")
    home.set_state(CoreState.running)
    home.bus.async_fire(EVENT_HOMEASSISTANT_STARTED)
    await home.async_block_till_done(wait_background_tasks=True)
    assert (ollama.loaded(PRIMARY) is not None) is is_loaded


# --- The files ------------------------------------------------------------------

TEXTS = {str(file): file.read_text() for file in sorted(FOLDER.glob("*.yaml"))}
FILES = pytest.mark.parametrize("file", TEXTS)
DOCS = Path("docs/MODEL_MEMORY.md").read_text()
MANIFEST = json.loads(Path("custom_components/home_agent/manifest.json").read_text())


def content_of(file: str) -> dict[str, Any]:
    """Return the content of a blueprint."""
    content = parse_yaml(TEXTS[file])
    assert isinstance(content, dict)
    return content


@FILES
async def test_import_from_the_repository(
    home: HomeAssistant, aioclient_mock: AiohttpClientMocker, file: str
) -> None:
    """Home Assistant imports each file from the address that it names."""
    repository = MANIFEST["documentation"]
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    aioclient_mock.get(f"{raw}/main/{file}", text=TEXTS[file])  # type: ignore[no-untyped-call]
    url = f"{repository}/blob/main/{file}"
    imported = await fetch_blueprint_from_url(home, url)
    assert imported.blueprint.validate() is None
    assert imported.blueprint.domain == "automation"
    assert imported.blueprint.metadata["source_url"] == url
    assert imported.suggested_filename == f"home-agent/{Path(file).stem}"
    assert url in DOCS


@FILES
async def test_only_models_can_be_chosen(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    all_entities: None,
    file: str,
) -> None:
    """The devices of servers, and of other integrations, are not offered."""
    entry = await make_entry(
        ollama.url,
        conversation={},
        external_llm={"external_llm_model": "llama3.2:70b"},
        embedding={},
    )
    wanted = selector(content_of(file)["blueprint"]["input"]["models"]["selector"])
    (entities,) = wanted.config["entity"]
    assert "filter" not in wanted.config
    offered = {
        item.device_id
        for item in er.async_get(home).entities.values()
        if item.platform == entities["integration"]
        and item.domain in entities["domain"]
    }
    models = {
        device.id
        for device in dr.async_entries_for_config_entry(
            dr.async_get(home), entry.entry_id
        )
        if any(key in entry.subentries for _, key in device.identifiers)
    }
    assert offered == models
    assert len(models) == 3

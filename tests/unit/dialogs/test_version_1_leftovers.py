"""What version 1 leaves behind: ids in voice assistants, memories, collections."""

from pathlib import Path
from typing import Any

from homeassistant.components.assist_pipeline import (
    async_get_pipelines,
    async_update_pipeline,
)
from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from custom_components.home_agent.const import DOMAIN
from tests.integration.test_repairs import fix, issue
from tests.servers import OllamaStandIn

OLD = {"llm_model": "llama3.2:3b"}


def old_entry(hass: HomeAssistant, url: str, **options: Any) -> MockConfigEntry:
    """Return an entry of version 1."""
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=1,
        title="Home Agent",
        data={**OLD, "llm_base_url": url},
        options=options,
    )
    entry.add_to_hass(hass)
    return entry


async def set_up(hass: HomeAssistant, entry: MockConfigEntry) -> None:
    """Set up an entry."""
    await hass.config_entries.async_setup(entry.entry_id)
    await hass.async_block_till_done(wait_background_tasks=True)


async def name_agent(hass: HomeAssistant, agent_id: str) -> None:
    """Let the voice assistant use an agent."""
    (pipeline,) = async_get_pipelines(hass)
    await async_update_pipeline(hass, pipeline, conversation_engine=agent_id)
    await hass.async_block_till_done()


def engine(hass: HomeAssistant) -> str:
    """Return the agent of the voice assistant."""
    (pipeline,) = async_get_pipelines(hass)
    return pipeline.conversation_engine


@pytest.fixture
async def assist(home: HomeAssistant) -> HomeAssistant:
    """Return a home with one voice assistant."""
    assert await async_setup_component(home, "assist_pipeline", {})
    await home.async_block_till_done()
    assert len(async_get_pipelines(home)) == 1
    return home


@pytest.mark.parametrize("is_loaded", [True, False])
async def test_a_voice_assistant_is_switched(
    assist: HomeAssistant,
    ollama: OllamaStandIn,
    hass_client: ClientSessionGenerator,
    is_loaded: bool,
) -> None:
    """In a click, whether the entry is loaded or not."""
    entry = old_entry(assist, ollama.url)
    await name_agent(assist, entry.entry_id)
    await set_up(assist, entry)
    reported = issue(assist, "voice_assistant")
    assert reported
    assert reported.translation_placeholders == {
        "assistants": "Home Assistant",
        "title": "Home Agent",
    }
    if not is_loaded:
        await ollama.stop()
        await assist.config_entries.async_reload(entry.entry_id)
        assert entry.state is ConfigEntryState.SETUP_RETRY
    await fix(assist, hass_client, reported, {})
    assert engine(assist) == "conversation.home_agent"
    assert issue(assist, "voice_assistant") is None


async def test_a_voice_assistant_is_switched_by_hand(
    assist: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """The repair goes with it, and comes when an old id is chosen again."""
    entry = old_entry(assist, ollama.url)
    await set_up(assist, entry)
    assert issue(assist, "voice_assistant") is None
    await name_agent(assist, entry.entry_id)
    assert issue(assist, "voice_assistant")
    await name_agent(assist, "conversation.home_agent")
    assert issue(assist, "voice_assistant") is None


async def test_without_voice_assistants(
    home: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """An installation need not have any."""
    entry = old_entry(home, ollama.url)
    await set_up(home, entry)
    assert entry.state is ConfigEntryState.LOADED
    assert issue(home, "voice_assistant") is None


async def test_what_becomes_of_stored_data(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    tmp_path: Path,
    hass_client: ClientSessionGenerator,
) -> None:
    """It is named, it stays, and the message is closed by the user."""
    file = tmp_path / ".storage" / "home_agent.memories"
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}")
    options = {"vector_db_enabled": True, "vector_db_collection": "my_home"}
    entry = old_entry(
        home, ollama.url, vector_db_embedding_base_url=ollama.url, **options
    )
    await set_up(home, entry)
    await home.config_entries.async_reload(entry.entry_id)
    memories, chroma = issue(home, "version_1_mem"), issue(home, "version_1_chroma")
    assert memories
    assert chroma
    assert memories.is_persistent
    assert memories.translation_placeholders
    assert memories.translation_placeholders["file"] == ".storage/home_agent.memories"
    assert chroma.translation_placeholders
    assert (
        chroma.translation_placeholders["collections"] == "my_home, home_agent_memories"
    )
    for reported in (memories, chroma):
        await fix(home, hass_client, reported, {})
    assert issue(home, "version_1") is None
    assert file.read_text() == "{}"


async def test_nothing_is_left_behind(
    home: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """Without memories and Chroma there is nothing to say."""
    await set_up(home, old_entry(home, ollama.url))
    assert issue(home, "version_1") is None


async def test_a_bad_address_changes_nothing(home: HomeAssistant) -> None:
    """The entry is as it was after each restart: no role is added to it."""
    options = {"external_llm_enabled": True, "vector_db_enabled": True}
    entry = old_entry(home, "http://host:port", **options)
    for _ in range(3):
        await set_up(home, entry)
        assert entry.state is ConfigEntryState.MIGRATION_ERROR
        assert (entry.version, dict(entry.subentries)) == (1, {})
        assert dict(entry.options) == options
        entry.mock_state(home, ConfigEntryState.NOT_LOADED)
    assert issue(home, "version_1") is None

"""Subentries that are removed or changed while their entry is not loaded."""

from typing import Any

from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant

from tests.conftest import MakeEntry, call_action
from tests.servers import OllamaStandIn
from tests.servers.chroma import ChromaStandIn


async def settle(hass: HomeAssistant) -> None:
    """Wait for everything in the background."""
    await hass.async_block_till_done(wait_background_tasks=True)


async def test_a_collection_of_chroma(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is deleted, although the entry waits for its model server."""
    async with ChromaStandIn() as chroma:
        store: dict[str, Any] = {"vector_store": "chroma", "chroma_url": chroma.url}
        entry = await make_entry(ollama.url, conversation={}, embedding=store)
        await call_action(home, "reindex")
        await settle(home)
        assert len(chroma.collections) == 1
        await ollama.stop()
        assert not await home.config_entries.async_reload(entry.entry_id)
        assert entry.state is ConfigEntryState.SETUP_RETRY
        (embedding,) = entry.get_subentries_of_type("embedding")
        home.config_entries.async_update_subentry(entry, embedding, title="Search")
        await settle(home)
        assert len(chroma.collections) == 1
        home.config_entries.async_remove_subentry(entry, embedding.subentry_id)
        await settle(home)
        assert not chroma.collections


async def test_a_model_in_memory(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is unloaded, also while the user has unloaded the entry."""
    entry = await make_entry(
        ollama.url,
        conversation={"llm_keep_alive": "-1"},
        external_llm={"external_llm_model": "llama3.2:70b"},
    )
    await call_action(home, "load_model")
    await settle(home)
    assert await home.config_entries.async_unload(entry.entry_id)
    (agent,) = entry.get_subentries_of_type("conversation")
    home.config_entries.async_update_subentry(
        entry, agent, data={**agent.data, "llm_model": "llama3.2:70b"}
    )
    await settle(home)
    assert list(ollama.memory.residents) == ["llama3.2:70b"]
    home.config_entries.async_remove_subentry(entry, "external")
    await settle(home)
    # The agent uses it too.
    assert list(ollama.memory.residents) == ["llama3.2:70b"]
    home.config_entries.async_remove_subentry(entry, agent.subentry_id)
    await settle(home)
    assert not ollama.memory.residents

"""Models that no role uses any more leave the memory of their server."""

import asyncio

from homeassistant.config_entries import ConfigEntryDisabler, ConfigEntryState
from homeassistant.core import HomeAssistant
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.model.use import model_uses
from tests.conftest import MakeEntry, call_action, say, subentry
from tests.servers import OllamaStandIn, OpenAIStandIn, StandInModel
from tests.servers.others import LMStudioStandIn
from tests.servers.stand_in import Fault

PRIMARY = "llama3.2:3b"
OTHER = "llama3.2:70b"
EMBEDDING = "nomic-embed-text:latest"
NEVER = {"llm_keep_alive": "-1"}
EXTERNAL_NEVER = {"external_llm_model": OTHER, "external_llm_keep_alive": "-1"}


async def settle(hass: HomeAssistant) -> None:
    """Wait for everything in the background."""
    await hass.async_block_till_done(wait_background_tasks=True)


async def use_all(hass: HomeAssistant, server: OllamaStandIn) -> set[str]:
    """Load all models by an action; return the names of those in memory."""
    await call_action(hass, "load_model")
    await settle(hass)
    return in_memory(server)


def in_memory(server: OllamaStandIn) -> set[str]:
    """Return the names of the models in memory."""
    return {name for name in (PRIMARY, OTHER, EMBEDDING) if server.loaded(name)}


def unloads(server: OllamaStandIn) -> list[str]:
    """Return the models that requests have unloaded."""
    return [
        body["model"]
        for body in server.sent("/api/generate")
        if body.get("keep_alive") == 0
    ]


async def test_a_removed_role(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Its model is unloaded, by one request, and no other model is."""
    entry = await make_entry(
        ollama.url,
        conversation=NEVER,
        external_llm=EXTERNAL_NEVER,
        embedding={"embedding_keep_alive": "-1"},
    )
    assert await use_all(home, ollama) == {PRIMARY, OTHER, EMBEDDING}
    home.config_entries.async_remove_subentry(entry, "external")
    await settle(home)
    assert in_memory(ollama) == {PRIMARY, EMBEDDING}
    (embedding,) = entry.get_subentries_of_type("embedding")
    home.config_entries.async_remove_subentry(entry, embedding.subentry_id)
    await settle(home)
    assert in_memory(ollama) == {PRIMARY}
    assert unloads(ollama) == [OTHER, "nomic-embed-text"]


@pytest.mark.parametrize("is_loaded", [True, False])
async def test_a_removed_entry(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry, is_loaded: bool
) -> None:
    """All its models are unloaded, also if the entry is not loaded."""
    entry = await make_entry(
        ollama.url,
        conversation=NEVER,
        embedding={"embedding_keep_alive": "-1"},
    )
    assert await use_all(home, ollama) == {PRIMARY, EMBEDDING}
    if not is_loaded:
        assert await home.config_entries.async_unload(entry.entry_id)
    await home.config_entries.async_remove(entry.entry_id)
    await settle(home)
    assert in_memory(ollama) == set()


async def test_a_disabled_entry(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Its model is unloaded; it stays loaded when the entry is only reloaded."""
    entry = await make_entry(ollama.url, conversation=NEVER)
    assert await use_all(home, ollama) == {PRIMARY}
    await home.config_entries.async_reload(entry.entry_id)
    await settle(home)
    assert in_memory(ollama) == {PRIMARY}
    await home.config_entries.async_set_disabled_by(
        entry.entry_id, ConfigEntryDisabler.USER
    )
    await settle(home)
    assert in_memory(ollama) == set()


async def test_another_model_for_a_role(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The one before is unloaded; a changed setting unloads nothing."""
    entry = await make_entry(ollama.url, conversation=NEVER)
    await use_all(home, ollama)
    (agent,) = entry.subentries.values()
    for changes in ({"llm_temperature": 0.5}, {"llm_model": OTHER}):
        assert in_memory(ollama) == {PRIMARY}
        home.config_entries.async_update_subentry(
            entry, agent, data={**agent.data, **changes}
        )
        await settle(home)
    assert in_memory(ollama) == set()
    assert unloads(ollama) == [PRIMARY]


async def test_another_server_for_an_entry(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The model is unloaded on the server before."""
    entry = await make_entry(ollama.url, conversation=NEVER)
    await use_all(home, ollama)
    async with OllamaStandIn() as other:
        home.config_entries.async_update_entry(
            entry, data={**entry.data, "llm_base_url": other.url}
        )
        await settle(home)
        assert in_memory(ollama) == set()
        assert unloads(other) == []


@pytest.mark.parametrize(
    "name", ["base:3b", "registry.ollama.ai/library/base:3b", "copy:3b"]
)
async def test_a_model_that_another_entry_uses(
    home: HomeAssistant, make_entry: MakeEntry, name: str
) -> None:
    """It stays, by whatever name the other entry uses it, loaded or not."""
    models = [StandInModel("base:3b", file="f1"), StandInModel("copy:3b", file="f1")]
    async with OllamaStandIn(models) as server:
        entry = await make_entry(
            server.url, conversation={"llm_model": "base:3b", **NEVER}
        )
        await call_action(home, "load_model")
        other = await make_entry(server.url, conversation={"llm_model": name})
        await settle(home)
        assert await home.config_entries.async_unload(other.entry_id)
        await home.config_entries.async_remove(entry.entry_id)
        await settle(home)
        assert server.loaded("base:3b")
        assert unloads(server) == []


@pytest.mark.parametrize("is_disabled", [True, False])
async def test_a_model_that_the_ollama_integration_uses(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    is_disabled: bool,
) -> None:
    """It stays, unless the user has disabled that integration."""
    core = MockConfigEntry(
        domain="ollama",
        data={"url": ollama.url},
        subentries_data=[subentry("conversation", {"model": PRIMARY}, "Core")],
        disabled_by=ConfigEntryDisabler.USER if is_disabled else None,
    )
    core.add_to_hass(home)
    entry = await make_entry(ollama.url, conversation=NEVER)
    await use_all(home, ollama)
    await home.config_entries.async_remove(entry.entry_id)
    await settle(home)
    assert in_memory(ollama) == (set() if is_disabled else {PRIMARY})


async def test_a_server_that_hangs(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The removal does not wait for it."""
    entry = await make_entry(ollama.url, conversation=NEVER)
    await use_all(home, ollama)
    ollama.hold()
    await home.config_entries.async_remove(entry.entry_id)
    assert home.config_entries.async_entries(DOMAIN) == []
    assert in_memory(ollama) == {PRIMARY}
    ollama.release()
    await settle(home)
    assert in_memory(ollama) == set()


async def test_a_server_that_is_away(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line in the log says which model could not be unloaded."""
    entry = await make_entry(ollama.url, conversation=NEVER)
    await ollama.stop()
    await home.config_entries.async_remove(entry.entry_id)
    await settle(home)
    (line,) = (text for text in caplog.messages if "Cannot unload" in text)
    assert PRIMARY in line
    assert model_uses(home)._uses == {}


async def test_an_entry_that_waits_for_its_server(home: HomeAssistant) -> None:
    """It can be removed."""
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=2,
        data={"llm_base_url": "http://127.0.0.1:1"},
        subentries_data=[subentry("conversation", {"llm_model": "m"}, "Agent")],
    )
    entry.add_to_hass(home)
    await home.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    await home.config_entries.async_remove(entry.entry_id)
    await settle(home)


async def test_a_turn_that_runs(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The model is unloaded after it: the next request would load it again."""
    entry = await make_entry(ollama.url, conversation=NEVER)
    ollama.hold()
    turn = asyncio.create_task(say(home, "Hello"))
    while not ollama.sent("/api/chat"):  # noqa: ASYNC110 - a request arrives
        await asyncio.sleep(0)
    await home.config_entries.async_remove(entry.entry_id)
    assert unloads(ollama) == []
    ollama.release()
    await turn
    await settle(home)
    assert in_memory(ollama) == set()


async def test_a_refused_unload(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, and the removal succeeds."""
    entry = await make_entry(ollama.url, conversation=NEVER)
    await use_all(home, ollama)
    ollama.faults.append(Fault(500, {"error": "out of order"}))
    await home.config_entries.async_remove(entry.entry_id)
    await settle(home)
    assert "Cannot unload" in caplog.text


async def test_a_model_of_lm_studio(home: HomeAssistant, make_entry: MakeEntry) -> None:
    """It is unloaded by the requests that it has for that."""
    async with LMStudioStandIn() as server:
        entry = await make_entry(
            server.url, conversation={"llm_model": "local-model", **NEVER}
        )
        await call_action(home, "load_model")
        await settle(home)
        assert server.loaded
        await home.config_entries.async_remove(entry.entry_id)
        await settle(home)
        assert not server.loaded


async def test_a_server_without_keep_alive(
    home: HomeAssistant, openai: OpenAIStandIn, make_entry: MakeEntry
) -> None:
    """It gets no request: its own rules decide."""
    entry = await make_entry(openai.url, conversation={"llm_model": "local-model"})
    await settle(home)
    before = len(openai.requests)
    await home.config_entries.async_remove(entry.entry_id)
    await settle(home)
    assert len(openai.requests) == before

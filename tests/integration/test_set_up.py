"""Set-up, unloading and removal of an entry."""

from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.helpers import device_registry as dr, entity_registry as er
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn


async def test_a_server_that_is_away(
    home: HomeAssistant, caplog: pytest.LogCaptureFixture
) -> None:
    """Set-up is tried again later, and the entry shows the reason."""
    entry = MockConfigEntry(
        domain=DOMAIN, version=2, data={"llm_base_url": "http://127.0.0.1:1"}
    )
    entry.add_to_hass(home)
    assert not await home.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    assert "cannot reach the model server" in str(entry.reason)


async def test_each_role_is_a_device(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The device has the name of its model, and is removed with its subentry."""
    entry = await make_entry(
        ollama.url,
        conversation={},
        external_llm={"external_llm_model": "llama3.2:70b"},
        embedding={},
    )
    devices = dr.async_entries_for_config_entry(dr.async_get(home), entry.entry_id)
    assert {device.model for device in devices} == {
        "Ollama",
        "llama3.2:3b",
        "llama3.2:70b",
        "nomic-embed-text",
    }
    server = next(device for device in devices if device.model == "Ollama")
    assert {device.via_device_id for device in devices} == {server.id, None}
    registry = er.async_get(home)
    (conversation,) = entry.get_subentries_of_type("conversation")
    entity_id = registry.async_get_entity_id(
        "conversation", DOMAIN, conversation.subentry_id
    )
    assert entity_id == "conversation.agent"
    state = home.states.get("conversation.agent")
    assert state
    assert state.attributes["supported_features"] == 1
    home.config_entries.async_remove_subentry(entry, "external")
    await home.async_block_till_done()
    devices = dr.async_entries_for_config_entry(dr.async_get(home), entry.entry_id)
    assert "llama3.2:70b" not in {device.model for device in devices}
    # The agent goes on without it.
    assert speech(await say(home, "Hello")).startswith("Hello!")


async def test_unload_and_set_up_again(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An entry can be unloaded and set up again, several times."""
    entry = await make_entry(ollama.url, conversation={}, embedding={})
    for _ in range(2):
        assert await home.config_entries.async_unload(entry.entry_id)
        state = home.states.get("conversation.agent")
        assert state
        assert state.state == "unavailable"
        assert await home.config_entries.async_setup(entry.entry_id)
        await home.async_block_till_done()
        assert speech(await say(home, "Hello")).startswith("Hello!")


async def test_changes_take_effect_at_once(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A changed subentry reloads the entry."""
    entry = await make_entry(ollama.url, conversation={"llm_keep_alive": "1h"})
    (subentry,) = entry.get_subentries_of_type("conversation")
    await say(home, "Hello")
    home.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, "llm_keep_alive": "-1"}
    )
    await home.async_block_till_done()
    await say(home, "Hello")
    sent = [body["keep_alive"] for body in ollama.sent("/api/chat")]
    assert sent == ["1h", -1]


async def test_an_entry_without_keep_alive_is_5m(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An entry from before the setting existed sends the default."""
    await make_entry(ollama.url, conversation={})
    await say(home, "Hello")
    assert ollama.sent("/api/chat")[0]["keep_alive"] == "5m"


async def test_a_missing_llm_api_is_spoken(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The user hears where to look, and the log names the API that is gone."""
    gone = {"llm_hass_api": ["gone"]}
    await make_entry(ollama.url, conversation=gone)
    assert "check the settings" in speech(await say(home, "Hello"))
    assert "API gone not found" in caplog.text

"""Tests of the poll of a server."""

from datetime import timedelta

from freezegun.api import FrozenDateTimeFactory
from homeassistant.config_entries import SOURCE_REAUTH
from homeassistant.core import HomeAssistant

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn


async def test_a_refused_key_is_asked_for_once(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Not with each poll: a user who closes the dialog must not see it each minute."""
    entry = await make_entry(ollama.url, conversation={})
    (coordinator,) = entry.runtime_data.coordinators.values()

    def flows() -> list[str]:
        return [
            flow["flow_id"]
            for flow in home.config_entries.flow.async_progress_by_handler(DOMAIN)
            if flow["context"]["source"] == SOURCE_REAUTH
        ]

    ollama.api_key = "another"
    await coordinator.async_refresh()
    await home.async_block_till_done()
    (flow_id,) = flows()
    home.config_entries.flow.async_abort(flow_id)
    await coordinator.async_refresh()
    await home.async_block_till_done()
    assert not flows()
    # Refused again after it was accepted: that is news.
    ollama.api_key = None
    await coordinator.async_refresh()
    ollama.api_key = "another"
    await coordinator.async_refresh()
    await home.async_block_till_done()
    assert len(flows()) == 1


async def test_polls_have_a_pause(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """A poll that is due in a moment is not repeated until the moment has come."""
    entry = await make_entry(ollama.url, conversation={})
    (coordinator,) = entry.runtime_data.coordinators.values()
    coordinator.async_request_ended()
    freezer.tick(1.999)
    await coordinator.async_refresh()
    assert coordinator.update_interval == timedelta(seconds=1)

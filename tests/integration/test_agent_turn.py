"""Turns of conversation in a real Home Assistant."""

from homeassistant.core import HomeAssistant
from pytest_homeassistant_custom_component.common import async_mock_service

from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn


async def test_turn_on_a_light(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A command runs the tool once and is answered."""
    calls = async_mock_service(home, "light", "turn_on")
    await make_entry(ollama.url, conversation={})
    result = await say(home, "turn on the kitchen light")
    assert speech(result) == "Done: Kitchen Light."
    assert [call.data["entity_id"] for call in calls] == [["light.kitchen_light"]]

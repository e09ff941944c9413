"""A voice assistant's pipeline with Home Agent as its conversation agent."""

from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
from pytest_homeassistant_custom_component.common import async_mock_service
from pytest_homeassistant_custom_component.typing import WebSocketGenerator

from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn, Reply

PIPELINE = {
    "name": "Home Agent",
    "language": "en",
    "conversation_engine": "conversation.agent",
    "conversation_language": "en",
    "stt_engine": None,
    "stt_language": None,
    "tts_engine": None,
    "tts_language": None,
    "tts_voice": None,
    "wake_word_entity": None,
    "wake_word_id": None,
    "prefer_local_intents": False,
}


async def run_pipeline(
    socket: Any, pipeline_id: str, text: str
) -> dict[str, list[Any]]:
    """Return the events of a run, by type."""
    await socket.send_json_auto_id(
        {
            "type": "assist_pipeline/run",
            "start_stage": "intent",
            "end_stage": "intent",
            "pipeline": pipeline_id,
            "input": {"text": text},
        }
    )
    assert (await socket.receive_json())["success"]
    events: dict[str, list[Any]] = {}
    while "run-end" not in events:
        event = (await socket.receive_json())["event"]
        events.setdefault(event["type"], []).append(event["data"])
    return events


async def test_a_run_streams_and_acts(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    hass_ws_client: WebSocketGenerator,
) -> None:
    """Words arrive one by one; a command acts once and reports its targets."""
    assert await async_setup_component(home, "assist_pipeline", {})
    await make_entry(ollama.url, conversation={})
    socket = await hass_ws_client(home)
    await socket.send_json_auto_id(
        {"type": "assist_pipeline/pipeline/create", **PIPELINE}
    )
    pipeline_id = (await socket.receive_json())["result"]["id"]

    ollama.brain.replies.append(Reply("The answer is forty-two, as always."))
    events = await run_pipeline(socket, pipeline_id, "What is the answer?")
    deltas = [event["chat_log_delta"] for event in events["intent-progress"]]
    assert deltas[0]["role"] == "assistant"
    words = [delta["content"] for delta in deltas if delta.get("content")]
    assert words == ["The ", "answer ", "is ", "forty-two, ", "as ", "always."]

    calls = async_mock_service(home, "light", "turn_on")
    events = await run_pipeline(socket, pipeline_id, "turn on the reading lamp")
    (end,) = events["intent-end"]
    response = end["intent_output"]["response"]
    assert response["speech"]["plain"]["speech"] == "Done."
    assert [call.data["entity_id"] for call in calls] == [["light.reading_lamp"]]
    assert end["processed_locally"] is False

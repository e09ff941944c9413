"""A voice assistant's pipeline with Home Agent as its conversation agent."""

import asyncio
from collections.abc import AsyncIterable
from typing import Any, ClassVar, override

from homeassistant.components import stt
from homeassistant.components.stt.const import DATA_COMPONENT
from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.common import async_mock_service
from pytest_homeassistant_custom_component.typing import WebSocketGenerator

from tests.conftest import MakeEntry
from tests.servers import ManualClock, OllamaStandIn, Reply

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
    assert response["speech"]["plain"]["speech"] == "Done: Reading Lamp."
    assert [call.data["entity_id"] for call in calls] == [["light.reading_lamp"]]
    assert end["processed_locally"] is False


class Microphone(stt.SpeechToTextEntity):
    """Hears a sentence as soon as the audio is over."""

    _attr_name = "Microphone"
    supported_languages: ClassVar = ["en"]
    supported_formats: ClassVar = [stt.AudioFormats.WAV]
    supported_codecs: ClassVar = [stt.AudioCodecs.PCM]
    supported_bit_rates: ClassVar = [stt.AudioBitRates.BITRATE_16]
    supported_sample_rates: ClassVar = [stt.AudioSampleRates.SAMPLERATE_16000]
    supported_channels: ClassVar = [stt.AudioChannels.CHANNEL_MONO]

    @override
    async def async_process_audio_stream(
        self, metadata: stt.SpeechMetadata, stream: AsyncIterable[bytes]
    ) -> stt.SpeechResult:
        """Return the sentence."""
        async for _ in stream:
            pass
        return stt.SpeechResult("Hello", stt.SpeechResultState.SUCCESS)


@pytest.fixture
async def microphone(home: HomeAssistant) -> None:
    """Set up speech to text."""
    assert await async_setup_component(home, "stt", {})
    await home.data[DATA_COMPONENT].async_add_entities([Microphone()])


@pytest.mark.parametrize("load_ahead", [True, False])
@pytest.mark.usefixtures("all_entities")
async def test_the_load_is_over_when_the_sentence_is(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    make_entry: MakeEntry,
    microphone: None,
    hass_ws_client: WebSocketGenerator,
    load_ahead: bool,
) -> None:
    """A load of 5 s, speech of 5 s: nothing is left of it, or all."""
    assert await async_setup_component(home, "assist_pipeline", {})
    # Nothing at the start, since 0 is not loaded ahead; but when speech begins.
    agent = {"llm_keep_alive": "0", "llm_warm_up": load_ahead}
    await make_entry(ollama.url, conversation=agent)
    ollama.load_seconds = 5
    socket = await hass_ws_client(home)
    speaking = {"stt_engine": "stt.microphone", "stt_language": "en"}
    await socket.send_json_auto_id(
        {"type": "assist_pipeline/pipeline/create", **PIPELINE, **speaking}
    )
    created = await socket.receive_json()
    assert created["success"], created
    await socket.send_json_auto_id(
        {
            "type": "assist_pipeline/run",
            "start_stage": "stt",
            "end_stage": "intent",
            "pipeline": created["result"]["id"],
            "input": {"sample_rate": 16000, "no_vad": True},
        }
    )
    assert (await socket.receive_json())["success"]
    event = (await socket.receive_json())["event"]
    assert event["type"] == "run-start"
    handler = event["data"]["runner_data"]["stt_binary_handler_id"]
    while event["type"] != "stt-start":
        event = (await socket.receive_json())["event"]
    await socket.send_bytes(bytes([handler]) + b"\0" * 1024)
    for _ in range(500):
        await asyncio.sleep(0)
    # The person speaks.
    clock.advance(5)
    for _ in range(500):
        await asyncio.sleep(0)
    await socket.send_bytes(bytes([handler]))
    while event["type"] != "intent-start":
        event = (await socket.receive_json())["event"]
    spoken_at = clock.now()
    for _ in range(2000):
        await asyncio.sleep(0)
    if not load_ahead:
        clock.advance(5)
    while event["type"] != "run-end":
        event = (await socket.receive_json())["event"]
    assert clock.now() - spoken_at == (0 if load_ahead else 5)
    assert ollama.memory.loads == ["llama3.2:3b"]
    state = home.states.get("sensor.agent_load_time")
    assert state
    assert float(state.state) == (0 if load_ahead else 5)

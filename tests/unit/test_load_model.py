"""The actions load_model and unload_model: what they send, and what may fail."""

from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import device_registry as dr, entity_registry as er
import pytest

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.servers.errors import NotSupported
from tests.conftest import MakeEntry, call_action
from tests.servers import OllamaStandIn, OpenAIStandIn, StandInModel
from tests.servers.stand_in import Fault

CLOUD_MODEL = "gpt-oss:120b-cloud"
LOCAL_MODEL = "llama3.2:70b"


@pytest.fixture
async def cloud_model(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> str:
    """Return the id of the device of an Ollama cloud model; another one is local."""
    ollama.models[CLOUD_MODEL] = StandInModel(CLOUD_MODEL)
    entry = await make_entry(
        ollama.url,
        conversation={"llm_model": CLOUD_MODEL},
        external_llm={"external_llm_model": LOCAL_MODEL},
    )
    (subentry,) = entry.get_subentries_of_type("conversation")
    registry = dr.async_get(home)
    (device,) = (
        device
        for device in dr.async_entries_for_config_entry(registry, entry.entry_id)
        if (DOMAIN, subentry.subentry_id) in device.identifiers
    )
    return device.id


def loads(server: OllamaStandIn) -> list[Any]:
    """Return the models of the requests that load a model."""
    return [body["model"] for body in server.sent("/api/generate")]


@pytest.mark.usefixtures("cloud_model")
async def test_a_call_without_devices_skips_a_cloud_model(
    home: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """It loads the model that runs on the user's own machine."""
    result = await call_action(home, "load_model")
    assert [item["model"] for item in result["models"]] == [LOCAL_MODEL]
    assert loads(ollama) == [LOCAL_MODEL]


async def test_a_cloud_model_by_its_device(
    home: HomeAssistant, ollama: OllamaStandIn, cloud_model: str
) -> None:
    """A call that names its device is refused with a translated error."""
    with pytest.raises(NotSupported) as caught:
        await call_action(home, "load_model", device_id=cloud_model)
    assert caught.value.translation_key == "not_supported"
    assert loads(ollama) == []


async def test_the_button_of_a_cloud_model(
    home: HomeAssistant, ollama: OllamaStandIn, cloud_model: str
) -> None:
    """It is refused too."""
    registry = er.async_get(home)
    (button,) = (
        entity.entity_id
        for entity in er.async_entries_for_device(registry, cloud_model)
        if entity.unique_id.endswith("_load")
    )
    with pytest.raises(NotSupported):
        await home.services.async_call(
            "button", "press", {"entity_id": button}, blocking=True
        )
    assert loads(ollama) == []


async def test_a_server_that_is_down_stops_no_other(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whichever comes first: all models are handled, and the error names the rest."""
    down = OllamaStandIn()
    async with down:
        name = f"{LOCAL_MODEL} ({down.url.removeprefix('http://')})"
        await make_entry(down.url, conversation={"llm_model": LOCAL_MODEL})
        await make_entry(ollama.url, conversation={})
        await call_action(home, "load_model")
        assert ollama.memory.residents
    with pytest.raises(HomeAssistantError) as caught:
        await home.services.async_call(DOMAIN, "unload_model", {}, blocking=True)
    assert not ollama.memory.residents
    assert caught.value.translation_key == "models_failed"
    assert caught.value.translation_placeholders == {"models": name}
    assert f"failed for {name}: ConnectionRefused" in caplog.text
    with pytest.raises(HomeAssistantError) as caught:
        await call_action(home, "load_model")
    assert ollama.memory.residents
    assert caught.value.translation_key == "models_failed"


async def test_a_server_on_the_internet(
    home: HomeAssistant,
    openai: OpenAIStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that the user has not declared as their own gets no request."""
    monkeypatch.setattr(
        "custom_components.home_agent.servers.factory.is_local", lambda url: False
    )
    await make_entry(
        openai.url,
        conversation={"llm_model": "local-model"},
        llm_server_kind="openai_compatible",
    )
    assert await call_action(home, "load_model") == {"models": []}
    assert openai.sent("/v1/chat/completions") == []


async def test_a_connection_that_was_closed_meanwhile(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The load is sent once more, as a question is."""
    await make_entry(ollama.url, conversation={"llm_model": LOCAL_MODEL})
    await home.async_block_till_done(wait_background_tasks=True)
    ollama.faults.append(Fault(hang_up_after=0))
    result = await call_action(home, "load_model")
    assert [item["model"] for item in result["models"]] == [LOCAL_MODEL]
    assert loads(ollama) == [LOCAL_MODEL] * 2


@pytest.mark.usefixtures("cloud_model")
async def test_the_device_of_a_server(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It stands for all models on this server that run on the user's own machine."""
    async with OllamaStandIn() as other:
        await make_entry(other.url, conversation={})
        await home.async_block_till_done(wait_background_tasks=True)
        host = ollama.url.removeprefix("http://")
        (device,) = (
            device
            for entry in home.config_entries.async_entries(DOMAIN)
            for device in dr.async_entries_for_config_entry(
                dr.async_get(home), entry.entry_id
            )
            if device.model == "Ollama" and host in (device.name or "")
        )
        result = await call_action(home, "load_model", device_id=device.id)
        assert [item["model"] for item in result["models"]] == [LOCAL_MODEL]
        assert loads(other) == []
        await home.services.async_call(
            DOMAIN, "unload_model", {"device_id": device.id}, blocking=True
        )
        assert not ollama.loaded(LOCAL_MODEL)

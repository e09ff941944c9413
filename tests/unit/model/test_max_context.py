"""How long a context a model may have, as its server reports it."""

from dataclasses import replace
from typing import Any

from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.model.role import ModelRole, Role
from custom_components.home_agent.servers.base import ServerKind
from tests.servers import OllamaStandIn, ollama_answers

MODEL = "llama3.2:3b"


def role_of(hass: HomeAssistant, server: OllamaStandIn, num_ctx: int) -> ModelRole:
    """Return a role that uses the model with a context size."""
    config = {
        "llm_base_url": server.url,
        "llm_model": MODEL,
        "llm_num_ctx": num_ctx,
        "llm_server_kind": "ollama",
    }
    return ModelRole(hass, config, Role.LLM)


@pytest.mark.parametrize(("num_ctx", "size"), [(2048, 2048), (9999, 4096)])
async def test_the_context_is_what_the_server_loads(
    hass: HomeAssistant, ollama: OllamaStandIn, num_ctx: int, size: int
) -> None:
    """No more than the model was trained for; the server is asked once."""
    ollama.models[MODEL] = replace(ollama.models[MODEL], context_length=4096)
    role = role_of(hass, ollama, num_ctx)
    assert role.context_size(ServerKind.OLLAMA) == num_ctx
    for _ in range(2):
        await role.async_read_max_context()
        assert role.context_size(ServerKind.OLLAMA) == size
    assert len(ollama.sent("/api/show")) == 1


@pytest.mark.parametrize(
    "info",
    [
        None,
        {},
        {"general.architecture": "llama"},
        {"general.architecture": "llama", "llama.context_length": 0},
        {"general.architecture": "llama", "llama.context_length": -4},
        {"general.architecture": "llama", "llama.context_length": "many"},
        {"general.architecture": 7, "7.context_length": 4096},
        [4096],
    ],
)
async def test_a_server_that_does_not_report_it(
    hass: HomeAssistant,
    ollama: OllamaStandIn,
    monkeypatch: pytest.MonkeyPatch,
    info: Any,
) -> None:
    """Then the size of the loaded model counts, or the one that is configured."""
    shown = ollama_answers.shown
    monkeypatch.setattr(
        ollama_answers, "shown", lambda model: shown(model) | {"model_info": info}
    )
    role = role_of(hass, ollama, 9999)
    await role.async_read_max_context()
    assert role.context_size(ServerKind.OLLAMA) == 9999
    role.use.context_length = 2048
    assert role.context_size(ServerKind.OLLAMA) == 2048


async def test_a_server_that_is_away(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """The request that follows reports it."""
    role = role_of(hass, ollama, 9999)
    await ollama.stop()
    await role.async_read_max_context()
    assert role.context_size(ServerKind.OLLAMA) == 9999

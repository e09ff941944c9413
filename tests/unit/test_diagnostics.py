"""Diagnostics: settings and measurements, without secrets and conversations."""

import json
from typing import Any

from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.helpers.json import json_dumps
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.diagnostics import (
    async_get_config_entry_diagnostics,
)
from tests.conftest import MakeEntry, say, subentry
from tests.servers import OllamaStandIn, OpenAIStandIn


async def test_diagnostics(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """They have settings, loaded models, and the adviser's table for each model."""
    entry = await make_entry(
        ollama.url.replace("http://", "http://user:password@"),
        conversation={"prompt": "You are Ada's butler.", "llm_keep_alive": "45m"},
        external_llm={
            "external_llm_model": "llama3.2:70b",
            "external_llm_base_url": ollama.url,
            "external_llm_api_key": "external-secret",
            "external_llm_prompt": "Ada likes tea.",
            "external_llm_tool_description": "Ask about Ada.",
        },
        embedding={},
        llm_proxy_headers={"X-Token": "header-secret"},
    )
    await say(home, "Where is my diary?")
    await home.async_block_till_done(wait_background_tasks=True)
    text = json_dumps(await async_get_config_entry_diagnostics(home, entry))
    for secret in ("secret", "password", "Ada", "diary"):
        assert secret not in text
    found: dict[str, Any] = json.loads(text)
    server = found["servers"][0]
    assert (server["kind"], server["answers"]) == ("ollama", True)
    assert server["loaded"][0]["name"] == "llama3.2:3b"
    models = {model["model"]: model for model in found["models"]}
    agent = models["llama3.2:3b"]
    assert (agent["keep_alive"], agent["residency"]) == ("45m", "loaded")
    assert agent["adviser"]["uses"] == 1
    candidates = [row["keep_alive"] for row in agent["adviser"]["candidates"]]
    assert "45m" in candidates
    assert models["llama3.2:70b"]["adviser"]["uses"] == 0


async def test_an_entry_that_is_not_loaded(home: HomeAssistant) -> None:
    """Its diagnostics have the settings, and nothing of the server."""
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=2,
        data={
            "llm_base_url": "http://127.0.0.1:1/path-secret",
            "llm_server_kind": "ollama",
            "llm_api_key": "key-secret",
        },
        subentries_data=[subentry("conversation", {"llm_model": "m"}, "Agent")],
    )
    entry.add_to_hass(home)
    await home.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    assert await async_get_config_entry_diagnostics(home, entry) == {
        "data": {
            "llm_base_url": "127.0.0.1:1",
            "llm_server_kind": "ollama",
            "llm_api_key": "**REDACTED**",
        },
        "subentries": [
            {"type": "conversation", "title": "Agent", "data": {"llm_model": "m"}}
        ],
    }


async def test_an_address_that_is_none(home: HomeAssistant) -> None:
    """An entry whose migration failed has diagnostics too."""
    entry = MockConfigEntry(
        domain=DOMAIN, version=1, data={"llm_base_url": "http://host:secret/v1"}
    )
    entry.add_to_hass(home)
    found = await async_get_config_entry_diagnostics(home, entry)
    assert found["data"] == {"llm_base_url": "**REDACTED**"}


async def test_only_hosts_of_addresses(
    home: HomeAssistant, openai: OpenAIStandIn, make_entry: MakeEntry
) -> None:
    """The path of an address may hold a secret."""
    base = f"{openai.url}/secret/v9"
    openai.routes[("GET", "/secret/v9/models")] = openai.routes[("GET", "/v1/models")]
    entry = await make_entry(
        base,
        conversation={"llm_model": "local-model"},
        llm_api_base=base,
        llm_server_kind="openai_compatible",
    )
    found = await async_get_config_entry_diagnostics(home, entry)
    host = openai.url.removeprefix("http://")
    assert found["data"]["llm_api_base"] == host
    assert "secret" not in json_dumps(found)

"""Diagnostics: settings and measurements, without secrets and conversations."""

import json
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.helpers.json import json_dumps

from custom_components.home_agent.diagnostics import (
    async_get_config_entry_diagnostics,
)
from tests.conftest import MakeEntry, say
from tests.servers import OllamaStandIn


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

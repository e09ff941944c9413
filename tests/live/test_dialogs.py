"""The first dialog on real servers: a small llama.cpp, and an Ollama if one is named.

HOME_AGENT_TEST_OLLAMA is the address of an Ollama with smollm2:135m (no tools) and
smollm2-tools:135m (the same file with a template that has tools).
"""

import os

from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from custom_components.home_agent.const import DOMAIN
from scripts import llama_cpp_server
from scripts.demo_home import set_up_home_agent
from tests.unit.test_config_flow import Dialogs
from tests.unit.test_demo import TestApi

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

OLLAMA = os.environ.get("HOME_AGENT_TEST_OLLAMA", "")
needs_ollama = pytest.mark.skipif(not OLLAMA, reason="no Ollama is named")


async def test_the_demo_with_llama_cpp(
    home: HomeAssistant, hass_client: ClientSessionGenerator
) -> None:
    """scripts/demo --llama-cpp: the trial is answered by a real server."""
    assert await async_setup_component(home, "config", {})
    server = llama_cpp_server.start(num_ctx=4096)
    await set_up_home_agent(TestApi(await hass_client()), server.listening_address)
    await home.async_block_till_done()
    (entry,) = home.config_entries.async_entries(DOMAIN)
    assert entry.data["llm_server_kind"] == "llama_cpp"
    assert await home.config_entries.async_unload(entry.entry_id)
    del server


@needs_ollama
@pytest.mark.parametrize("model", ["smollm2:135m", "smollm2-tools:135m"])
async def test_tools_of_a_real_ollama(
    home: HomeAssistant, hass_client: ClientSessionGenerator, model: str
) -> None:
    """A model without tools is named; one with tools is tried and accepted."""
    assert await async_setup_component(home, "config", {})
    browser = Dialogs(await hass_client())
    await browser.start()
    await browser.fill_in(llm_base_url=OLLAMA)
    result = await browser.fill_in(llm_model=model, llm_keep_alive="1m")
    if model == "smollm2:135m":
        assert result["errors"] == {"llm_hass_api": "model_cannot_use_tools"}
        result = await browser.fill_in(llm_model=model, llm_keep_alive="1m")
    assert result["type"] == "create_entry", result.get("errors")
    await home.async_block_till_done()
    (entry,) = home.config_entries.async_entries(DOMAIN)
    assert await home.config_entries.async_unload(entry.entry_id)


@needs_ollama
async def test_a_name_that_ollama_cannot_download(
    home: HomeAssistant, hass_client: ClientSessionGenerator
) -> None:
    """The form has the server's own reason, whether or not it reaches the internet."""
    assert await async_setup_component(home, "config", {})
    browser = Dialogs(await hass_client())
    await browser.start()
    await browser.fill_in(llm_base_url=OLLAMA)
    shown = await browser.fill_in(llm_model="no-such-model-here:1b")
    assert shown["type"] == "progress"
    await home.async_block_till_done(wait_background_tasks=True)
    form = await browser.fill_in()
    assert form["errors"] == {"llm_model": "model_pull_failed"}
    assert form["description_placeholders"]["error"]

"""scripts/demo fills in the dialogs for each kind of server that README names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
import re
from typing import Any

import aiohttp
from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from custom_components.home_agent.const import DOMAIN
from scripts.demo_home import parse_arguments, set_up_home_agent
from tests.servers import OllamaStandIn, OpenAIStandIn
from tests.servers.others import LlamaCppStandIn
from tests.servers.stand_in import StandIn

README = Path(__file__).parents[2] / "README.md"


class TestApi:
    """Home Assistant's API of a test, in place of that of the demo."""

    __test__ = False

    def __init__(self, client: Any) -> None:
        """Use a signed-in client."""
        self._client = client

    async def post(self, path: str, body: Any = None, *, form: bool = False) -> Any:
        """Return the JSON of an answer."""
        response: aiohttp.ClientResponse = await self._client.post(path, json=body)
        assert response.status == 200, await response.text()
        return await response.json()


@asynccontextmanager
async def served(kind: str) -> AsyncIterator[StandIn]:
    """Run a stand-in of a kind."""
    kinds: dict[str, type[StandIn]] = {
        "ollama": OllamaStandIn,
        "llama_cpp": LlamaCppStandIn,
        "openai_compatible": OpenAIStandIn,
    }
    async with kinds[kind]() as server:
        yield server


@pytest.mark.parametrize("kind", ["ollama", "llama_cpp", "openai_compatible"])
async def test_the_demo_sets_up_each_kind_of_server(
    home: HomeAssistant, hass_client: ClientSessionGenerator, kind: str
) -> None:
    """--llama-cpp and --server too: their forms may have no field for a keep_alive."""
    assert await async_setup_component(home, "config", {})
    async with served(kind) as server:
        await set_up_home_agent(TestApi(await hass_client()), server.url)
        await home.async_block_till_done()
        (entry,) = home.config_entries.async_entries(DOMAIN)
        assert entry.data["llm_server_kind"] == kind
        (agent,) = entry.get_subentries_of_type("conversation")
        expected = None if kind == "llama_cpp" else "-1"
        assert agent.data.get("llm_keep_alive") == expected


def test_the_demo_has_the_options_that_readme_names() -> None:
    """Each option in README and in scripts/demo is one that the program takes."""
    demo = README.parent / "scripts" / "demo"
    part = README.read_text().partition("## Try it")[2].partition("\n## ")[0]
    named = set(re.findall(r"--[a-z][a-z-]+", part + demo.read_text()))
    assert {"--server", "--llama-cpp"} <= named
    for option in named - {"--demo"}:
        value = {"--server": ["http://127.0.0.1:1"], "--port": ["1"]}.get(option, [])
        assert parse_arguments([option, *value])

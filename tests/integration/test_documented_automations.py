"""The automations of docs/AUTOMATIONS.md, in a real Home Assistant."""

from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from pathlib import Path
import re
from typing import Any

from homeassistant import components
from homeassistant.const import STATE_ON
from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er
from homeassistant.helpers.template import is_template_string
from homeassistant.setup import async_setup_component
from homeassistant.util import slugify
from homeassistant.util.yaml import parse_yaml
import pytest

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry, call_action
from tests.servers import OllamaStandIn


def examples_in(page: str) -> list[dict[str, Any]]:
    """Return the YAML examples of a page of the documentation."""
    text = Path(f"docs/{page}.md").read_text(encoding="utf-8")
    examples = map(parse_yaml, re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    return [example for example in examples if isinstance(example, dict)]


AUTOMATIONS = examples_in("AUTOMATIONS")
# The page assumes an agent with this name; the agent of the tests is "Agent".
DOCUMENTED_AGENT, AGENT = "home_agent_", "agent_"


def mappings_in(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield each mapping in an automation."""
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from mappings_in(value)
    elif isinstance(node, list):
        for item in node:
            yield from mappings_in(item)


def actions_of(automation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the steps of an automation that call an action."""
    return [item for item in mappings_in(automation["actions"]) if "action" in item]


@cache
def actions_of_home_assistant(domain: str) -> frozenset[str]:
    """Return the actions that an integration of Home Assistant describes."""
    (folder,) = components.__path__
    described = parse_yaml(Path(folder, domain, "services.yaml").read_text())
    assert isinstance(described, dict)
    return frozenset(described)


@pytest.fixture
async def agent(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    all_entities: None,
) -> AsyncIterator[None]:
    """Set up an agent with an embedding model, and all entities."""
    await make_entry(ollama.url, conversation={}, embedding={})
    yield
    for automation in home.states.async_entity_ids("automation"):
        data = {"entity_id": automation}
        await home.services.async_call("automation", "turn_off", data, blocking=True)


def test_there_are_ten() -> None:
    """Each has a name of its own."""
    assert len({item["alias"] for item in AUTOMATIONS}) == len(AUTOMATIONS) == 10


@pytest.mark.parametrize("automation", AUTOMATIONS, ids=lambda item: item["alias"])
@pytest.mark.usefixtures("agent")
async def test_automation(home: HomeAssistant, automation: dict[str, Any]) -> None:
    """Home Assistant loads it, and what it names exists."""
    assert await async_setup_component(home, "automation", {"automation": automation})
    state = home.states.get(f"automation.{slugify(automation['alias'])}")
    assert state is not None
    assert state.state == STATE_ON
    assert actions_of(automation)
    for step in actions_of(automation):
        domain, name = step["action"].split(".")
        if domain != DOMAIN:
            assert name in actions_of_home_assistant(domain)
            continue
        schema = home.services.async_services()[DOMAIN][name].schema
        assert schema is not None
        schema(step.get("data", {}))
    registry = er.async_get(home)
    named = re.findall(
        rf"\b(?:sensor|event|button)\.{DOCUMENTED_AGENT}\w+", str(automation)
    )
    for entity_id in named:
        assert entity_id.replace(DOCUMENTED_AGENT, AGENT, 1) in registry.entities


@pytest.mark.usefixtures("agent")
async def test_load_with_a_template(home: HomeAssistant, ollama: OllamaStandIn) -> None:
    """The first example finds the device by its entity, and loads only its model."""
    automation = AUTOMATIONS[0]
    text = str(automation["actions"]).replace(DOCUMENTED_AGENT, AGENT)
    assert is_template_string(text)
    actions = [
        {
            **step,
            "data": {
                key: value.replace(DOCUMENTED_AGENT, AGENT)
                for key, value in step["data"].items()
            },
        }
        for step in automation["actions"]
    ]
    config = {"automation": {**automation, "conditions": [], "actions": actions}}
    assert await async_setup_component(home, "automation", config)
    await home.services.async_call(
        "automation",
        "trigger",
        {"entity_id": f"automation.{slugify(automation['alias'])}"},
        blocking=True,
    )
    (body,) = ollama.sent("/api/generate")
    assert (body["model"], body["keep_alive"]) == ("llama3.2:3b", "3h")


async def test_script_of_the_page_about_moving(home: HomeAssistant) -> None:
    """It is loaded under its name, and may be exposed."""
    (script,) = examples_in("MOVING")
    assert await async_setup_component(home, "script", {"script": script})
    assert home.services.has_service("script", "movie_night")
    assert "turn_on" in actions_of_home_assistant("light")


@pytest.mark.usefixtures("agent")
async def test_search_has_the_documented_answer(home: HomeAssistant) -> None:
    """The sixth example reads the first entity of the answer."""
    (step,) = [s for s in actions_of(AUTOMATIONS[5]) if s["action"].startswith(DOMAIN)]
    found = await call_action(home, "search_entities", **step["data"])
    assert found["entities"][0]["entity_id"] == "light.reading_lamp"

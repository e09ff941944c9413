"""What the tests share: Home Assistant with Home Agent, and servers for it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigSubentryData, ConfigSubentryDataWithId
from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import (
    area_registry as ar,
    entity_registry as er,
    floor_registry as fr,
)
from homeassistant.helpers.entity import Entity
from homeassistant.setup import async_setup_component
from hypothesis import HealthCheck, settings
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

# Before hass mounts a custom_components package of its own.
import custom_components.home_agent
from custom_components.home_agent.const import (
    DOMAIN,
    SUBENTRY_AI_TASK,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)

from .servers import ManualClock, OllamaStandIn, OpenAIStandIn

assert custom_components.home_agent

# Property tests draw the same examples in every run, unless
# --hypothesis-profile=thorough --timeout=0 is given.
settings.register_profile(
    "repeatable",
    max_examples=200,
    derandomize=True,
    # Nothing is kept from run to run, so nothing of a run is in the repository.
    database=None,
    # A machine that is busy is no failure.
    deadline=None,
    # All examples of a test share its Home Assistant and its servers.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "thorough",
    settings.get_profile("repeatable"),
    max_examples=100_000,
    derandomize=False,
)
settings.load_profile("repeatable")

type MakeEntry = Callable[..., Awaitable[MockConfigEntry]]


@pytest.fixture(autouse=True)
def _integration(enable_custom_integrations: None, socket_enabled: None) -> None:
    """Let Home Assistant find the integration, and tests use loopback."""


@pytest.fixture(autouse=True)
def _no_pause_before_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat a lost request at once: no test sleeps."""
    monkeypatch.setattr("custom_components.home_agent.servers.retry.RETRY_PAUSE", 0.0)


@pytest.fixture
def hass_config_dir(tmp_path: Path) -> str:
    """Return an empty configuration folder for each test."""
    return str(tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    """Return the time of the stand-in Ollama."""
    return ManualClock()


@pytest.fixture
async def ollama(clock: ManualClock) -> AsyncIterator[OllamaStandIn]:
    """Return a stand-in Ollama that serves on loopback."""
    async with OllamaStandIn(clock=clock) as server:
        yield server


@pytest.fixture
async def openai() -> AsyncIterator[OpenAIStandIn]:
    """Return an OpenAI-compatible stand-in that takes any field."""
    async with OpenAIStandIn() as server:
        yield server


@pytest.fixture
def all_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enable entities that are disabled by default."""
    monkeypatch.setattr(Entity, "entity_registry_enabled_default", True)


@pytest.fixture
async def home(hass: HomeAssistant) -> HomeAssistant:
    """Return a Home Assistant with a small home."""
    assert await async_setup_component(hass, "homeassistant", {})
    floor = fr.async_get(hass).async_create("Ground Floor")
    kitchen = ar.async_get(hass).async_create("Kitchen", floor_id=floor.floor_id)
    bedroom = ar.async_get(hass).async_create("Bedroom")
    registry = er.async_get(hass)
    for domain, name, area, attributes, state in (
        ("light", "Kitchen Light", kitchen, {}, "off"),
        ("light", "Reading Lamp", bedroom, {}, "off"),
        (
            "sensor",
            "Bedroom Temperature",
            bedroom,
            {"device_class": "temperature", "unit_of_measurement": "°C"},
            "19.5",
        ),
        ("switch", "Coffee Machine", kitchen, {}, "off"),
    ):
        entry = registry.async_get_or_create(
            domain, "test", name, original_name=name, suggested_object_id=name
        )
        registry.async_update_entity(entry.entity_id, area_id=area.id)
        hass.states.async_set(
            entry.entity_id, state, {"friendly_name": name, **attributes}
        )
        async_expose_entity(hass, conversation.DOMAIN, entry.entity_id, True)
    assert await async_setup_component(hass, "intent", {})
    assert await async_setup_component(hass, "conversation", {})
    # It has pages of its own, and none can be added once a test has an HTTP client.
    assert await async_setup_component(hass, "ai_task", {})
    await hass.async_block_till_done()
    return hass


def subentry(kind: str, data: dict[str, Any], title: str = "") -> ConfigSubentryData:
    """Return a subentry for an entry of a test."""
    return ConfigSubentryData(
        subentry_type=kind,
        title=title or kind.replace("_", " ").title(),
        unique_id=None,
        data=data,
    )


@pytest.fixture
def make_entry(home: HomeAssistant) -> MakeEntry:
    """Return a function that sets up an entry with the given subentries.

    Without a role's data there is no such subentry. Nothing is loaded ahead
    unless the data says so.
    """

    async def make(
        url: str,
        *,
        conversation: dict[str, Any] | None = None,
        external_llm: dict[str, Any] | None = None,
        embedding: dict[str, Any] | None = None,
        ai_task: dict[str, Any] | None = None,
        **data: Any,
    ) -> MockConfigEntry:
        subentries: list[ConfigSubentryData | ConfigSubentryDataWithId] = []
        if external_llm is not None:
            external_llm = {"external_llm_warm_up": False, **external_llm}
            external = subentry(SUBENTRY_EXTERNAL_LLM, external_llm)
            subentries.append({**external, "subentry_id": "external"})
            conversation = {"external_llms": ["external"], **(conversation or {})}
        if conversation is not None:
            base = {
                "llm_model": "llama3.2:3b",
                "llm_hass_api": ["assist"],
                "llm_warm_up": False,
            }
            subentries.append(
                subentry(SUBENTRY_CONVERSATION, base | conversation, "Agent")
            )
        if embedding is not None:
            base = {
                "embedding_model": "nomic-embed-text",
                "embedding_warm_up": False,
            }
            subentries.append(subentry(SUBENTRY_EMBEDDING, base | embedding))
        if ai_task is not None:
            base = {"llm_model": "llama3.2:3b", "llm_warm_up": False}
            subentries.append(subentry(SUBENTRY_AI_TASK, base | ai_task, "Task"))
        entry = MockConfigEntry(
            domain=DOMAIN,
            version=2,
            title="Test",
            data={"llm_base_url": url, **data},
            subentries_data=subentries,
        )
        entry.add_to_hass(home)
        assert await home.config_entries.async_setup(entry.entry_id)
        await home.async_block_till_done()
        return entry

    return make


async def say(
    hass: HomeAssistant,
    text: str,
    conversation_id: str | None = None,
    agent_id: str = "conversation.agent",
) -> conversation.ConversationResult:
    """Return the agent's answer to a sentence."""
    return await conversation.async_converse(
        hass, text, conversation_id, Context(), language="en", agent_id=agent_id
    )


async def call_action(hass: HomeAssistant, action: str, **data: Any) -> dict[str, Any]:
    """Call an action of Home Agent and return its response."""
    response = await hass.services.async_call(
        DOMAIN, action, data, blocking=True, return_response=True
    )
    assert isinstance(response, dict)
    return response


def speech(result: conversation.ConversationResult) -> str:
    """Return what is spoken."""
    said: str = result.response.speech["plain"]["speech"]
    return said

"""A key that a server refuses opens the dialog for a new key of that role."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from homeassistant.config_entries import SOURCE_REAUTH
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.util import dt as dt_util
import pytest
from pytest_homeassistant_custom_component.common import async_fire_time_changed

from tests.conftest import MakeEntry, call_action, say
from tests.servers import OllamaStandIn, OpenAIStandIn, Reply, ToolUse

ASK = ToolUse("home_agent__ask_external_llm", {"prompt": "Why?"})


@pytest.fixture
async def locked() -> AsyncIterator[OllamaStandIn]:
    """Return an Ollama behind a key."""
    async with OllamaStandIn(api_key="right") as server:
        yield server


async def dialogs(hass: HomeAssistant) -> list[str]:
    """Return the field of each dialog that asks for a key."""
    fields: list[str] = []
    for flow in hass.config_entries.flow.async_progress():
        assert flow["context"]["source"] == SOURCE_REAUTH
        form = await hass.config_entries.flow.async_configure(flow["flow_id"])
        schema = form["data_schema"]
        assert schema
        fields += [str(marker) for marker in schema.schema]
    return fields


async def poll(hass: HomeAssistant) -> None:
    """Let the next poll happen."""
    await hass.async_block_till_done(wait_background_tasks=True)
    async_fire_time_changed(hass, dt_util.utcnow() + timedelta(seconds=61))
    await hass.async_block_till_done(wait_background_tasks=True)


def own(role: str, server: str, key: str, **more: Any) -> dict[str, Any]:
    """Return the data of a role with an address and a key of its own."""
    model = {"external_llm": "llama3.2:70b", "embedding": "nomic-embed-text"}[role]
    return {
        f"{role}_model": model,
        f"{role}_base_url": server,
        f"{role}_api_key": key,
        **more,
    }


async def test_the_key_of_the_entry_in_a_poll(
    home: HomeAssistant, locked: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Once, however many polls follow; the agent is back with the key."""
    await make_entry(locked.url, conversation={}, llm_api_key="right")
    await poll(home)
    assert await dialogs(home) == []
    locked.api_key = "another"
    for _ in range(3):
        await poll(home)
        assert await dialogs(home) == ["llm_api_key"]
    state = home.states.get("conversation.agent")
    assert state
    assert state.state == "unavailable"
    locked.api_key = "right"
    await poll(home)
    state = home.states.get("conversation.agent")
    assert state
    assert state.state != "unavailable"


@pytest.mark.parametrize("role", ["external_llm", "embedding"])
async def test_the_key_of_a_role_in_a_poll(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    locked: OllamaStandIn,
    make_entry: MakeEntry,
    role: str,
) -> None:
    """Its own server refuses its own key."""
    data = own(role, locked.url, "right", **{f"{role}_server_kind": "ollama"})
    await make_entry(ollama.url, conversation={}, **{role: data})
    await poll(home)
    assert await dialogs(home) == []
    locked.api_key = "another"
    await poll(home)
    assert await dialogs(home) == [f"{role}_api_key"]


@pytest.mark.parametrize("kind", [None, "openai_compatible"])
@pytest.mark.parametrize("role", ["external_llm", "embedding"])
async def test_the_first_contact_with_a_server_that_is_not_polled(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    role: str,
    kind: str | None,
) -> None:
    """It refuses the key before any question needs it."""
    async with OpenAIStandIn(api_key="right") as server:
        data = own(role, server.url, "wrong")
        if kind is not None:
            data[f"{role}_server_kind"] = kind
        await make_entry(ollama.url, conversation={}, **{role: data})
        await home.async_block_till_done(wait_background_tasks=True)
        assert await dialogs(home) == [f"{role}_api_key"]


async def test_a_key_of_a_role_on_the_server_of_the_entry(
    home: HomeAssistant, locked: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The polls use the entry's key, and the load in advance the role's own."""
    await make_entry(
        locked.url,
        llm_api_key="right",
        conversation={},
        embedding={"embedding_api_key": "wrong", "embedding_warm_up": True},
    )
    await poll(home)
    assert await dialogs(home) == ["embedding_api_key"]


async def test_the_key_of_the_external_llm_in_a_request(
    home: HomeAssistant, locked: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A question asks it."""
    await make_entry(
        locked.url,
        llm_api_key="right",
        conversation={},
        external_llm={
            "external_llm_model": "llama3.2:70b",
            "external_llm_api_key": "wrong",
        },
    )
    locked.brain.replies.extend([Reply(tools=(ASK,)), Reply("It does not answer.")])
    await say(home, "Why?")
    await home.async_block_till_done(wait_background_tasks=True)
    assert await dialogs(home) == ["external_llm_api_key"]


async def test_the_key_of_the_embedding_model_in_a_request(
    home: HomeAssistant, locked: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The index needs it."""
    await make_entry(
        locked.url,
        llm_api_key="right",
        conversation={},
        embedding={"embedding_api_key": "wrong"},
    )
    with pytest.raises(HomeAssistantError):
        await call_action(home, "reindex")
    await home.async_block_till_done(wait_background_tasks=True)
    assert await dialogs(home) == ["embedding_api_key"]


async def test_a_wrong_key_of_a_role_is_no_outage(
    home: HomeAssistant, locked: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The dialog is opened at the start, and the agent goes on with its own key."""
    await make_entry(
        locked.url,
        llm_api_key="right",
        conversation={},
        external_llm={
            "external_llm_model": "llama3.2:70b",
            "external_llm_api_key": "wrong",
        },
    )
    await poll(home)
    assert await dialogs(home) == ["external_llm_api_key"]
    state = home.states.get("conversation.agent")
    assert state
    assert state.state != "unavailable"

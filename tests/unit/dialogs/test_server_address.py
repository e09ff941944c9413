"""What becomes of an address: its password, its API, and whose server it is of."""

import logging
from typing import Any

from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.dialogs.server_address import clean_address
from custom_components.home_agent.model.role import Role
from custom_components.home_agent.model.use import STORAGE_KEY, model_uses
from custom_components.home_agent.servers.address import server_id
from tests.conftest import MakeEntry, say, subentry
from tests.servers import OllamaStandIn, OpenAIStandIn
from tests.unit.servers.test_detect import MODELS, paths
from tests.unit.test_config_flow import Dialogs, fields

BASIC = "Basic dXNlcjpzZWNyZXQ="


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every address be one on the internet."""
    monkeypatch.setattr(
        "custom_components.home_agent.servers.factory.is_local", lambda url: False
    )


def with_password(url: str) -> str:
    """Return an address with a user and a password."""
    return url.replace("http://", "http://user:secret@")


# --- Passwords --------------------------------------------------------------------


async def test_a_password_leaves_the_address(
    home: HomeAssistant,
    browser: Dialogs,
    ollama: OllamaStandIn,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is stored as a header; no id, title or log has it."""
    caplog.set_level(logging.DEBUG)
    await browser.start()
    await browser.fill_in(llm_base_url=with_password(ollama.url))
    assert ollama.requests[-1].headers["Authorization"] == BASIC
    result = await browser.fill_in(llm_model="llama3.2:3b")
    assert result["type"] == "create_entry"
    await home.async_block_till_done(wait_background_tasks=True)
    (entry,) = home.config_entries.async_entries(DOMAIN)
    assert entry.state is ConfigEntryState.LOADED
    assert entry.data["llm_base_url"] == entry.unique_id == ollama.url
    assert entry.data["llm_proxy_headers"] == {"Authorization": BASIC}
    await say(home, "Hello", agent_id="conversation.home_agent")
    assert all(item.headers["Authorization"] == BASIC for item in ollama.requests)
    ours = [r.getMessage() for r in caplog.records if "home_agent" in r.name]
    assert ours
    for secret in ("secret", BASIC, BASIC.removeprefix("Basic ")):
        assert not any(secret in text for text in (*ours, entry.title))
    # The form shows the address without it, and keeps it for the same server.
    await browser.start(DOMAIN, entry_id=entry.entry_id)
    await browser.fill_in(llm_base_url=ollama.url, llm_server_kind="automatic")
    assert entry.data["llm_proxy_headers"] == {"Authorization": BASIC}


async def test_a_password_and_a_key(browser: Dialogs, ollama: OllamaStandIn) -> None:
    """Both go into one header: the user must choose."""
    await browser.start()
    url = with_password(ollama.url)
    form = await browser.fill_in(llm_base_url=url, llm_api_key="key")
    assert form["errors"] == {"llm_base_url": "cannot_use_both"}
    assert not ollama.requests
    await browser.fill_in(llm_base_url=ollama.url)
    external = {
        "external_llm_base_url": url,
        "external_llm_api_key": "key",
        "external_llm_model": "llama3.2:70b",
    }
    form = await browser.fill_in(llm_model="llama3.2:3b", external_llm=external)
    assert form["errors"]["external_llm"] == "external_llm_cannot_use_both"


@pytest.mark.parametrize(
    ("url", "api_key", "kept"),
    [
        ("http://h:1/v1", None, {"Authorization": BASIC, "X": "y"}),
        ("http://h:1", "key", {"X": "y"}),
        ("http://other:1", None, None),
        ("http://new:pw@h:1", None, {"Authorization": "Basic bmV3OnB3", "X": "y"}),
    ],
)
def test_headers_belong_to_one_server(
    url: str, api_key: str | None, kept: dict[str, str] | None
) -> None:
    """Another server does not get them; a new key takes the place of a password."""
    stored = {
        "llm_base_url": "http://h:1",
        "llm_proxy_headers": {"Authorization": BASIC, "X": "y"},
    }
    values: dict[str, Any] = {"llm_base_url": url, "llm_api_key": api_key}
    assert clean_address(values, Role.LLM, stored) is None
    assert values.get("llm_proxy_headers") == kept


async def test_an_entry_with_a_password_in_its_address(
    home: HomeAssistant, ollama: OllamaStandIn, hass_storage: dict[str, Any]
) -> None:
    """Earlier versions stored it so: it works on, and nothing holds it any more."""
    url = with_password(ollama.url)
    history = {"uses": [], "loads": [], "characters_per_token": 4.0}
    hass_storage[STORAGE_KEY] = {
        "version": 1,
        "key": STORAGE_KEY,
        "data": {f"{url} llama3.2:3b": history},
    }
    external = {
        "external_llm_model": "llama3.2:70b",
        "external_llm_base_url": url,
        "external_llm_warm_up": False,
    }
    agent = {"llm_model": "llama3.2:3b", "llm_warm_up": False}
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=2,
        unique_id=url,
        data={"llm_base_url": f"{url}/v1"},
        subentries_data=[
            subentry("external_llm", external),
            subentry("conversation", agent, "Agent"),
        ],
    )
    entry.add_to_hass(home)
    assert await home.config_entries.async_setup(entry.entry_id)
    await home.async_block_till_done()
    assert entry.unique_id == ollama.url
    assert entry.data["llm_base_url"] == f"{ollama.url}/v1"
    stored = next(iter(entry.subentries.values())).data
    assert stored["external_llm_base_url"] == ollama.url
    assert stored["external_llm_proxy_headers"] == {"Authorization": BASIC}
    await say(home, "Hello")
    assert {item.headers.get("Authorization") for item in ollama.requests} == {BASIC}
    assert "secret" not in str(model_uses(home)._uses.keys())
    assert all(key.startswith(f"{ollama.url} ") for key in model_uses(home)._uses)


async def test_two_ways_to_write_one_server(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """Localhost and 127.0.0.1 are set up once."""
    url = ollama.url.replace("127.0.0.1", "localhost")
    MockConfigEntry(
        domain=DOMAIN,
        version=2,
        unique_id=server_id(f"{url}/v1"),
        data={"llm_base_url": f"{url}/v1"},
    ).add_to_hass(home)
    await browser.start()
    result = await browser.fill_in(llm_base_url=f"{ollama.url}/v1/")
    assert (result["type"], result["reason"]) == ("abort", "already_configured")


# --- The place of the API ---------------------------------------------------------


async def test_the_place_of_the_api_is_stored(
    home: HomeAssistant, browser: Dialogs
) -> None:
    """And forgotten when the address changes."""
    chat = {"choices": [{"message": {"content": "Hi"}}]}
    served = {"/v1/openai/models": MODELS, "/v1/openai/chat/completions": chat}
    async with paths(served) as (url, requests):
        await browser.start()
        await browser.fill_in(llm_base_url=f"{url}/v1/openai")
        # This server cannot stream, which the dialog says once.
        form = await browser.fill_in(llm_model="m")
        assert form["errors"] == {"llm_model": "model_trial_failed"}
        result = await browser.fill_in(llm_model="m")
        assert result["type"] == "create_entry"
        (entry,) = home.config_entries.async_entries(DOMAIN)
        assert entry.data["llm_api_base"] == f"{url}/v1/openai"
        await home.async_block_till_done(wait_background_tasks=True)
        assert entry.state is ConfigEntryState.LOADED
        assert "POST /v1/openai/chat/completions" in requests
        assert "POST /v1/chat/completions" not in requests
    async with paths({"/v1/models": MODELS}) as (url, _):
        await browser.start(DOMAIN, entry_id=entry.entry_id)
        await browser.fill_in(llm_base_url=url, llm_server_kind="automatic")
        assert "llm_api_base" not in entry.data
        assert entry.data["llm_base_url"] == url


# --- Whose server it is -----------------------------------------------------------


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize("is_own", [False, True])
async def test_a_server_on_the_internet(
    home: HomeAssistant, browser: Dialogs, openai: OpenAIStandIn, *, is_own: bool
) -> None:
    """Without the user's word it gets no keep_alive and no request of our own."""
    await browser.start()
    form = await browser.fill_in(llm_base_url=openai.url)
    assert not fields(form)["llm_server_is_own"]["default"]
    result = await browser.fill_in(
        llm_model="local-model", llm_keep_alive="45m", llm_server_is_own=is_own
    )
    assert result["type"] == "create_entry"
    # The trial request of the dialog, whether the server refuses a keep_alive.
    assert [item.body["keep_alive"] for item in openai.asked] == ["45m"] * is_own
    (entry,) = home.config_entries.async_entries(DOMAIN)
    assert entry.data["llm_server_is_own"] is is_own
    openai.requests.clear()
    await say(home, "Hello", agent_id="conversation.home_agent")
    answered = openai.sent("/v1/chat/completions")[-1]
    assert answered.get("keep_alive") == ("45m" if is_own else None)


async def test_a_server_at_home_is_not_asked_about(
    browser: Dialogs, openai: OpenAIStandIn
) -> None:
    """Its address says that it is the user's own."""
    await browser.start()
    form = await browser.fill_in(llm_base_url=openai.url)
    assert "llm_server_is_own" not in fields(form)


@pytest.mark.usefixtures("public")
async def test_an_ollama_on_the_internet_is_the_users(
    browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """It honors a keep_alive, so there is nothing to ask."""
    await browser.start()
    form = await browser.fill_in(llm_base_url=ollama.url)
    assert "llm_server_is_own" not in fields(form)


async def test_reconfigure_to_a_server_on_the_internet(
    make_entry: MakeEntry,
    browser: Dialogs,
    openai: OpenAIStandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The form comes back with the question, which is not asked at home."""
    entry = await make_entry(openai.url, conversation={})
    with monkeypatch.context() as patch:
        patch.setattr(
            "custom_components.home_agent.servers.factory.is_local", lambda url: False
        )
        form = await browser.start(DOMAIN, entry_id=entry.entry_id)
        assert "llm_server_is_own" not in fields(form)
        values = {"llm_base_url": openai.url, "llm_server_kind": "automatic"}
        form = await browser.fill_in(**values)
        assert (form["type"], form["errors"]) == ("form", {})
        assert "llm_server_is_own" in fields(form)
        result = await browser.fill_in(**values, llm_server_is_own=True)
        assert result["reason"] == "reconfigure_successful"
        assert entry.data["llm_server_is_own"] is True
    form = await browser.start(DOMAIN, entry_id=entry.entry_id)
    assert fields(form)["llm_server_is_own"]["description"]["suggested_value"]
    await browser.fill_in(**values, llm_server_is_own=True)
    assert "llm_server_is_own" not in entry.data


async def test_a_role_with_a_server_on_the_internet(
    home: HomeAssistant,
    make_entry: MakeEntry,
    browser: Dialogs,
    ollama: OllamaStandIn,
    openai: OpenAIStandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The question belongs to the server of the role; its password stays."""
    entry = await make_entry(ollama.url, conversation={})
    monkeypatch.setattr(
        "custom_components.home_agent.servers.factory.is_local", lambda url: False
    )
    await browser.start([entry.entry_id, "external_llm"])
    form = await browser.fill_in(external_llm_base_url=with_password(openai.url))
    assert "external_llm_server_is_own" in fields(form)
    settings = {
        "external_llm_model": "local-model",
        "external_llm_conversation": "nothing",
        "external_llm_keep_alive": "45m",
        "advanced": {"external_llm_think": "default"},
    }
    result = await browser.fill_in(**settings, external_llm_server_is_own=True)
    assert result["type"] == "create_entry"
    assert openai.asked[-1].body["keep_alive"] == "45m"
    added = next(
        item
        for item in entry.subentries.values()
        if item.subentry_type == "external_llm"
    )
    assert added.data["external_llm_server_is_own"] is True
    assert added.data["external_llm_base_url"] == openai.url
    assert added.data["external_llm_proxy_headers"] == {"Authorization": BASIC}
    await home.async_block_till_done()
    await browser.start([entry.entry_id, "external_llm"], subentry_id=added.subentry_id)
    await browser.fill_in(external_llm_base_url=openai.url)
    await browser.fill_in(**settings, external_llm_server_is_own=False)
    changed = entry.subentries[added.subentry_id].data
    assert changed["external_llm_server_is_own"] is False
    assert changed["external_llm_proxy_headers"] == {"Authorization": BASIC}

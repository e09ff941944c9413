"""Several keys for one server, and the headers that users add."""

from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.dialogs.headers import (
    InvalidHeaders,
    with_headers,
    with_headers_as_text,
)
from custom_components.home_agent.model.role import Role
from tests.conftest import MakeEntry, say
from tests.servers import OllamaStandIn
from tests.unit.test_config_flow import Dialogs, fields, page_data, suggested

BASIC = "Basic dXNlcjpzZWNyZXQ="


async def set_up(browser: Dialogs, url: str, **more: object) -> dict[str, object]:
    """Return the result of the first dialog with a server and a model."""
    await browser.start()
    form = await browser.fill_in(llm_base_url=url, **more)
    if form.get("step_id") != "models":
        return form
    return await browser.fill_in(llm_model="llama3.2:3b")


async def test_a_second_key_for_the_same_server(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """It is another entry, with its own key; the same key is set up once."""
    url = ollama.url
    for key in ("one", "two", "three"):
        result = await set_up(browser, f"{url}/v1", llm_api_key=key)
        assert result["type"] == "create_entry"
        await home.async_block_till_done()
    result = await set_up(browser, f"{url}/", llm_api_key="two")
    assert result["reason"] == "already_configured"
    first, second, third = home.config_entries.async_entries(DOMAIN)
    host = url.removeprefix("http://")
    assert [first.title, second.title, third.title] == [
        *(f"Ollama ({host})", f"Ollama 2 ({host})", f"Ollama 3 ({host})"),
    ]
    assert (first.unique_id, second.unique_id) == (url, None)
    for agent, key in (("home_agent", "one"), ("home_agent_2", "two")):
        ollama.requests.clear()
        await say(home, "Hello", agent_id=f"conversation.{agent}")
        sent = {item.headers["Authorization"] for item in ollama.asked}
        assert sent == {f"Bearer {key}"}
    # A reconfigure to the key of another entry is refused, to a new one it is not.
    for key, reason in (
        ("one", "already_configured"),
        ("four", "reconfigure_successful"),
    ):
        await browser.start(DOMAIN, entry_id=second.entry_id)
        result = await browser.fill_in(
            llm_base_url=url, llm_server_kind="automatic", llm_api_key=key
        )
        assert result["reason"] == reason
        await home.async_block_till_done()
    assert second.data["llm_api_key"] == "four"
    assert (first.unique_id, second.unique_id) == (url, None)


async def test_two_dialogs_for_one_server_and_key(
    browser: Dialogs, second_browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """The one that ends first wins; the other one is gone."""
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url, llm_api_key="key")
    assert (await set_up(second_browser, ollama.url, llm_api_key="key"))["type"] == (
        "create_entry"
    )
    result = await set_up(browser, ollama.url, llm_api_key="key")
    assert result["reason"] == "already_configured"


async def test_headers_of_the_server(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """They are written in the first dialog, sent, shown again, changed and removed."""
    await browser.start()
    text = "X-API-Key: abc:def\n\n  CF-Access : x y \n"
    form = await browser.fill_in(
        llm_base_url=ollama.url, headers={"llm_proxy_headers": text}
    )
    assert form["step_id"] == "models"
    sent = ollama.requests[-1].headers
    assert (sent["X-API-Key"], sent["CF-Access"]) == ("abc:def", "x y")
    await browser.fill_in(llm_model="llama3.2:3b")
    await home.async_block_till_done()
    (entry,) = home.config_entries.async_entries(DOMAIN)
    stored = {"X-API-Key": "abc:def", "CF-Access": "x y"}
    assert entry.data["llm_proxy_headers"] == stored
    # An untouched page changes nothing; the section is open, so all of it is seen.
    form = await browser.start(DOMAIN, entry_id=entry.entry_id)
    shown = suggested(form, "headers")["llm_proxy_headers"]
    assert shown == "X-API-Key: abc:def\nCF-Access: x y"
    assert fields(form)["headers"]["expanded"]
    await browser.fill_in(**page_data(form["data_schema"]))
    await home.async_block_till_done()
    assert entry.data["llm_proxy_headers"] == stored
    for section, left in (
        ({"llm_proxy_headers": "X-API-Key: new"}, {"X-API-Key": "new"}),
        ({}, None),
    ):
        await browser.start(DOMAIN, entry_id=entry.entry_id)
        await browser.fill_in(
            llm_base_url=ollama.url, llm_server_kind="automatic", headers=section
        )
        await home.async_block_till_done()
        assert entry.data.get("llm_proxy_headers") == left
    form = await browser.start(DOMAIN, entry_id=entry.entry_id)
    assert not fields(form)["headers"]["expanded"]


async def test_headers_of_a_role(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """They belong to its own server; without one they are those of the entry."""
    entry = await make_entry(ollama.url, conversation={})
    headers = {"external_llm_proxy_headers": "X-API-Key: abc"}
    async with OllamaStandIn() as server:
        await browser.start([entry.entry_id, "external_llm"])
        await browser.fill_in(external_llm_base_url=server.url, headers=headers)
        values = {"external_llm_model": "llama3.2:70b", "advanced": {}}
        result = await browser.fill_in(**values)
        assert result["type"] == "create_entry"
        await home.async_block_till_done(wait_background_tasks=True)
        (role,) = entry.get_subentries_of_type("external_llm")
        assert role.data["external_llm_proxy_headers"] == {"X-API-Key": "abc"}
        assert {item.headers.get("X-API-Key") for item in server.requests} == {"abc"}
        form = await browser.start(
            [entry.entry_id, "external_llm"], subentry_id=role.subentry_id
        )
        assert suggested(form, "headers") == headers
        await browser.fill_in(headers=headers)
        await browser.fill_in(**values)
        await home.async_block_till_done(wait_background_tasks=True)
    stored = entry.subentries[role.subentry_id].data
    assert "external_llm_proxy_headers" not in stored
    assert "X-API-Key" not in ollama.requests[-1].headers


@pytest.mark.parametrize(
    "text",
    [
        "no colon",
        ": value",
        "Name:",
        "Na me: x",
        "A: 1\na: 2",
        "Content-Length: 5",
        "transfer-encoding: chunked",
        "A: ü",
        "A: b\x00c",
    ],
)
async def test_invalid_headers(
    browser: Dialogs, ollama: OllamaStandIn, text: str
) -> None:
    """The section opens with the error, and keeps what was written."""
    await browser.start()
    section = {"llm_proxy_headers": text}
    form = await browser.fill_in(llm_base_url=ollama.url, headers=section)
    assert form["errors"] == {
        "llm_proxy_headers": "invalid_headers",
        "headers": "invalid_headers",
    }
    assert fields(form)["headers"]["expanded"]
    assert suggested(form, "headers") == section
    assert not ollama.requests


async def test_a_key_and_a_header_for_it(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """Both typed at once are refused; a new key replaces a stored password."""
    await browser.start()
    header = {"llm_proxy_headers": f"authorization: {BASIC}"}
    form = await browser.fill_in(
        llm_base_url=ollama.url, llm_api_key="key", headers=header
    )
    assert form["errors"] == {"llm_base_url": "cannot_use_both"}
    await browser.fill_in(llm_base_url=ollama.url, headers=header)
    await browser.fill_in(llm_model="llama3.2:3b")
    await home.async_block_till_done()
    (entry,) = home.config_entries.async_entries(DOMAIN)
    assert entry.data["llm_proxy_headers"] == {"Authorization": BASIC}
    form = await browser.start(DOMAIN, entry_id=entry.entry_id)
    page = page_data(form["data_schema"])
    await browser.fill_in(**page, llm_api_key="key")
    await home.async_block_till_done()
    assert entry.data["llm_api_key"] == "key"
    assert "llm_proxy_headers" not in entry.data


def test_headers_as_text_and_back() -> None:
    """What the form shows is read as the same headers."""
    stored = {"llm_proxy_headers": {"X-A": "b: c", "Authorization": BASIC}}
    shown = with_headers_as_text(stored, Role.LLM)
    assert with_headers({"headers": shown}, Role.LLM) == stored
    assert with_headers_as_text({"a": 1}, Role.LLM) == {"a": 1}
    with pytest.raises(InvalidHeaders):
        with_headers({"headers": {"llm_proxy_headers": "x"}}, Role.LLM)

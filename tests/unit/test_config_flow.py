"""The dialogs, as the web interface talks to them: over HTTP."""

from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from homeassistant.config_entries import SOURCE_REAUTH, ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator
import voluptuous as vol

from custom_components.home_agent.config_flow import validate_keep_alive
from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.dialogs.fields import flattened
from custom_components.home_agent.model.reauth import async_start_role_reauth
from custom_components.home_agent.model.role import Role, merged_config
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn, OpenAIStandIn
from tests.servers.others import LlamaCppStandIn

FLOW = "/api/config/config_entries/flow"
SUBENTRY_FLOW = "/api/config/config_entries/subentries/flow"
INVALID_KEEP_ALIVES = ["5", "5x", "invalid", "300", " 5m", "5 m", "forever", "1d"]


class Dialogs:
    """Fills in dialogs over HTTP, as a browser does."""

    def __init__(self, client: Any) -> None:
        """Use a signed-in client."""
        self._client = client
        self._path = FLOW
        self._flow_id = ""

    async def start(self, handler: Any = DOMAIN, **more: Any) -> dict[str, Any]:
        """Open a dialog; return what the browser shows."""
        self._path = FLOW if isinstance(handler, str) else SUBENTRY_FLOW
        return await self._post(self._path, {"handler": handler, **more})

    async def fill_in(self, **values: Any) -> dict[str, Any]:
        """Send a form; return what comes next."""
        return await self._post(f"{self._path}/{self._flow_id}", values)

    async def open(self, flow_id: str) -> dict[str, Any]:
        """Return a dialog that was opened by Home Assistant itself."""
        self._path, self._flow_id = FLOW, flow_id
        response = await self._client.get(f"{FLOW}/{flow_id}")
        assert response.status == 200
        result: dict[str, Any] = await response.json()
        return result

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        response: aiohttp.ClientResponse = await self._client.post(path, json=body)
        text = await response.text()
        assert response.status == 200, text
        result: dict[str, Any] = await response.json()
        self._flow_id = result.get("flow_id", "")
        return result


@pytest.fixture
async def dialogs(home: HomeAssistant, hass_client: ClientSessionGenerator) -> Dialogs:
    """Return what fills in dialogs."""
    assert await async_setup_component(home, "config", {})
    return Dialogs(await hass_client())


def fields(form: dict[str, Any], section: str | None = None) -> dict[str, Any]:
    """Return the fields of a form, or of a section of it, by name."""
    schema = form["data_schema"]
    if section is not None:
        schema = next(item["schema"] for item in schema if item["name"] == section)
    return {item["name"]: item for item in schema}


def suggested(form: dict[str, Any], section: str | None = None) -> dict[str, Any]:
    """Return what the fields are filled in with."""
    return {
        name: item["description"]["suggested_value"]
        for name, item in fields(form, section).items()
        if "suggested_value" in (item.get("description") or {})
    }


def options(form: dict[str, Any], name: str, section: str | None = None) -> list[str]:
    """Return what a list offers."""
    chosen = fields(form, section)[name]["selector"]["select"]["options"]
    return [item["value"] if isinstance(item, dict) else item for item in chosen]


@pytest.mark.parametrize(
    "value", ["5m", "1h", "30s", "-1", "0", "1h30m", "0.5h", -1, 0]
)
def test_validate_keep_alive_returns_what_is_valid[T: (str, int)](value: T) -> None:
    """A valid value comes back as it is."""
    assert validate_keep_alive(value) == value


@pytest.mark.parametrize("value", [*INVALID_KEEP_ALIVES, "", "-", "9999999h", 5, True])
def test_validate_keep_alive_says_what_to_write(value: Any) -> None:
    """Anything else is refused, with the right format in the message."""
    with pytest.raises(vol.Invalid, match="30s, 5m or 1h30m; -1 to never unload"):
        validate_keep_alive(value)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_set_up_three_models_on_one_ollama(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn, path: str
) -> None:
    """The example of the documents: -1, 2m and 10m on one address with /v1."""
    form = await dialogs.start()
    assert form["step_id"] == "user"
    form = await dialogs.fill_in(llm_base_url=ollama.url + path)
    assert form["step_id"] == "models"
    assert form["description_placeholders"] == {
        "server": "Ollama 0.33.0",
        "count": str(len(ollama.models)),
        "unloading": "keep_alive",
    }
    assert "nomic-embed-text:latest" not in options(form, "llm_model")
    assert "llama3.2:3b" in options(form, "llm_model")
    listed = options(form, "embedding_model", "embedding")
    assert listed[0] == "nomic-embed-text:latest"
    assert "llama3.2:3b" not in listed
    assert suggested(form)["llm_keep_alive"] == "5m"
    assert suggested(form, "external_llm")["external_llm_keep_alive"] == "5m"
    assert suggested(form, "embedding")["embedding_keep_alive"] == "5m"
    result = await dialogs.fill_in(
        llm_model="llama3.2:3b",
        llm_keep_alive="-1",
        external_llm={
            "external_llm_model": "llama3.2:70b",
            "external_llm_keep_alive": "2m",
        },
        embedding={
            "embedding_model": "nomic-embed-text",
            "embedding_keep_alive": "10m",
        },
    )
    assert result["type"] == "create_entry"
    await home.async_block_till_done()
    (entry,) = home.config_entries.async_entries(DOMAIN)
    assert entry.state is ConfigEntryState.LOADED
    assert entry.data["llm_server_kind"] == "ollama"
    assert entry.unique_id == ollama.url
    data = {sub.subentry_type: dict(sub.data) for sub in entry.subentries.values()}
    (external,) = entry.get_subentries_of_type("external_llm")
    assert data["conversation"]["llm_keep_alive"] == "-1"
    assert data["conversation"]["external_llms"] == [external.subentry_id]
    assert data["conversation"]["llm_hass_api"] == ["assist"]
    assert data["external_llm"] == {
        "external_llm_model": "llama3.2:70b",
        "external_llm_keep_alive": "2m",
    }
    assert data["embedding"] == {
        "embedding_model": "nomic-embed-text",
        "embedding_keep_alive": "10m",
    }
    assert home.states.get("conversation.home_agent")
    # The dialog has tried the two models, with what was configured for them.
    assert ollama.sent("/api/chat")[0]["keep_alive"] == -1
    assert ollama.sent("/api/embed")[0]["keep_alive"] == "10m"
    assert "llama3.2:70b" not in ollama.memory.loads


async def test_one_server_is_set_up_once(
    dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """With and without /v1 it is the same server."""
    await dialogs.start()
    await dialogs.fill_in(llm_base_url=ollama.url)
    await dialogs.fill_in(llm_model="llama3.2:3b")
    await dialogs.start()
    result = await dialogs.fill_in(llm_base_url=f"{ollama.url}/v1")
    assert result["reason"] == "already_configured"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://server", "invalid_url"),
        ("http://", "invalid_url"),
        ("http://127.0.0.1:1", "cannot_connect"),
    ],
)
async def test_address_errors(dialogs: Dialogs, url: str, error: str) -> None:
    """The address field shows the error, and the address stays in it."""
    await dialogs.start()
    form = await dialogs.fill_in(llm_base_url=url, llm_api_key="secret")
    assert form["errors"] == {"llm_base_url": error}
    assert suggested(form) == {"llm_base_url": url, "llm_api_key": "secret"}


@pytest.mark.parametrize(
    ("fault", "field", "error"),
    [
        (401, "llm_api_key", "invalid_auth"),
        (302, "llm_base_url", "cannot_connect"),
        (404, "llm_base_url", "unknown_server"),
        (200, "llm_base_url", "unknown_server"),
        (403, "llm_base_url", "host_refused"),
    ],
)
async def test_server_errors(
    dialogs: Dialogs, fault: int, field: str, error: str
) -> None:
    """An address without a server and an unusable server have different errors."""

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(
            status=fault,
            text="" if fault == 403 else "{}",
            headers={"Location": "https://elsewhere.example/"},
        )

    app = aiohttp.web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    async with aiohttp.test_utils.TestServer(app, host="127.0.0.1") as server:
        await dialogs.start()
        form = await dialogs.fill_in(llm_base_url=str(server.make_url("/")))
    assert form["errors"] == {field: error}


async def test_wrong_and_right_key(dialogs: Dialogs) -> None:
    """The field of a refused key shows an error; the right key leads to the models."""
    async with OllamaStandIn(api_key="right") as server:
        await dialogs.start()
        form = await dialogs.fill_in(llm_base_url=server.url, llm_api_key="wrong")
        assert form["errors"] == {"llm_api_key": "invalid_auth"}
        form = await dialogs.fill_in(llm_base_url=server.url, llm_api_key="right")
        assert form["step_id"] == "models"


@pytest.mark.parametrize("keep_alive", INVALID_KEEP_ALIVES)
async def test_invalid_keep_alive_at_its_field(
    dialogs: Dialogs, ollama: OllamaStandIn, keep_alive: str
) -> None:
    """Each of the three is refused, and the form keeps everything that was written."""
    await dialogs.start()
    await dialogs.fill_in(llm_base_url=ollama.url)
    # A blank at an end is no reason to bother the user.
    stripped = keep_alive.strip()
    if stripped != keep_alive:
        keep_alive = f"5{keep_alive}"
    values = {
        "llm_model": "llama3.2:3b",
        "llm_keep_alive": keep_alive,
        "external_llm": {
            "external_llm_model": "llama3.2:70b",
            "external_llm_keep_alive": keep_alive,
        },
        "embedding": {
            "embedding_model": "nomic-embed-text",
            "embedding_keep_alive": keep_alive,
        },
    }
    form = await dialogs.fill_in(**values)
    assert form["errors"] == {
        "llm_keep_alive": "invalid_keep_alive",
        "external_llm": "external_llm_invalid_keep_alive",
        "external_llm_keep_alive": "invalid_keep_alive",
        "embedding": "embedding_invalid_keep_alive",
        "embedding_keep_alive": "invalid_keep_alive",
    }
    assert suggested(form) == {
        "llm_model": "llama3.2:3b",
        "llm_keep_alive": keep_alive,
    }
    for name in ("external_llm", "embedding"):
        assert suggested(form, name) == values[name]
        section = fields(form)[name]
        assert section["expanded"]
    result = await dialogs.fill_in(llm_model="llama3.2:3b", llm_keep_alive="30m")
    assert result["type"] == "create_entry"


async def test_model_errors_at_their_fields(
    dialogs: Dialogs, ollama: OllamaStandIn
) -> None:
    """A missing model, and one that is made for another purpose, show an error."""
    await dialogs.start()
    await dialogs.fill_in(llm_base_url=ollama.url)
    form = await dialogs.fill_in(
        llm_model="nomic-embed-text",
        embedding={"embedding_base_url": "http://127.0.0.1:1"},
    )
    assert form["errors"] == {
        "llm_model": "model_cannot_chat",
        "embedding": "embedding_model_required",
        "embedding_model": "model_required",
    }
    form = await dialogs.fill_in(
        llm_model="llama3.2:3b",
        external_llm={
            "external_llm_model": "llama3.2:70b",
            "external_llm_base_url": "http://127.0.0.1:1",
        },
        embedding={
            "embedding_model": "nomic-embed-text",
            "embedding_base_url": "ftp://x",
        },
    )
    assert form["errors"] == {
        "external_llm": "external_llm_cannot_connect",
        "external_llm_base_url": "cannot_connect",
        "embedding": "embedding_invalid_url",
        "embedding_base_url": "invalid_url",
    }


async def test_the_server_goes_away_between_two_steps(
    dialogs: Dialogs, ollama: OllamaStandIn
) -> None:
    """The fields of the server are in the step before: the whole form has the error."""
    await dialogs.start()
    await dialogs.fill_in(llm_base_url=ollama.url)
    await ollama.stop()
    form = await dialogs.fill_in(llm_model="llama3.2:3b")
    assert form["errors"] == {"base": "cannot_connect"}


@pytest.mark.parametrize("strictness", ["lenient", "openai", "mistral"])
async def test_unknown_servers_are_tried_with_keep_alive(
    home: HomeAssistant, dialogs: Dialogs, strictness: Any
) -> None:
    """A server that refuses the field never gets it again."""
    async with OpenAIStandIn(strictness=strictness) as server:
        await dialogs.start()
        form = await dialogs.fill_in(llm_base_url=f"{server.url}/v1")
        shown = form["description_placeholders"]["server"]
        assert shown == server.url.removeprefix("http://")
        result = await dialogs.fill_in(llm_model="local-model", llm_keep_alive="10m")
        assert result["type"] == "create_entry"
        await home.async_block_till_done()
        (entry,) = home.config_entries.async_entries(DOMAIN)
        refuses = strictness != "lenient"
        assert entry.data["llm_keep_alive_refused"] is refuses
        tried = server.sent("/v1/chat/completions")
        assert tried[0]["keep_alive"] == "10m"
        assert all(body["max_tokens"] <= 32 for body in tried)
        # Refused in the trial, it is not even sent to load the model ahead.
        assert any("keep_alive" not in body for body in tried) is refuses
        assert ["keep_alive" in body for body in tried[1:]] == [not refuses] * (
            len(tried) - 1
        )
        await home.async_block_till_done(wait_background_tasks=True)
        server.requests.clear()
        await home.services.async_call(
            "conversation",
            "process",
            {"text": "Hello", "agent_id": "conversation.home_agent"},
            blocking=True,
            return_response=True,
        )
        (body,) = server.sent("/v1/chat/completions")
        assert body.get("keep_alive") == (None if refuses else "10m")


@pytest.mark.parametrize(
    ("strictness", "result"),
    [("lenient", "accepted or ignored"), ("openai", "refused")],
)
async def test_the_log_says_what_was_found_out(
    dialogs: Dialogs,
    caplog: pytest.LogCaptureFixture,
    strictness: Any,
    result: str,
) -> None:
    """At DEBUG: the detected server, the trial request and its result; no secret."""
    caplog.set_level("DEBUG", "custom_components.home_agent")
    async with OpenAIStandIn(strictness=strictness, api_key="secret-key") as server:
        host = server.url.removeprefix("http://")
        await dialogs.start()
        form = await dialogs.fill_in(
            llm_base_url=server.url, llm_api_key="secret-wrong"
        )
        assert form["errors"] == {"llm_api_key": "invalid_auth"}
        await dialogs.fill_in(llm_base_url=server.url, llm_api_key="secret-key")
        await dialogs.fill_in(llm_model="local-model", llm_keep_alive="10m")
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("A check of the server failed: ") for line in lines)
    assert any(f"The server at {host} is detected as" in line for line in lines)
    assert any("keep_alive 10m" in line and "local-model" in line for line in lines)
    answered = "The trial request was answered with a tool call"
    assert f"{answered}; keep_alive is {result}" in lines
    assert not [line for line in lines if "secret" in line or "Bearer" in line]


async def test_no_keep_alive_where_the_server_ignores_it(
    home: HomeAssistant, dialogs: Dialogs
) -> None:
    """The dialog names the server's own setting instead, and stores no keep_alive."""
    async with LlamaCppStandIn() as server:
        await dialogs.start()
        form = await dialogs.fill_in(llm_base_url=server.url)
        assert form["description_placeholders"]["server"] == "llama.cpp"
        assert "llm_keep_alive" not in fields(form)
        placeholders = form["description_placeholders"]
        assert placeholders["unloading"] == "llama.cpp (`--sleep-idle-seconds`)"
        result = await dialogs.fill_in(
            llm_model="local-model",
            external_llm={},
            embedding={
                "embedding_model": "local-embedding",
                "embedding_keep_alive": "5m",
            },
        )
        assert result["type"] == "create_entry"
        await home.async_block_till_done()
        (entry,) = home.config_entries.async_entries(DOMAIN)
        stored = [set(subentry.data) for subentry in entry.subentries.values()]
        assert not any("keep_alive" in key for keys in stored for key in keys)


async def test_a_cloud_is_not_offered_keep_alive(
    home: HomeAssistant, dialogs: Dialogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting would have no effect there."""
    async with OpenAIStandIn() as server:
        for module in ("servers.detect", "servers.factory"):
            path = f"custom_components.home_agent.{module}.is_cloud"
            monkeypatch.setattr(path, lambda url: True)
        await dialogs.start()
        form = await dialogs.fill_in(llm_base_url=server.url)
        assert "llm_keep_alive" not in fields(form)
        result = await dialogs.fill_in(llm_model="local-model")
        assert result["type"] == "create_entry"


# --- The entry, changed later ---------------------------------------------------


async def test_reconfigure_the_server(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A new address and kind are stored, and the models stay."""
    entry = await make_entry(ollama.url, conversation={}, llm_server_kind="ollama")
    async with OpenAIStandIn(models=["llama3.2:3b"]) as server:
        form = await dialogs.start(entry_id=entry.entry_id)
        assert form["step_id"] == "reconfigure"
        assert suggested(form)["llm_base_url"] == ollama.url
        form = await dialogs.fill_in(
            llm_base_url="http://127.0.0.1:1", llm_server_kind="automatic"
        )
        assert form["errors"] == {"llm_base_url": "cannot_connect"}
        result = await dialogs.fill_in(
            llm_base_url=server.url, llm_server_kind="automatic", llm_api_key="key"
        )
        assert result["reason"] == "reconfigure_successful"
        await home.async_block_till_done()
        assert dict(entry.data) == {
            "llm_base_url": server.url,
            "llm_api_key": "key",
            "llm_server_kind": "openai_compatible",
        }
        assert entry.unique_id == server.url
        assert entry.title == "Test"
        assert entry.state is ConfigEntryState.LOADED
        # The kind can be set by hand.
        await dialogs.start(entry_id=entry.entry_id)
        await dialogs.fill_in(
            llm_base_url=ollama.url, llm_server_kind="openai_compatible"
        )
        await home.async_block_till_done()
        assert entry.data["llm_server_kind"] == "openai_compatible"
        assert "llm_api_key" not in entry.data


async def test_reconfigure_an_entry_whose_server_is_away(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn
) -> None:
    """The new address is used at once, not at the next try."""
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=2,
        title="vLLM (127.0.0.1:1)",
        data={"llm_base_url": "http://127.0.0.1:1"},
    )
    entry.add_to_hass(home)
    await home.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    await dialogs.start(entry_id=entry.entry_id)
    result = await dialogs.fill_in(llm_base_url=ollama.url, llm_server_kind="automatic")
    assert result["reason"] == "reconfigure_successful"
    await home.async_block_till_done()
    assert home.config_entries.async_loaded_entries(DOMAIN) == [entry]
    assert entry.title == f"Ollama ({ollama.url.removeprefix('http://')})"


async def test_reconfigure_refuses_the_server_of_another_entry(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """One entry for one server and key."""
    entry = await make_entry(ollama.url, conversation={})
    MockConfigEntry(
        domain=DOMAIN,
        version=2,
        unique_id=ollama.url,
        data={"llm_base_url": ollama.url},
    ).add_to_hass(home)
    await dialogs.start(entry_id=entry.entry_id)
    result = await dialogs.fill_in(llm_base_url=ollama.url, llm_server_kind="automatic")
    assert result["reason"] == "already_configured"


async def test_a_new_key(home: HomeAssistant, dialogs: Dialogs) -> None:
    """A refused key starts a dialog, and the entry is set up with the new key."""
    async with OllamaStandIn(api_key="right") as server:
        entry = MockConfigEntry(
            domain=DOMAIN,
            version=2,
            data={"llm_base_url": server.url, "llm_api_key": "old"},
        )
        entry.add_to_hass(home)
        assert not await home.config_entries.async_setup(entry.entry_id)
        assert entry.state is ConfigEntryState.SETUP_ERROR
        (flow,) = home.config_entries.flow.async_progress()
        assert flow["context"]["source"] == SOURCE_REAUTH
        form = await dialogs.open(flow["flow_id"])
        assert form["step_id"] == "reauth_confirm"
        form = await dialogs.fill_in(llm_api_key="wrong")
        assert form["errors"] == {"llm_api_key": "invalid_auth"}
        result = await dialogs.fill_in(llm_api_key=" right ")
        assert result["reason"] == "reauth_successful"
        await home.async_block_till_done()
        assert entry.data["llm_api_key"] == "right"
        assert home.config_entries.async_loaded_entries(DOMAIN) == [entry]


@pytest.mark.parametrize("role", ["external_llm", "embedding"])
@pytest.mark.parametrize("is_loaded", [True, False])
async def test_a_new_key_of_a_role(
    home: HomeAssistant,
    dialogs: Dialogs,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    role: str,
    *,
    is_loaded: bool,
) -> None:
    """The dialog asks for the role's own key, tries it and stores it with the role."""
    model = {"external_llm": "llama3.2:70b", "embedding": "nomic-embed-text"}[role]
    async with OllamaStandIn(api_key="right") as server:
        own = {
            f"{role}_model": model,
            f"{role}_base_url": server.url,
            f"{role}_api_key": "old",
        }
        entry = await make_entry(ollama.url, llm_api_key="primary", **{role: own})
        (subentry,) = entry.get_subentries_of_type(role)
        if not is_loaded:
            await home.config_entries.async_unload(entry.entry_id)
        async_start_role_reauth(home, merged_config(entry, subentry), Role(role))
        await home.async_block_till_done()
        (flow,) = home.config_entries.flow.async_progress()
        form = await dialogs.open(flow["flow_id"])
        assert form["step_id"] == "reauth_confirm"
        assert list(fields(form)) == [f"{role}_api_key"]
        host = server.url.removeprefix("http://")
        assert form["description_placeholders"]["host"] == host
        form = await dialogs.fill_in(**{f"{role}_api_key": "wrong"})
        assert form["errors"] == {f"{role}_api_key": "invalid_auth"}
        result = await dialogs.fill_in(**{f"{role}_api_key": " right "})
        assert result["reason"] == "reauth_successful"
        await home.async_block_till_done()
        (subentry,) = entry.get_subentries_of_type(role)
        assert dict(subentry.data) == {
            **own,
            f"{role}_api_key": "right",
            f"{role}_warm_up": False,
        }
        assert entry.data["llm_api_key"] == "primary"
        assert entry.state is ConfigEntryState.LOADED
        assert not home.config_entries.flow.async_progress()


async def test_a_key_that_was_right_after_all(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The same key again: the entry is reloaded all the same."""
    own = {"external_llm_model": "llama3.2:70b", "external_llm_api_key": "same"}
    entry = await make_entry(ollama.url, external_llm=own)
    (subentry,) = entry.get_subentries_of_type("external_llm")
    before = entry.runtime_data
    async_start_role_reauth(home, merged_config(entry, subentry), Role.EXTERNAL_LLM)
    await home.async_block_till_done()
    (flow,) = home.config_entries.flow.async_progress()
    await dialogs.open(flow["flow_id"])
    result = await dialogs.fill_in(external_llm_api_key="same")
    assert result["reason"] == "reauth_successful"
    await home.async_block_till_done()
    assert entry.state is ConfigEntryState.LOADED
    assert entry.runtime_data is not before


# --- Subentries -----------------------------------------------------------------


async def test_the_form_of_a_new_conversation_agent(
    dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The form suggests values, names the server, and keeps what was written."""
    entry = await make_entry(ollama.url, external_llm={"external_llm_model": "x"})
    form = await dialogs.start([entry.entry_id, "conversation"])
    assert form["step_id"] == "settings"
    assert form["description_placeholders"] == {
        "server": "Ollama",
        "unloading": "keep_alive",
    }
    assert suggested(form)["llm_keep_alive"] == "5m"
    assert suggested(form)["llm_hass_api"] == ["assist"]
    assert "llm_num_ctx" in fields(form, "advanced")
    form = await dialogs.fill_in(
        llm_model="llama3.2:3b",
        llm_keep_alive="5x",
        advanced={"llm_temperature": 0.5, "llm_stream": True, "llm_think": "off"},
    )
    assert form["errors"] == {"llm_keep_alive": "invalid_keep_alive"}
    assert suggested(form)["llm_keep_alive"] == "5x"
    assert suggested(form, "advanced")["llm_temperature"] == 0.5


async def test_add_and_change_a_conversation_agent(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Every field is stored, shown again, and can be cleared."""
    entry = await make_entry(ollama.url, external_llm={"external_llm_model": "x"})
    (first,) = entry.get_subentries_of_type("conversation")
    await dialogs.start([entry.entry_id, "conversation"])
    values = {
        "llm_model": "qwen3:8b",
        "llm_keep_alive": "1h30m",
        "llm_hass_api": ["assist"],
        "prompt": "Be brief.",
        "external_llms": ["external"],
        "entity_mode": "retrieval",
    }
    advanced = {
        "llm_temperature": 0.5,
        "llm_top_p": 0.9,
        "llm_max_tokens": 200,
        "llm_num_ctx": 4096,
        "llm_think": "on",
        "llm_stream": False,
        "retrieval_threshold": 99,
        "retrieval_limit": 7,
        "tell_time": True,
        "max_history": 5,
        "llm_idle_timeout": 60,
        "llm_warm_up": False,
    }
    result = await dialogs.fill_in(**values, advanced=advanced)
    assert result["type"] == "create_entry"
    await home.async_block_till_done()
    _, subentry = entry.get_subentries_of_type("conversation")
    assert subentry.subentry_id != first.subentry_id
    assert dict(subentry.data) == values | advanced
    assert subentry.title == "qwen3:8b"
    form = await dialogs.start(
        [entry.entry_id, "conversation"], subentry_id=subentry.subentry_id
    )
    assert suggested(form) == values
    assert suggested(form, "advanced") == advanced
    # Cleared fields stay empty, and the next dialog does not fill them in.
    result = await dialogs.fill_in(
        llm_model="llama3.2:3b", advanced={"llm_think": "off", "llm_stream": True}
    )
    assert result["reason"] == "reconfigure_successful"
    await home.async_block_till_done()
    subentry = entry.subentries[subentry.subentry_id]
    assert subentry.title == "llama3.2:3b"
    assert "llm_hass_api" not in subentry.data
    form = await dialogs.start(
        [entry.entry_id, "conversation"], subentry_id=subentry.subentry_id
    )
    assert "llm_keep_alive" not in suggested(form)
    assert "llm_hass_api" not in suggested(form)


@pytest.mark.parametrize("kind", ["external_llm", "embedding"])
async def test_add_and_change_other_roles(
    home: HomeAssistant,
    dialogs: Dialogs,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    kind: str,
) -> None:
    """Each role can have its own server, whose models its form lists."""
    entry = await make_entry(ollama.url, conversation={})
    async with OpenAIStandIn(strictness="openai", models=["big"]) as server:
        form = await dialogs.start([entry.entry_id, kind])
        assert form["step_id"] == "server"
        form = await dialogs.fill_in(**{f"{kind}_base_url": "ftp://x"})
        assert form["errors"] == {f"{kind}_base_url": "invalid_url"}
        form = await dialogs.fill_in(**{f"{kind}_base_url": "http://127.0.0.1:1"})
        assert form["errors"] == {f"{kind}_base_url": "cannot_connect"}
        form = await dialogs.fill_in(**{f"{kind}_base_url": server.url})
        assert form["step_id"] == "settings"
        assert options(form, f"{kind}_model") == ["big"]
        form = await dialogs.fill_in(**{f"{kind}_model": "gone"}, advanced={})
        assert form["errors"] == {f"{kind}_model": "model_not_found"}
        values = {f"{kind}_model": "big", f"{kind}_keep_alive": "2m"}
        result = await dialogs.fill_in(**values, advanced={})
        assert result["type"] == "create_entry"
        await home.async_block_till_done()
        (subentry,) = entry.get_subentries_of_type(kind)
        assert subentry.data[f"{kind}_keep_alive"] == "2m"
        assert subentry.data[f"{kind}_keep_alive_refused"] is True
        assert subentry.data[f"{kind}_server_kind"] == "openai_compatible"
        assert "llm_keep_alive_refused" not in entry.data
        # Back to the server of the entry: what was stored about the other is removed.
        form = await dialogs.start(
            [entry.entry_id, kind], subentry_id=subentry.subentry_id
        )
        assert suggested(form)[f"{kind}_base_url"] == server.url
        form = await dialogs.fill_in()
        models = {"external_llm": "llama3.2:70b", "embedding": "nomic-embed-text"}
        result = await dialogs.fill_in(**{f"{kind}_model": models[kind]}, advanced={})
        assert result["reason"] == "reconfigure_successful"
        await home.async_block_till_done()
        subentry = entry.subentries[subentry.subentry_id]
        assert subentry.title == models[kind]
        assert f"{kind}_base_url" not in subentry.data
        assert f"{kind}_keep_alive_refused" not in subentry.data


async def test_an_index_on_a_chroma_server(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Another step asks for the address, and checks it."""
    entry = await make_entry(ollama.url, conversation={})
    await dialogs.start([entry.entry_id, "embedding"])
    await dialogs.fill_in()
    values = {"embedding_model": "nomic-embed-text"}
    form = await dialogs.fill_in(**values, advanced={"vector_store": "chroma"})
    assert form["step_id"] == "chroma"
    for url, error in (
        ("ftp://x", "invalid_url"),
        ("127.0.0.1:1", "cannot_connect"),
        (ollama.url, "no_chroma"),
    ):
        form = await dialogs.fill_in(chroma_url=url)
        assert form["errors"] == {"chroma_url": error}
        assert suggested(form)["chroma_url"] == url
    path = "/api/v2/tenants/default_tenant/databases/default_database/collections"

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer key":
            return web.json_response({"error": "no"}, status=401)
        return web.json_response([])

    app = web.Application()
    app.router.add_get(path, answer)
    async with TestServer(app) as chroma:
        url = str(chroma.make_url("")).rstrip("/")
        form = await dialogs.fill_in(chroma_url=url, chroma_api_key="other")
        assert form["errors"] == {"chroma_api_key": "invalid_auth"}
        result = await dialogs.fill_in(chroma_url=f"{url}/", chroma_api_key="key")
        assert result["type"] == "create_entry"
        await home.async_block_till_done()
    (subentry,) = entry.get_subentries_of_type("embedding")
    assert subentry.data["chroma_url"] == url
    assert subentry.data["chroma_api_key"] == "key"
    form = await dialogs.start(
        [entry.entry_id, "embedding"], subentry_id=subentry.subentry_id
    )
    form = await dialogs.fill_in()
    assert suggested(form, "advanced")["vector_store"] == "chroma"
    # Back to the file: no step asks for the address.
    result = await dialogs.fill_in(**values, advanced={"vector_store": "embedded"})
    assert result["reason"] == "reconfigure_successful"
    (subentry,) = entry.get_subentries_of_type("embedding")
    assert "chroma_url" not in subentry.data


async def test_one_embedding_model(
    dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A second one is refused."""
    entry = await make_entry(ollama.url, embedding={})
    result = await dialogs.start([entry.entry_id, "embedding"])
    assert result["reason"] == "already_configured"


async def test_subentries_need_the_server(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Without it there is nothing to choose from."""
    entry = await make_entry(ollama.url, conversation={})
    await ollama.stop()
    result = await dialogs.start([entry.entry_id, "conversation"])
    assert result["reason"] == "cannot_connect"
    await home.config_entries.async_unload(entry.entry_id)
    result = await dialogs.start([entry.entry_id, "conversation"])
    assert result["reason"] == "entry_not_loaded"


def page_data(schema: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the page sends if nothing is touched.

    As Home Assistant's web interface makes it (2026.11, computeInitialHaFormData): a
    suggestion, else a default, else what is in a section.
    """
    data: dict[str, Any] = {}
    for item in schema:
        suggestion = (item.get("description") or {}).get("suggested_value")
        if suggestion is not None:
            data[item["name"]] = suggestion
        elif "default" in item:
            data[item["name"]] = item["default"]
        elif item.get("type") == "expandable":
            inner = page_data(item["schema"])
            if item.get("required") or inner:
                data[item["name"]] = inner
    return data


async def test_an_untouched_page_changes_nothing(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A closed section has the stored settings, and submits them unchanged."""
    agent = {
        "llm_temperature": 0.3,
        "llm_stream": False,
        "llm_warm_up": False,
        "entity_mode": "retrieval",
        "retrieval_limit": 7,
        "max_history": 0,
    }
    embedding = {"embedding_batch_size": 5, "embedding_warm_up": False}
    entry = await make_entry(ollama.url, conversation=agent, embedding=embedding)
    for kind in ("conversation", "embedding"):
        (subentry,) = entry.get_subentries_of_type(kind)
        before = dict(subentry.data)
        form = await dialogs.start(
            [entry.entry_id, kind], subentry_id=subentry.subentry_id
        )
        if kind == "embedding":
            form = await dialogs.fill_in()
        result = await dialogs.fill_in(**page_data(form["data_schema"]))
        assert result["reason"] == "reconfigure_successful"
        await home.async_block_till_done()
        assert entry.subentries[subentry.subentry_id].data.items() >= before.items()


async def test_an_untouched_first_dialog(
    home: HomeAssistant, dialogs: Dialogs, ollama: OllamaStandIn
) -> None:
    """Suggested values of an optional role without a model add no subentry."""
    await dialogs.start(DOMAIN)
    form = await dialogs.fill_in(llm_base_url=ollama.url)
    data = page_data(form["data_schema"])
    assert data["embedding"] == {"embedding_keep_alive": "5m"}
    result = await dialogs.fill_in(**{**data, "llm_model": "llama3.2:3b"})
    assert result["type"] == "create_entry"
    (entry,) = home.config_entries.async_entries(DOMAIN)
    types = [subentry.subentry_type for subentry in entry.subentries.values()]
    assert types == ["conversation", "ai_task_data"]


@pytest.mark.parametrize("typed", ["", " ", "\t "])
def test_a_field_of_blanks_is_empty(typed: str) -> None:
    """At the top of a form and in a section."""
    form = {"llm_api_key": typed, "advanced": {"prompt": typed, "llm_model": " a "}}
    assert flattened(form) == {"llm_model": "a"}

"""Entries of version 1 go on working."""

from typing import Any

from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.dialogs.migration import async_migrate_from_version_1
from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn, OpenAIStandIn

# The options of a version-1 entry, without addresses.
OPTIONS = {
    "llm_model": "llama3.2:3b",
    "llm_keep_alive": "1h",
    "llm_temperature": 0.5,
    "llm_max_tokens": 300,
    "llm_top_p": 0.8,
    "thinking_enabled": False,
    "history_max_messages": 10,
    "prompt_use_default": False,
    "prompt_custom": "Be a butler.",
    "prompt_custom_additions": "Be brief.",
    "external_llm_enabled": True,
    "external_llm_api_key": "key",
    "external_llm_model": "llama3.2:70b",
    "external_llm_temperature": 0.9,
    "external_llm_max_tokens": 700,
    "external_llm_tool_description": "Ask it.",
    "external_llm_keep_alive": "-1",
    "vector_db_enabled": True,
    "vector_db_host": "127.0.0.1",
    "vector_db_port": 1,
    "vector_db_top_k": 7,
    "context_mode": "vector_db",
    "vector_db_embedding_model": "nomic-embed-text",
    "embedding_keep_alive": "10m",
    "session_timeout": 3600,
}
# What becomes of them in the subentry of the agent, in addition to external_llms.
CONVERSATION = {
    "llm_model": "llama3.2:3b",
    "llm_keep_alive": "1h",
    "llm_temperature": 0.5,
    "llm_max_tokens": 300,
    "llm_top_p": 0.8,
    "llm_hass_api": ["assist"],
    "llm_think": "off",
    "max_history": 5,
    "prompt": "Be a butler.\nBe brief.",
    "entity_mode": "retrieval",
    "retrieval_limit": 7,
}


async def migrated(
    hass: HomeAssistant, data: dict[str, Any], options: dict[str, Any] | None = None
) -> MockConfigEntry:
    """Return an entry of version 1 after its set-up."""
    entry = MockConfigEntry(
        domain=DOMAIN, version=1, title="Home Agent", data=data, options=options or {}
    )
    entry.add_to_hass(hass)
    await hass.config_entries.async_setup(entry.entry_id)
    await hass.async_block_till_done()
    assert entry.version == 2
    assert not entry.options
    return entry


def subentries(entry: MockConfigEntry) -> dict[str, dict[str, Any]]:
    """Return the data of the subentries by type."""
    return {sub.subentry_type: dict(sub.data) for sub in entry.subentries.values()}


async def test_everything_that_has_a_counterpart(
    home: HomeAssistant, ollama: OllamaStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """Options count before data; the log names the settings that are lost."""
    url = ollama.url
    data = {
        "name": "Home Agent",
        "llm_base_url": f"{url}/v1",
        "llm_api_key": "key",
        "llm_model": "old",
        "llm_proxy_headers": {"X-Proxy": "p"},
    }
    own_servers = {
        "external_llm_base_url": f"{url}/v1/",
        "vector_db_embedding_base_url": url,
    }
    entry = await migrated(home, data, OPTIONS | own_servers)
    assert entry.state is ConfigEntryState.LOADED
    assert entry.unique_id == ollama.url
    assert dict(entry.data) == {
        "llm_base_url": f"{ollama.url}/v1",
        "llm_api_key": "key",
        "llm_proxy_headers": {"X-Proxy": "p"},
        "llm_server_kind": "ollama",
    }
    (external,) = entry.get_subentries_of_type("external_llm")
    assert subentries(entry) == {
        "conversation": CONVERSATION | {"external_llms": [external.subentry_id]},
        "external_llm": {
            "external_llm_base_url": f"{ollama.url}/v1",
            "external_llm_api_key": "key",
            "external_llm_model": "llama3.2:70b",
            "external_llm_temperature": 0.9,
            "external_llm_max_tokens": 700,
            "external_llm_tool_description": "Ask it.",
            "external_llm_keep_alive": "-1",
        },
        "embedding": {
            "embedding_model": "nomic-embed-text",
            "embedding_base_url": ollama.url,
            "embedding_keep_alive": "10m",
            "vector_store": "chroma",
            "chroma_url": "http://127.0.0.1:1",
        },
    }
    (line,) = (r.getMessage() for r in caplog.records if "version 1" in r.getMessage())
    assert line.endswith("no longer exist: session_timeout")
    said = speech(await say(home, "Hello", agent_id="conversation.home_agent"))
    assert said.startswith("Hello!")
    assert ollama.sent("/api/chat")[0]["keep_alive"] == "1h"


async def test_the_least(home: HomeAssistant, ollama: OllamaStandIn) -> None:
    """Settings that were not stored get the defaults of version 1; keep_alive is 5m."""
    entry = await migrated(
        home, {"llm_base_url": ollama.url, "llm_model": "llama3.2:3b"}
    )
    (conversation,) = subentries(entry).values()
    assert conversation["llm_temperature"] == 0.7
    assert conversation["llm_max_tokens"] == 500
    assert "llm_keep_alive" not in conversation
    await say(home, "Hello", agent_id="conversation.home_agent")
    assert ollama.sent("/api/chat")[0]["keep_alive"] == "5m"


async def test_an_invalid_keep_alive(
    home: HomeAssistant, ollama: OllamaStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """Version 1 stored any text; it becomes the default, with a warning."""
    entry = await migrated(
        home,
        {
            "llm_base_url": ollama.url,
            "llm_model": "llama3.2:3b",
            "llm_keep_alive": "forever",
        },
    )
    assert subentries(entry)["conversation"]["llm_keep_alive"] == "5m"
    assert (
        "llm_keep_alive becomes 5m: 'forever' is not a valid keep_alive" in caplog.text
    )


@pytest.mark.parametrize(
    ("options", "url", "key"),
    [
        (
            {"vector_db_embedding_provider": "openai", "openai_api_key": "sk"},
            "https://api.openai.com/v1",
            "sk",
        ),
        ({}, "http://localhost:11434", None),
    ],
)
async def test_embedding_providers(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    options: dict[str, Any],
    url: str,
    key: str | None,
) -> None:
    """Both providers of version 1 get their default addresses."""
    entry = await migrated(
        home,
        {"llm_base_url": ollama.url, "vector_db_enabled": True, **options},
    )
    embedding = subentries(entry)["embedding"]
    assert embedding["embedding_base_url"] == url
    assert embedding.get("embedding_api_key") == key


async def test_two_entries_for_one_server(
    home: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """Version 1 allowed it: both are migrated."""
    data = {"llm_base_url": ollama.url, "llm_model": "llama3.2:3b"}
    first = await migrated(home, data)
    second = await migrated(home, data)
    assert (first.unique_id, second.unique_id) == (ollama.url, None)
    assert second.state is ConfigEntryState.LOADED


async def test_a_later_version_is_refused(home: HomeAssistant) -> None:
    """Going back to an older Home Agent loses nothing."""
    entry = MockConfigEntry(domain=DOMAIN, version=3, data={"x": 1})
    entry.add_to_hass(home)
    assert not await home.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.MIGRATION_ERROR
    assert dict(entry.data) == {"x": 1}


async def test_the_sensor_that_is_gone_is_removed(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It would stay in the user's lists as an entity that nobody provides."""
    entry = await make_entry(ollama.url, conversation={})
    (subentry_id,) = entry.subentries
    registry = er.async_get(home)
    obsolete = registry.async_get_or_create(
        "sensor", DOMAIN, f"{subentry_id}_memory_rule", config_entry=entry
    )
    assert await home.config_entries.async_unload(entry.entry_id)
    home.config_entries.async_update_entry(entry, minor_version=1)
    assert await home.config_entries.async_setup(entry.entry_id)
    assert registry.async_get(obsolete.entity_id) is None
    assert entry.minor_version == 3
    assert er.async_entries_for_config_entry(registry, entry.entry_id)


async def test_a_key_goes_to_no_other_server(
    home: HomeAssistant, openai: OpenAIStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """A key of an external LLM without an address is left out, with its LLM."""
    options = {
        "llm_base_url": openai.url,
        "llm_model": "local-model",
        "external_llm_enabled": True,
        "external_llm_api_key": "external-secret",
    }
    entry = await migrated(home, {}, options)
    await home.async_block_till_done(wait_background_tasks=True)
    assert list(subentries(entry)) == ["conversation"]
    assert not [item for item in openai.requests if "secret" in str(item.headers)]
    assert "external-secret" not in caplog.text
    assert "the key belongs to another server" in caplog.text


@pytest.mark.parametrize("url", [None, "", "http://host:port/v1", "http://h:99999"])
async def test_an_entry_that_cannot_be_migrated(
    home: HomeAssistant, url: str | None
) -> None:
    """It gets no subentries and stays as it is."""
    options = {**OPTIONS, "llm_base_url": url}
    entry = MockConfigEntry(domain=DOMAIN, version=1, data={}, options=options)
    entry.add_to_hass(home)
    assert not await home.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.MIGRATION_ERROR
    assert (entry.version, dict(entry.options)) == (1, options)
    assert not entry.subentries


@pytest.mark.parametrize(
    ("change", "kind", "key", "value"),
    [
        ({"llm_model": ""}, "conversation", "llm_model", "gpt-4o-mini"),
        ({"history_max_messages": "many"}, "conversation", "max_history", None),
        ({"llm_max_tokens": "many"}, "conversation", "llm_max_tokens", None),
        ({"external_llm_model": ""}, "external_llm", "external_llm_model", "gpt-4o"),
        ({"external_llm_base_url": "not a url"}, "external_llm", None, None),
        ({"vector_db_embedding_base_url": "x:y:z"}, "embedding", None, None),
        (
            {"vector_db_embedding_model": None},
            "embedding",
            "embedding_model",
            "text-embedding-3-small",
        ),
        ({"vector_db_host": "not a host"}, "embedding", "chroma_url", None),
        ({"vector_db_port": "port"}, "embedding", "chroma_url", None),
    ],
)
async def test_a_value_that_cannot_be_used(
    hass: HomeAssistant,
    change: dict[str, Any],
    kind: str,
    key: str | None,
    value: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is left out or replaced with one warning; the rest is migrated."""
    entry = migrated_only(hass, change)
    found = subentries(entry)
    if key is None:
        assert {"conversation", "embedding", "external_llm"} - {kind} == set(found)
    else:
        assert len(found) == 3
        assert found[kind].get(key) == value
    (name,) = change
    lines = [r for r in caplog.records if r.getMessage().startswith(name)]
    assert [line.levelname for line in lines] == ["WARNING"]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("chroma.lan", "http://chroma.lan:8000"),
        ("chroma.lan:9000", "http://chroma.lan:9000"),
        ("http://chroma.lan:9000/", "http://chroma.lan:9000"),
        ("https://chroma.lan/", "https://chroma.lan"),
        ("fd00::5", "http://[fd00::5]:8000"),
        ("[fd00::5]:9000", "http://[fd00::5]:9000"),
    ],
)
async def test_the_address_of_chroma(hass: HomeAssistant, host: str, url: str) -> None:
    """The host may have a scheme or a port."""
    entry = migrated_only(hass, {"vector_db_host": host, "vector_db_port": 8000})
    assert subentries(entry)["embedding"]["chroma_url"] == url


@pytest.mark.parametrize(
    ("headers", "kept"),
    [('{"X-A": "b"}', None), ({"X-A": 1, "X-B": "b", 2: "c"}, {"X-B": "b"})],
)
async def test_headers_that_are_no_texts(
    hass: HomeAssistant, headers: Any, kept: dict[str, str] | None
) -> None:
    """Only pairs of texts are kept."""
    entry = migrated_only(hass, {"llm_proxy_headers": headers})
    assert entry.data.get("llm_proxy_headers") == kept


def migrated_only(hass: HomeAssistant, change: dict[str, Any]) -> MockConfigEntry:
    """Return an entry of version 1 after its migration, which is not set up."""
    options = {
        **OPTIONS,
        "llm_base_url": "http://127.0.0.1:1",
        "external_llm_base_url": "http://127.0.0.1:2",
        **change,
    }
    entry = MockConfigEntry(domain=DOMAIN, version=1, data={}, options=options)
    entry.add_to_hass(hass)
    async_migrate_from_version_1(hass, entry)
    assert entry.version == 2
    return entry

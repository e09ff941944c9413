"""Migrate entries of version 1, which aradlein/hass-agent-llm has written.

They have no subentries. The connection is in the entry's data, everything else in
its options; if a key is in both, the options count.
"""

from collections.abc import Mapping
import logging
from math import isfinite, nan
from types import MappingProxyType
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.const import CONF_LLM_HASS_API, CONF_PROMPT
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import entity_registry as er, llm
from yarl import URL

from ..const import (
    CONF_CHROMA_URL,
    CONF_EMBEDDING_API_KEY,
    CONF_EMBEDDING_BASE_URL,
    CONF_EMBEDDING_KEEP_ALIVE,
    CONF_EMBEDDING_MODEL,
    CONF_ENTITY_MODE,
    CONF_EXTERNAL_LLM_API_KEY,
    CONF_EXTERNAL_LLM_BASE_URL,
    CONF_EXTERNAL_LLM_KEEP_ALIVE,
    CONF_EXTERNAL_LLM_MODEL,
    CONF_EXTERNAL_LLM_TOOL_DESCRIPTION,
    CONF_EXTERNAL_LLMS,
    CONF_LLM_API_KEY,
    CONF_LLM_BASE_URL,
    CONF_LLM_HEADERS,
    CONF_LLM_KEEP_ALIVE,
    CONF_LLM_MAX_TOKENS,
    CONF_LLM_MODEL,
    CONF_LLM_TEMPERATURE,
    CONF_LLM_THINK,
    CONF_LLM_TOP_P,
    CONF_MAX_HISTORY,
    CONF_RETRIEVAL_LIMIT,
    CONF_VECTOR_STORE,
    DOMAIN,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from ..keep_alive import InvalidKeepAlive, KeepAlive, default_keep_alive
from ..model.role import Role, subentry_role
from ..prompt.entity_mode import EntityMode
from ..servers.address import clean_url, server_id, shown_host
from ..vector_store.engine import Engine
from .server_address import without_credentials

_LOGGER = logging.getLogger(__name__)

# Settings that mean the same and have the same key in both versions, each with its
# default of version 1, which did not store a default.
_CONVERSATION: Final = {
    CONF_LLM_MODEL: "gpt-4o-mini",
    CONF_LLM_KEEP_ALIVE: None,
    CONF_LLM_TEMPERATURE: 0.7,
    CONF_LLM_MAX_TOKENS: 500,
    CONF_LLM_TOP_P: 1.0,
}
_EXTERNAL_LLM: Final = {
    CONF_EXTERNAL_LLM_BASE_URL: None,
    CONF_EXTERNAL_LLM_API_KEY: None,
    CONF_EXTERNAL_LLM_MODEL: "gpt-4o",
    CONF_EXTERNAL_LLM_KEEP_ALIVE: None,
    "external_llm_temperature": 0.8,
    "external_llm_max_tokens": 1000,
    CONF_EXTERNAL_LLM_TOOL_DESCRIPTION: None,
}
_EMBEDDING: Final = {
    CONF_EMBEDDING_KEEP_ALIVE: None,
}
_ENTITY_MODES: Final = {
    "direct": EntityMode.ASSIST,
    "vector_db": EntityMode.RETRIEVAL,
}
# Settings that the functions below read themselves, or that Home Assistant offers by
# now: they are not reported as lost.
_OTHER_KNOWN: Final = {
    CONF_LLM_BASE_URL,
    CONF_LLM_API_KEY,
    CONF_LLM_HEADERS,
    "external_llm_enabled",
    "history_enabled",
    "history_max_messages",
    "name",
    "openai_api_key",
    "prompt_custom",
    "prompt_custom_additions",
    "prompt_use_default",
    "streaming_enabled",
    "thinking_enabled",
    "vector_db_embedding_base_url",
    "vector_db_embedding_model",
    "vector_db_embedding_provider",
    "vector_db_enabled",
    "vector_db_host",
    "vector_db_port",
    "vector_db_top_k",
    "context_mode",
}


@callback
def async_migrate_from_version_1(hass: HomeAssistant, entry: ConfigEntry[Any]) -> None:
    """Turn a flat entry of version 1 into one of version 2 with subentries.

    Nothing of the entry changes if its address cannot be used: it stays at version 1.
    """
    old: dict[str, Any] = {**entry.data, **entry.options}
    if (url := _address(old, CONF_LLM_BASE_URL)) is None:
        _LOGGER.error(
            "%s cannot be migrated from version 1: its server's address is not valid",
            entry.title,
        )
        return
    conversation = _conversation(old)
    subentries: list[ConfigSubentry] = []
    if old.get("external_llm_enabled") and (settings := _external_llm(old)):
        external = _new_subentry(SUBENTRY_EXTERNAL_LLM, settings)
        conversation[CONF_EXTERNAL_LLMS] = [external.subentry_id]
        subentries.append(external)
    if old.get("vector_db_enabled") and (settings := _embedding(old)):
        subentries.append(_new_subentry(SUBENTRY_EMBEDDING, settings))
    subentries.append(_new_subentry(SUBENTRY_CONVERSATION, conversation, entry.title))
    data = {
        CONF_LLM_BASE_URL: url,
        CONF_LLM_API_KEY: old.get(CONF_LLM_API_KEY),
        CONF_LLM_HEADERS: _headers(old),
    }
    unique_id = _free_unique_id(hass, entry, server_id(url))
    known = {*_OTHER_KNOWN, *_CONVERSATION, *_EXTERNAL_LLM, *_EMBEDDING}
    if unused := sorted(old.keys() - known):
        _LOGGER.warning(
            "%s was migrated from version 1, but these settings no longer exist: %s",
            entry.title,
            ", ".join(unused),
        )
    # Nothing fails from here on.
    for subentry in subentries:
        hass.config_entries.async_add_subentry(entry, subentry)
    hass.config_entries.async_update_entry(
        entry,
        version=2,
        minor_version=1,
        unique_id=unique_id,
        data={key: value for key, value in data.items() if value},
        options={},
    )


def _conversation(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of the subentry of the conversation agent."""
    data = _same_settings(old, _CONVERSATION)
    data[CONF_LLM_HASS_API] = [llm.LLM_API_ASSIST]
    data[CONF_LLM_THINK] = "default" if old.get("thinking_enabled", True) else "off"
    prompt = llm.DEFAULT_INSTRUCTIONS_PROMPT
    if not old.get("prompt_use_default", True) and old.get("prompt_custom"):
        prompt = old["prompt_custom"]
    if additions := old.get("prompt_custom_additions"):
        prompt = f"{prompt}\n{additions}"
    data[CONF_PROMPT] = prompt
    messages = _number(old, "history_max_messages")
    if messages and old.get("history_enabled", True):
        # Version 1 counted messages: a question and its answer are two.
        data[CONF_MAX_HISTORY] = max(1, int(messages) // 2)
    if mode := _ENTITY_MODES.get(str(old.get("context_mode"))):
        data[CONF_ENTITY_MODE] = str(mode)
    if limit := _number(old, "vector_db_top_k"):
        data[CONF_RETRIEVAL_LIMIT] = int(limit)
    return data


def _external_llm(old: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the data of the subentry of the external LLM, None if it is left out.

    Version 1 used a server of its own for it even without an address. Without one,
    the primary server would be sent a key that belongs to another server.
    """
    data = _same_settings(old, _EXTERNAL_LLM)
    if old.get(CONF_EXTERNAL_LLM_BASE_URL):
        url = _address(old, CONF_EXTERNAL_LLM_BASE_URL)
        return None if url is None else data | {CONF_EXTERNAL_LLM_BASE_URL: url}
    if CONF_EXTERNAL_LLM_API_KEY in data:
        _LOGGER.warning(
            "The external LLM and its API key were left out: the key belongs to "
            "another server than the primary one, and its address was not stored"
        )
        return None
    return data


def _embedding(old: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the data of the subentry of the embedding model, None if left out."""
    data = _same_settings(old, _EMBEDDING)
    data[CONF_EMBEDDING_MODEL] = _model(
        old, "vector_db_embedding_model", "text-embedding-3-small"
    )
    default = "http://localhost:11434"
    if old.get("vector_db_embedding_provider", "ollama") == "openai":
        default = "https://api.openai.com/v1"
        if key := old.get("openai_api_key"):
            data[CONF_EMBEDDING_API_KEY] = key
    url: str | None = default
    if old.get("vector_db_embedding_base_url"):
        url = _address(old, "vector_db_embedding_base_url")
    if url is None:
        return None
    data[CONF_EMBEDDING_BASE_URL] = url
    if chroma := _chroma_url(old):
        data[CONF_VECTOR_STORE] = str(Engine.CHROMA)
        data[CONF_CHROMA_URL] = chroma
    return data


def _chroma_url(old: Mapping[str, Any]) -> str | None:
    """Return the address of the Chroma server, None if there is none.

    A host with a port keeps it. A host with a scheme is a whole address: Chroma's
    client ignores the other port then (base_http_client.py).
    """
    host, port = old.get("vector_db_host"), old.get("vector_db_port")
    if not host or not port or (url := _address(old, "vector_db_host")) is None:
        return None
    if "://" in str(host) or URL(url).explicit_port is not None:
        return url
    try:
        return str(URL(url).with_port(int(port))).rstrip("/")
    except TypeError, ValueError:
        _left_out("vector_db_port")
        return None


def _same_settings(
    old: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings whose keys are the same in both versions, except addresses.

    Settings without a value are left out. An invalid keep_alive becomes the
    default: version 1 stored any text. So does a model without a name.
    """
    data: dict[str, Any] = {}
    for key, default in defaults.items():
        value = old.get(key, default)
        if key.endswith("_model"):
            value = _model(old, key, default)
        elif isinstance(default, int | float):
            value = _number({key: value}, key)
        elif key.endswith("keep_alive") and value is not None:
            try:
                KeepAlive.parse(value)
            except InvalidKeepAlive as err:
                value = default_keep_alive(key)
                _LOGGER.warning("%s becomes %s: %s", key, value, err)
        if value not in (None, "") and not key.endswith("base_url"):
            data[key] = value
    return data


def _model(old: Mapping[str, Any], key: str, default: str) -> str:
    """Return the name of a model, the default of version 1 if it has none."""
    value = old.get(key, default)
    if isinstance(value, str) and value.strip():
        return value
    _LOGGER.warning("%s becomes %s: it was empty in version 1", key, default)
    return default


def _number(old: Mapping[str, Any], key: str) -> float | None:
    """Return a number, None if there is none; log a value that is not a number."""
    if (value := old.get(key)) in (None, ""):
        return None
    try:
        number = float(value)
    except TypeError, ValueError, OverflowError:
        number = nan
    if not isfinite(number):
        _left_out(key)
        return None
    return int(number) if number.is_integer() else number


def _address(old: Mapping[str, Any], key: str) -> str | None:
    """Return an address in its plain form; log one that is not valid: None."""
    try:
        return clean_url(str(old.get(key) or ""))
    except ValueError:
        _left_out(key)
        return None


def _headers(old: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers whose names and values are texts."""
    stored = old.get(CONF_LLM_HEADERS) or {}
    pairs = stored.items() if isinstance(stored, Mapping) else ()
    headers = {
        name: value
        for name, value in pairs
        if isinstance(name, str) and isinstance(value, str)
    }
    if not isinstance(stored, Mapping) or len(headers) < len(stored):
        _LOGGER.warning(
            "%s: headers that are not texts were left out", CONF_LLM_HEADERS
        )
    return headers


def _left_out(key: str) -> None:
    """Log that a setting has a value that cannot be used, without the value."""
    _LOGGER.warning("%s was left out: its value in version 1 is not valid", key)


def _new_subentry(
    subentry_type: str, data: dict[str, Any], title: str = ""
) -> ConfigSubentry:
    """Return a subentry; without a title, it is named after its model."""
    model: str = next(value for key, value in data.items() if key.endswith("_model"))
    return ConfigSubentry(
        data=MappingProxyType(data),
        subentry_type=subentry_type,
        title=title or model,
        unique_id=None,
    )


@callback
def async_move_credentials(hass: HomeAssistant, entry: ConfigEntry[Any]) -> None:
    """Move user and password from the stored addresses of an entry into headers.

    The unique id was made from the address and is made again.
    """
    data = without_credentials(entry.data, Role.LLM)
    unique_id = entry.unique_id
    if unique_id is not None:
        unique_id = _free_unique_id(hass, entry, server_id(data[CONF_LLM_BASE_URL]))
    if data != entry.data or unique_id != entry.unique_id:
        hass.config_entries.async_update_entry(entry, data=data, unique_id=unique_id)
    for subentry in list(entry.subentries.values()):
        data = without_credentials(subentry.data, subentry_role(subentry))
        if data != subentry.data:
            hass.config_entries.async_update_subentry(entry, subentry, data=data)


def _free_unique_id(
    hass: HomeAssistant, entry: ConfigEntry[Any], root: str
) -> str | None:
    """Return root as the unique id of an entry, None if another entry has it.

    Version 1 allowed several entries for one server.
    """
    other = hass.config_entries.async_entry_for_domain_unique_id(entry.domain, root)
    if other in (None, entry):
        return root
    _LOGGER.info(
        "%s has no unique id: another entry uses the server %s too",
        entry.title,
        shown_host(root),
    )
    return None


@callback
def async_remove_obsolete_entities(
    hass: HomeAssistant, entry: ConfigEntry[Any]
) -> None:
    """Remove the entities that Home Agent had until minor version 1.

    The sensor "memory_rule" only repeated the kind of the server.
    """
    registry = er.async_get(hass)
    for subentry_id in entry.subentries:
        unique_id = f"{subentry_id}_memory_rule"
        if entity_id := registry.async_get_entity_id("sensor", DOMAIN, unique_id):
            registry.async_remove(entity_id)
    hass.config_entries.async_update_entry(entry, minor_version=2)

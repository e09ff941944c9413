"""The diagnostics of an entry, without secrets and without conversations."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from homeassistant.components.diagnostics import REDACTED, async_redact_data
from homeassistant.config_entries import ConfigEntryState
from homeassistant.const import CONF_PROMPT
from homeassistant.core import HomeAssistant

from .const import (
    CONF_CHROMA_API_KEY,
    CONF_EXTERNAL_LLM_PROMPT,
    CONF_EXTERNAL_LLM_TOOL_DESCRIPTION,
)
from .coordinator import ServerCoordinator
from .model.role import Role
from .residency.state import ModelResidency
from .runtime import HomeAgentConfigEntry
from .servers.address import shown_host

TO_REDACT: Final = {
    CONF_EXTERNAL_LLM_PROMPT,
    CONF_EXTERNAL_LLM_TOOL_DESCRIPTION,
    CONF_PROMPT,
    CONF_CHROMA_API_KEY,
    *(role.key("api_key") for role in Role),
    *(role.key("proxy_headers") for role in Role),
}
# How the keys of addresses end. The path of an address may hold a secret, as may its
# user and password.
_ADDRESS_KEYS: Final = ("_url", "_api_base")


async def async_get_config_entry_diagnostics(
    hass: HomeAssistant, entry: HomeAgentConfigEntry
) -> dict[str, Any]:
    """Return the settings, the loaded models, and the keep_alive adviser's figures.

    The adviser (model/use_history.py) stores when a model was used, and calculates what
    other keep_alive values would have cost. Of an entry that is not loaded, return only
    the settings.
    """
    settings: dict[str, Any] = {
        "data": _settings(entry.data),
        "subentries": [
            {
                "type": subentry.subentry_type,
                "title": subentry.title,
                "data": _settings(subentry.data),
            }
            for subentry in entry.subentries.values()
        ],
    }
    if entry.state is not ConfigEntryState.LOADED:
        return settings
    data = entry.runtime_data
    return settings | {
        "servers": [_server(coordinator) for coordinator in data.coordinators.values()],
        "models": [_model(residency) for residency in data.residencies.values()],
    }


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without secrets, and only the host and port of each address."""
    return {
        key: _shown_address(value)
        if isinstance(value, str) and (key.endswith(_ADDRESS_KEYS) or "://" in value)
        else value
        for key, value in async_redact_data(dict(data), TO_REDACT).items()
    }


def _shown_address(address: str) -> str:
    """Return the host and port of an address; REDACTED if it is not an address."""
    try:
        return shown_host(address)
    except ValueError:
        return REDACTED


def _server(coordinator: ServerCoordinator) -> dict[str, Any]:
    """Return the state of a server and of all models in its memory."""
    return {
        "host": coordinator.host,
        "kind": coordinator.connection.kind,
        "answers": coordinator.last_update_success,
        "keep_alive_refused": coordinator.connection.keep_alive_refused,
        "loaded": [
            asdict(model) | {"names": sorted(model.names)}
            for model in coordinator.data or ()
        ],
    }


def _model(residency: ModelResidency) -> dict[str, Any]:
    """Return the state of a role's model, and the figures of the keep_alive adviser."""
    history = residency.use.history
    cadence = history.cadence()
    keep_alive = residency.role.keep_alive_to_send(residency.keep_alive)
    return {
        "title": residency.subentry.title,
        "model": residency.role.model,
        "keep_alive": residency.keep_alive.text,
        "residency": residency.state,
        "adviser": {
            "uses": len(history.uses),
            "usual_load_seconds": history.load_seconds,
            "cadence_seconds": None if cadence is None else cadence.seconds,
            "keep_alive_sent": keep_alive.text,
            "suggestion": history.suggestion(
                keep_alive, residency.subentry.subentry_id
            ),
            "candidates": [advice.rounded() for advice in history.table(keep_alive)],
        },
    }

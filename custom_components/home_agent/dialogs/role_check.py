"""Check a role's configuration against its server, before it is saved."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
import logging
from typing import Any, Final

from homeassistant.core import HomeAssistant

from ..keep_alive import InvalidKeepAlive, KeepAlive
from ..model.role import ModelRole, Role
from ..servers.base import ModelCapability, ModelServer, ServerKind, ServerModel
from ..servers.errors import (
    HostRefused,
    InvalidAuth,
    ModelNotFound,
    ModelServerError,
    ServerBusy,
    UnknownServer,
    WrongScheme,
)
from ..servers.messages import ChatRequest
from .server_address import clean_address

_LOGGER = logging.getLogger(__name__)

# A server that refuses a field says so at once; one that loads the model first
# did not refuse it. Nobody waits for a cold model in a dialog.
TRY_TIMEOUT: Final = 15.0


@dataclass(slots=True)
class RoleCheck:
    """What a check found.

    errors are translation keys by the configuration key of their field; learned
    is what to store of the server, by configuration key.
    """

    errors: dict[str, str] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)


async def async_check_role(
    hass: HomeAssistant, config: Mapping[str, Any], role: Role
) -> RoleCheck:
    """Check address, keep_alive, server and model of a role.

    config is flat, as users fill it in.
    """
    check = RoleCheck()
    own = Role.LLM
    config = dict(config)
    if config.get(role.key("base_url")):
        own = role
        if error := clean_address(config, role, config):
            check.errors[role.key("base_url")] = error
            return check
        for key in (role.key("base_url"), role.key("proxy_headers")):
            if key in config:
                check.learned[key] = config[key]
    keep_alive_key = role.key("keep_alive")
    try:
        keep_alive = KeepAlive.for_role(keep_alive_key, config)
    except InvalidKeepAlive:
        check.errors[keep_alive_key] = "invalid_keep_alive"
        return check
    model = config[role.key("model")]
    try:
        server = await ModelRole(hass, config, role).server()
        models = await server.list_models()
        if error := _model_error(server, models, model, role):
            check.errors[role.key("model")] = error
            return check
        if server.kind is ServerKind.OPENAI_COMPATIBLE and server.may_send_keep_alive(
            model
        ):
            await _async_try(server, model, keep_alive, role)
    except ModelNotFound:
        check.errors[role.key("model")] = "model_not_found"
        return check
    except ModelServerError as err:
        name, error = error_field(err)
        check.errors[own.key(name)] = error
        return check
    check.learned[own.key("server_kind")] = str(server.kind)
    if server.connection.api_base is not None:
        check.learned[own.key("api_base")] = server.connection.api_base
    check.learned[own.key("keep_alive_refused")] = server.keep_alive_refused
    return check


def error_field(err: ModelServerError) -> tuple[str, str]:
    """Return the name of the field that an error belongs to, and its key."""
    _LOGGER.debug("The dialog's server failed: %s", err.log_text)
    match err:
        case InvalidAuth():
            return "api_key", "invalid_auth"
        case HostRefused():
            return "base_url", "host_refused"
        case UnknownServer():
            return "base_url", "unknown_server"
        case WrongScheme():
            return "base_url", "invalid_scheme"
        case ServerBusy():
            return "base_url", "cannot_answer_yet"
        case _:
            return "base_url", "cannot_connect"


def _model_error(
    server: ModelServer, models: list[ServerModel], name: str, role: Role
) -> str | None:
    """Return why a model cannot have a role, None if it can.

    A cloud's list may be incomplete: Azure lists models, but is asked for
    deployments.
    """
    found = server.find(name, models)
    if found is None:
        is_complete = server.kind is not ServerKind.CLOUD and models
        return "model_not_found" if is_complete else None
    if role is not Role.EMBEDDING and not found.may(ModelCapability.CHAT):
        return "model_cannot_chat"
    if role is Role.EMBEDDING and not (
        found.may(ModelCapability.EMBEDDING) or found.may(ModelCapability.CHAT)
    ):
        return "model_cannot_embed"
    return None


async def _async_try(
    server: ModelServer, model: str, keep_alive: KeepAlive, role: Role
) -> None:
    """Send one small request, to see whether the server refuses keep_alive.

    Raise ModelNotFound or InvalidAuth; any other failure says nothing about it.
    """
    try:
        async with asyncio.timeout(TRY_TIMEOUT):
            if role is Role.EMBEDDING:
                await server.embed(model, ["test"], keep_alive)
            else:
                await server.chat(
                    ChatRequest(
                        model=model,
                        messages=[{"role": "user", "content": "Hello"}],
                        keep_alive=keep_alive,
                        max_tokens=1,
                    )
                )
    except ModelNotFound, InvalidAuth:
        raise
    except ModelServerError as err:
        _LOGGER.info("A trial request failed, which may be harmless: %s", err.log_text)
    except TimeoutError:
        _LOGGER.debug("%s takes long to answer, and does not refuse keep_alive", model)

"""Check the configuration of a role with its server before it is saved."""

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

# Seconds for a trial request. A server that refuses a field answers at once; one
# that loads the model first has accepted it, and the dialog need not wait for that.
TRIAL_TIMEOUT: Final = 15.0


@dataclass(slots=True)
class RoleCheck:
    """The result of a check.

    errors has a translation key for each configuration key with an error. learned
    has what was found out about the server, by configuration key: it is stored with
    the configuration.
    """

    errors: dict[str, str] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)


async def async_check_role(
    hass: HomeAssistant, config: Mapping[str, Any], role: Role
) -> RoleCheck:
    """Check the address, the keep_alive, the server and the model of a role.

    config is the flat configuration: the values of the form and those of the entry.
    """
    check = RoleCheck()
    # The role whose keys have the connection.
    server_role = Role.LLM
    config = dict(config)
    if config.get(role.key("base_url")):
        server_role = role
        if error := clean_address(config, role, config):
            check.errors[role.key("base_url")] = error
            return check
        for key in (role.key("base_url"), role.key("proxy_headers")):
            if key in config:
                check.learned[key] = config[key]
    if not is_keep_alive_valid(config, role):
        check.errors[role.key("keep_alive")] = "invalid_keep_alive"
        return check
    keep_alive = KeepAlive.for_role(role.key("keep_alive"), config)
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
            await _async_try_keep_alive(server, model, keep_alive, role)
    except ModelNotFound:
        check.errors[role.key("model")] = "model_not_found"
        return check
    except ModelServerError as err:
        name, error = error_field(err)
        check.errors[server_role.key(name)] = error
        return check
    check.learned[server_role.key("server_kind")] = str(server.kind)
    if server.connection.api_base is not None:
        check.learned[server_role.key("api_base")] = server.connection.api_base
    check.learned[server_role.key("keep_alive_refused")] = server.keep_alive_refused
    return check


def is_keep_alive_valid(config: Mapping[str, Any], role: Role) -> bool:
    """Return whether the keep_alive of a role can be sent to a server."""
    try:
        KeepAlive.for_role(role.key("keep_alive"), config)
    except InvalidKeepAlive:
        return False
    return True


def error_field(err: ModelServerError) -> tuple[str, str]:
    """Return the field that shows an error of a server, and its translation key.

    The field is a name without the prefix of a role, such as "base_url".
    """
    _LOGGER.debug("A check of the server failed: %s", err.log_text)
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
    """Return the translation key of why a model does not fit a role, else None.

    A model that is missing in the list of a cloud is accepted: Azure lists models,
    but requests name deployments.
    """
    found = server.find(name, models)
    if found is None:
        if server.kind is ServerKind.CLOUD or not models:
            _LOGGER.debug("%s does not list %s; it is accepted", server.http.host, name)
            return None
        return "model_not_found"
    if role is not Role.EMBEDDING and not found.may(ModelCapability.CHAT):
        return "model_cannot_chat"
    if role is Role.EMBEDDING and not (
        found.may(ModelCapability.EMBEDDING) or found.may(ModelCapability.CHAT)
    ):
        return "model_cannot_embed"
    return None


async def _async_try_keep_alive(
    server: ModelServer, model: str, keep_alive: KeepAlive, role: Role
) -> None:
    """Send one small request to find out whether the server refuses keep_alive.

    The server object remembers a refusal. Raise ModelNotFound or InvalidAuth; any
    other failure is logged only, since it need not be about keep_alive.
    """
    _LOGGER.debug(
        "A trial request with keep_alive %s goes to %s, model %s",
        keep_alive.text,
        server.http.host,
        model,
    )
    try:
        async with asyncio.timeout(TRIAL_TIMEOUT):
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
        _LOGGER.debug(
            "The trial request failed, which need not be about keep_alive: %s",
            err.log_text,
        )
    except TimeoutError:
        _LOGGER.debug(
            "The trial request has no answer after %.0f s: keep_alive is not refused",
            TRIAL_TIMEOUT,
        )
    else:
        _LOGGER.debug(
            "The trial request was answered; keep_alive is %s",
            "refused" if server.keep_alive_refused else "accepted or ignored",
        )

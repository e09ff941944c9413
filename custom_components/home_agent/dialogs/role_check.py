"""Check the configuration of a role with its server before it is saved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
import logging
from typing import Any

from homeassistant.const import CONF_LLM_HASS_API
from homeassistant.core import HomeAssistant

from ..const import CONF_EXTERNAL_LLMS
from ..keep_alive import InvalidKeepAlive, KeepAlive
from ..model.role import ModelRole, Role, role_connection
from ..servers.base import (
    ModelCapability,
    ModelServer,
    ServerCapability,
    ServerKind,
    ServerModel,
)
from ..servers.errors import (
    HostRefused,
    InvalidAuth,
    ModelNotFound,
    ModelServerError,
    ServerBusy,
    UnknownServer,
    WrongScheme,
)
from .server_address import clean_address

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class RoleCheck:
    """The result of a check.

    errors has a translation key for each configuration key with an error, and
    placeholders has what their texts name. can_be_pulled: the only fault is that the
    server does not have the model, and it can download it. server is None if it cannot
    be used; models are those that it has.
    """

    role: Role
    config: dict[str, Any] = field(repr=False)
    errors: dict[str, str] = field(default_factory=dict)
    placeholders: dict[str, str] = field(default_factory=dict)
    can_be_pulled: bool = False
    model_role: ModelRole | None = None
    server: ModelServer | None = None
    models: list[ServerModel] = field(default_factory=list)

    @property
    def server_url(self) -> str:
        """Return the address of the role's server."""
        return role_connection(self.config, self.role).url

    @property
    def model(self) -> str:
        """Return the name of the model."""
        name: str = self.config[self.role.key("model")]
        return name

    @property
    def keep_alive(self) -> KeepAlive:
        """Return the keep_alive of the role; raise InvalidKeepAlive."""
        return KeepAlive.for_role(self.role.key("keep_alive"), self.config)

    @property
    def learned(self) -> dict[str, Any]:
        """Return what was found out about the server, by configuration key.

        It is stored with the configuration.
        """
        owner = self._server_role
        learned: dict[str, Any] = {}
        if owner is self.role:
            keys = (owner.key("base_url"), owner.key("proxy_headers"))
            learned = {key: self.config[key] for key in keys if key in self.config}
        if (server := self.server) is None:
            return learned
        learned[owner.key("server_kind")] = str(server.kind)
        if server.connection.api_base is not None:
            learned[owner.key("api_base")] = server.connection.api_base
        learned[owner.key("keep_alive_refused")] = server.keep_alive_refused
        return learned

    @property
    def _server_role(self) -> Role:
        """Return the role whose keys have the connection."""
        return self.role if self.config.get(self.role.key("base_url")) else Role.LLM

    def add_server_error(self, err: ModelServerError) -> None:
        """Add an error of the server, at the field that it is about."""
        self.server = None
        if isinstance(err, ModelNotFound):
            self.errors[self.role.key("model")] = "model_not_found"
            return
        name, error = error_field(err)
        self.errors[self._server_role.key(name)] = error

    @property
    def needs_tools(self) -> bool:
        """Return whether the role is to call tools."""
        return needs_tools(self.role, self.config)

    def add_tools_error(self) -> None:
        """Add that the model cannot use tools, at the field that makes it use them."""
        if self.config.get(CONF_LLM_HASS_API):
            self.errors[CONF_LLM_HASS_API] = "model_cannot_use_tools"
        else:
            self.errors[CONF_EXTERNAL_LLMS] = "model_cannot_ask"


async def async_check_role(
    hass: HomeAssistant, config: Mapping[str, Any], role: Role
) -> RoleCheck:
    """Check the address, the keep_alive, the server and the model of a role.

    config is the flat configuration: the values of the form and those of the entry.
    The model gets no request.
    """
    check = RoleCheck(role, dict(config))
    if config.get(role.key("base_url")) and (
        error := clean_address(check.config, role, config)
    ):
        check.errors[role.key("base_url")] = error
        return check
    if not is_keep_alive_valid(config, role):
        check.errors[role.key("keep_alive")] = "invalid_keep_alive"
        return check
    check.model_role = ModelRole(hass, check.config, role)
    try:
        check.server = await check.model_role.server()
        check.models = await check.server.list_models()
    except ModelServerError as err:
        check.add_server_error(err)
        return check
    _check_model(check, check.server)
    return check


def needs_tools(role: Role, config: Mapping[str, Any]) -> bool:
    """Return whether a role with a flat configuration is to call tools."""
    return role is Role.LLM and any(
        config.get(key) for key in (CONF_LLM_HASS_API, CONF_EXTERNAL_LLMS)
    )


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


def _check_model(check: RoleCheck, server: ModelServer) -> None:
    """Add the error of a model that the server does not have or that does not fit.

    A model that is missing in the list of a cloud is accepted: Azure lists models,
    but requests name deployments.
    """
    model_key = check.role.key("model")
    found = server.find(check.model, check.models)
    if found is None and ServerCapability.PULL in server.capabilities:
        check.can_be_pulled = True
    elif found is None and (server.kind is ServerKind.CLOUD or not check.models):
        _LOGGER.debug(
            "%s does not list %s; it is accepted", server.http.host, check.model
        )
    elif found is None:
        check.errors[model_key] = "model_not_found"
    elif check.role is Role.EMBEDDING:
        if not (
            found.may(ModelCapability.EMBEDDING) or found.may(ModelCapability.CHAT)
        ):
            check.errors[model_key] = "model_cannot_embed"
    elif not found.may(ModelCapability.CHAT):
        check.errors[model_key] = "model_cannot_chat"
    elif check.needs_tools and not found.may(ModelCapability.TOOLS):
        check.add_tools_error()

"""Find the server at the address that a user typed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
import logging
from typing import Any

from homeassistant.core import HomeAssistant

from ..const import (
    CONF_LLM_API_BASE,
    CONF_LLM_BASE_URL,
    CONF_LLM_SERVER_KIND,
    CONF_LLM_SERVER_KIND_CHOSEN,
)
from ..model.role import Role, role_connection
from ..servers.address import shown_host
from ..servers.base import ModelServer, ServerKind, ServerModel
from ..servers.detect import Detected, detect
from ..servers.errors import ModelServerError
from ..servers.factory import connect
from ..servers.session import async_get_session
from .fields import KIND_AUTOMATIC
from .role_check import error_field
from .server_address import clean_address

_LOGGER = logging.getLogger(__name__)


class ServerNotFound(Exception):
    """No server can be used at an address; errors has the reason by field."""

    def __init__(self, errors: dict[str, str]) -> None:
        """Keep the translation key of the error for each field."""
        super().__init__()
        self.errors = errors


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server, the models that it has, and what the entry stores about it.

    The kind of server differs from the detected one if the user has chosen it.
    """

    detected: Detected
    server: ModelServer
    models: list[ServerModel]
    data: dict[str, Any] = field(repr=False)

    @property
    def title(self) -> str:
        """Return the title of an entry: the name of the server and its host."""
        return self.numbered_title(1)

    def numbered_title(self, number: int) -> str:
        """Return the title of an entry; the first one for a server has no number."""
        name = self.detected.name if number == 1 else f"{self.detected.name} {number}"
        return f"{name} ({shown_host(self.data[CONF_LLM_BASE_URL])})"


async def async_find_server(
    hass: HomeAssistant, form: Mapping[str, Any], stored: Mapping[str, Any]
) -> FoundServer:
    """Detect the server at the address in form, and list its models.

    stored is the data of the entry so far. Raise ServerNotFound if there is none.
    """
    data = dict(form)
    if error := clean_address(data, Role.LLM, stored):
        raise ServerNotFound({CONF_LLM_BASE_URL: error})
    data.pop(CONF_LLM_API_BASE, None)
    data.pop(CONF_LLM_SERVER_KIND_CHOSEN, None)
    chosen = data.pop(CONF_LLM_SERVER_KIND, KIND_AUTOMATIC)
    session = async_get_session(hass)
    try:
        detected = await detect(session, role_connection(data, Role.LLM))
        kind = detected.kind
        if chosen != KIND_AUTOMATIC:
            kind = ServerKind(chosen)
            data[CONF_LLM_SERVER_KIND_CHOSEN] = True
        data[CONF_LLM_SERVER_KIND] = str(kind)
        if detected.api_base is not None:
            data[CONF_LLM_API_BASE] = detected.api_base
        server = await connect(session, role_connection(data, Role.LLM))
        models = await server.list_models()
    except ModelServerError as err:
        name, error = error_field(err)
        raise ServerNotFound({Role.LLM.key(name): error}) from err
    _LOGGER.debug(
        "The server at %s is detected as %s, version %s, is used as %s and has %d"
        " models",
        shown_host(data[CONF_LLM_BASE_URL]),
        detected.kind,
        detected.version or "unknown",
        kind,
        len(models),
    )
    return FoundServer(detected, server, models, data)

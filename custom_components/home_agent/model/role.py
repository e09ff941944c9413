"""A model role: where its server is and how its requests are made."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession

from ..const import (
    CONF_SUBENTRY_ID,
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_NUM_CTX,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from ..keep_alive import KeepAlive
from ..servers.base import Connection, ModelServer, ServerKind
from ..servers.factory import connect
from ..servers.messages import ChatMessage, ChatRequest, Think, ToolSpec
from .use import Turn, model_uses


class Role(StrEnum):
    """The roles; each one's configuration keys begin with its value."""

    LLM = "llm"
    EXTERNAL_LLM = "external_llm"
    EMBEDDING = "embedding"

    def key(self, name: str) -> str:
        """Return the configuration key of a setting, such as "llm_model"."""
        return f"{self}_{name}"


SUBENTRY_ROLES: Final = {
    SUBENTRY_CONVERSATION: Role.LLM,
    SUBENTRY_EXTERNAL_LLM: Role.EXTERNAL_LLM,
    SUBENTRY_EMBEDDING: Role.EMBEDDING,
}

THINK_OPTIONS: Final[dict[str, Think | None]] = {
    "default": None,
    "off": False,
    "on": True,
    "low": "low",
    "medium": "medium",
    "high": "high",
}


def merged_config(
    entry: ConfigEntry[Any], subentry: ConfigSubentry
) -> Mapping[str, Any]:
    """Return an entry's and a subentry's data as one flat configuration."""
    return {**entry.data, **subentry.data, CONF_SUBENTRY_ID: subentry.subentry_id}


def subentry_role(subentry: ConfigSubentry) -> Role:
    """Return the role of a subentry's model."""
    return SUBENTRY_ROLES[subentry.subentry_type]


def role_connection(config: Mapping[str, Any], role: Role) -> Connection:
    """Return the connection of a role from its flat configuration.

    A role without an address of its own uses the primary's server, with the
    primary's key and headers unless it has a key of its own. A role with an
    address never gets them: a key belongs to one server.
    """
    own = role if config.get(role.key("base_url")) else Role.LLM
    kind = config.get(own.key("server_kind"))
    return Connection(
        url=config[own.key("base_url")],
        api_key=config.get(role.key("api_key")) or config.get(own.key("api_key")),
        headers=config.get(own.key("proxy_headers")) or {},
        kind=ServerKind(kind) if kind else None,
        keep_alive_refused=bool(config.get(own.key("keep_alive_refused"))),
        idle_timeout=config.get(role.key("idle_timeout")) or DEFAULT_IDLE_TIMEOUT,
        api_base=config.get(own.key("api_base")),
        declared_own=bool(config.get(own.key("server_is_own"))),
    )


class ModelRole:
    """A role that has a model, on a server that is found when first needed."""

    def __init__(
        self,
        hass: HomeAssistant,
        config: Mapping[str, Any],
        role: Role,
    ) -> None:
        """Read the role from a flat configuration."""
        self._hass = hass
        self._config = config
        self._role = role
        self._server: ModelServer | None = None
        self.model: str = config[role.key("model")]
        # Several roles may use one model: what runs on it is known once.
        self.use = model_uses(hass).of(role_connection(config, role).url, self.model)

    async def server(self) -> ModelServer:
        """Return the role's server.

        Raise a ModelServerError if its kind is not known and cannot be found out.
        """
        if self._server is None:
            self._server = await connect(
                async_get_clientsession(self._hass),
                role_connection(self._config, self._role),
            )
        return self._server

    async def wait_until_idle(self) -> None:
        """Wait until nobody else is being answered on the role's server."""
        url = role_connection(self._config, self._role).url
        await model_uses(self._hass).async_wait_until_idle(url, self.use)

    def context_size(self, kind: ServerKind | None) -> int | None:
        """Return the tokens of the model's context, None where it is not known.

        On Ollama it is what we ask for, on another kind of server what it was
        started with.
        """
        return self.num_ctx if kind is ServerKind.OLLAMA else self.use.context_length

    def turn(self) -> Turn:
        """Return a new turn, in which the model can be asked."""
        owner = self._config.get(CONF_SUBENTRY_ID)
        return Turn(self._hass, self.use, self.server, owner)

    def chat_request(
        self,
        messages: list[ChatMessage],
        keep_alive: KeepAlive,
        tools: Sequence[ToolSpec] = (),
    ) -> ChatRequest:
        """Return a request with the role's own settings."""
        setting = self._setting
        max_tokens = setting("max_tokens")
        return ChatRequest(
            model=self.model,
            messages=messages,
            tools=list(tools),
            keep_alive=keep_alive,
            temperature=setting("temperature"),
            top_p=setting("top_p"),
            max_tokens=None if max_tokens is None else int(max_tokens),
            num_ctx=self.num_ctx,
            think=THINK_OPTIONS[setting("think") or "default"],
        )

    @property
    def num_ctx(self) -> int:
        """Return the context size of all requests, in tokens."""
        return int(self._setting("num_ctx") or DEFAULT_NUM_CTX)

    def _setting(self, name: str) -> Any:
        """Return one of the role's settings, None where it is not set."""
        return self._config.get(self._role.key(name))

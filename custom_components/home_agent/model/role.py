"""A model role: its settings, its server, and how its requests are made."""

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Literal

from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.core import HomeAssistant, callback

from ..const import (
    CONF_SUBENTRY_ID,
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_MAX_TOKENS,
    DEFAULT_NUM_CTX,
    DOMAIN,
    SUBENTRY_AI_TASK,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from ..keep_alive import InvalidKeepAlive, KeepAlive
from ..servers.base import Connection, ModelServer, ServerKind
from ..servers.factory import connect
from ..servers.messages import ChatMessage, ChatRequest, JsonObject, Think, ToolSpec
from ..servers.session import async_get_session
from .turn_record import TurnRecord
from .use import PromptSized, model_uses


class Role(StrEnum):
    """The model roles; the configuration keys of a role begin with its value."""

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
    # An AI task entity asks a primary LLM too: its settings have the same keys.
    SUBENTRY_AI_TASK: Role.LLM,
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
    """Return the data of an entry and of a subentry as one flat configuration."""
    return {**entry.data, **subentry.data, CONF_SUBENTRY_ID: subentry.subentry_id}


def subentry_role(subentry: ConfigSubentry) -> Role:
    """Return the role of a subentry's model."""
    return SUBENTRY_ROLES[subentry.subentry_type]


def configured_models(
    hass: HomeAssistant, *, include_disabled: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield address and model of each role of all entries, loaded or not."""
    entries = hass.config_entries.async_entries(
        DOMAIN, include_disabled=include_disabled
    )
    for entry in entries:
        for subentry in entry.subentries.values():
            config, role = merged_config(entry, subentry), subentry_role(subentry)
            yield role_connection(config, role).url, config[role.key("model")]


def role_connection(config: Mapping[str, Any], role: Role) -> Connection:
    """Return the connection of a role from its flat configuration.

    A role without an address of its own uses the primary LLM's server and headers,
    and the primary LLM's API key unless it has a key of its own. A role with its own
    address never gets the primary LLM's key or headers: they belong to one server.
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
    """A role with its model and its settings.

    server() connects on its first call. subentry_id is None if the configuration has
    none, as in tests.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        config: Mapping[str, Any],
        role: Role,
    ) -> None:
        """Read the role from a flat configuration."""
        self._hass = hass
        self._config = config
        self._server: ModelServer | None = None
        self._with_models: dict[str, ModelRole] = {}
        self._is_max_context_read = False
        self.role = role
        self.model: str = config[role.key("model")]
        self.subentry_id: str | None = config.get(CONF_SUBENTRY_ID)
        self.url = role_connection(config, role).url
        self.use = model_uses(hass).async_get(self.url, self.model)

    async def server(self) -> ModelServer:
        """Return the role's server.

        Raise a ModelServerError if its kind is not known and cannot be found out.
        """
        if self._server is None:
            self._server = await connect(
                async_get_session(self._hass),
                role_connection(self._config, self.role),
            )
        return self._server

    @callback
    def run_in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work that nobody waits for, until Home Assistant stops."""
        self._hass.async_create_background_task(work, f"{name} {self.model}")

    async def wait_until_idle(self) -> None:
        """Wait until other models on the server run no turn, for a minute at most."""
        await model_uses(self._hass).async_wait_until_idle(self.url, self.use)

    def context_size(self, kind: ServerKind | None) -> int | None:
        """Return the size of the model's context in tokens, None if it is not known.

        Ollama loads a model with the num_ctx of the request, but with no more than
        the model was trained for (server/sched.go, 0.24). If the server does not
        report that, the size of the loaded model counts. For other kinds of server,
        it is the size that the server reports.
        """
        if kind is not ServerKind.OLLAMA:
            return self.use.context_length
        limit = self.use.max_context or self.use.context_length or self.num_ctx
        return min(self.num_ctx, limit)

    async def async_read_max_context(self) -> None:
        """Read from the server how long a context the model was trained for.

        Only the first call sends a request. Raise a ModelServerError if the kind of
        the server cannot be found out.
        """
        if self.use.max_context is None and not self._is_max_context_read:
            server = await self.server()
            self.use.max_context = await server.max_context(self.model)
            self._is_max_context_read = True

    def record_use(self, record: TurnRecord) -> None:
        """Add a turn to the history of the model, and store it soon."""
        self.use.history.record(
            record.started,
            record.ended,
            record.requests,
            record.load_seconds,
            record.subentry_id,
        )
        model_uses(self._hass).save_soon()

    def learn_tokens(
        self,
        characters: int,
        tokens: int | None,
        wanted_characters: int = 0,
        excess_characters: int = 0,
    ) -> None:
        """Learn from a prompt of which the server has reported the tokens.

        wanted_characters is the length of the prompt before it was shortened to fit;
        excess_characters of it do not count for its size (see Turn).
        """
        limit = self.use.context_length or self.num_ctx
        self.use.token_estimate.learn(characters, tokens, limit)
        if self.subentry_id is not None and tokens and characters:
            counted = max(characters, wanted_characters) - excess_characters
            size = round(max(counted, 0) / characters * tokens)
            self.use.note_prompt(PromptSized(self.subentry_id, size))

    def note_refused_prompt(self, characters: int, excess_characters: int = 0) -> None:
        """Store that the server has refused a prompt as too long.

        If it has excess_characters, its estimated size without them counts.
        """
        if self.subentry_id is not None:
            tokens = self.use.token_estimate.tokens(characters - excess_characters)
            is_refused = not excess_characters
            self.use.note_prompt(PromptSized(self.subentry_id, tokens, is_refused))

    def keep_alive_to_send(self, own: KeepAlive) -> KeepAlive:
        """Return the longest keep_alive of all roles that share the model.

        own is that of this role.
        """
        return self.use.shared.to_send(own, self.subentry_id)

    def is_configured(self, keep_alive: KeepAlive) -> bool:
        """Return whether a keep_alive is what the settings of the roles lead to.

        It is not if the caller of a request has replaced that of this role.
        """
        try:
            own = KeepAlive.for_role(self.role.key("keep_alive"), self._config)
        except InvalidKeepAlive:
            return False
        return keep_alive.nanoseconds == self.keep_alive_to_send(own).nanoseconds

    def with_model(self, model: str) -> ModelRole:
        """Return the same role with another model of its server."""
        if model == self.model:
            return self
        if model not in self._with_models:
            config = {**self._config, self.role.key("model"): model}
            self._with_models[model] = ModelRole(self._hass, config, self.role)
        return self._with_models[model]

    def chat_request(
        self,
        messages: list[ChatMessage],
        keep_alive: KeepAlive,
        tools: Sequence[ToolSpec] = (),
        tool_choice: Literal["none"] | None = None,
        json_schema: JsonObject | None = None,
    ) -> ChatRequest:
        """Return a chat request with the settings of the role."""
        setting = self._setting
        return ChatRequest(
            model=self.model,
            messages=messages,
            tools=list(tools),
            keep_alive=keep_alive,
            temperature=setting("temperature"),
            top_p=setting("top_p"),
            max_tokens=int(setting("max_tokens") or DEFAULT_MAX_TOKENS),
            num_ctx=self.num_ctx,
            think=THINK_OPTIONS[setting("think") or "default"],
            tool_choice=tool_choice,
            json_schema=json_schema,
        )

    @property
    def num_ctx(self) -> int:
        """Return the context size that all requests of the role ask for, in tokens."""
        return int(self._setting("num_ctx") or DEFAULT_NUM_CTX)

    def _setting(self, name: str) -> Any:
        """Return one of the role's settings, None if it is not set."""
        return self._config.get(self.role.key(name))

"""The form fields of the dialogs, and the values that users write into them."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from homeassistant.const import CONF_LLM_HASS_API, CONF_NAME, CONF_PROMPT
from homeassistant.core import HomeAssistant
from homeassistant.data_entry_flow import section
from homeassistant.helpers import llm
from homeassistant.helpers.selector import (
    BooleanSelector,
    NumberSelector,
    SelectOptionDict,
    SelectSelector,
    TemplateSelector,
    TextSelector,
)
import probatio as vol

from ..const import (
    CONF_CHROMA_API_KEY,
    CONF_CHROMA_URL,
    CONF_EMBEDDING_BATCH_SIZE,
    CONF_EMBEDDING_SEARCH_TOOL,
    CONF_ENTITY_MODE,
    CONF_EXTERNAL_LLM_CONVERSATION,
    CONF_EXTERNAL_LLM_FOR_ALL_AGENTS,
    CONF_EXTERNAL_LLM_PROMPT,
    CONF_EXTERNAL_LLM_TOOL_DESCRIPTION,
    CONF_EXTERNAL_LLMS,
    CONF_MAX_HISTORY,
    CONF_RETRIEVAL_LIMIT,
    CONF_RETRIEVAL_THRESHOLD,
    CONF_TELL_TIME,
    CONF_VECTOR_STORE,
    DEFAULT_EMBEDDING_BATCH_SIZE,
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_MAX_HISTORY,
    DEFAULT_NUM_CTX,
    DEFAULT_RETRIEVAL_LIMIT,
    DEFAULT_RETRIEVAL_THRESHOLD,
)
from ..keep_alive import default_keep_alive
from ..model.role import THINK_OPTIONS, Role
from ..prompt.entity_mode import EntityMode
from ..prompt.llm_api import is_admin_only
from ..servers.base import (
    ModelServer,
    ServerCapability,
    ServerKind,
    ServerModel,
)
from ..servers.factory import server_capabilities, takes_keep_alive
from ..tools.external_llm import (
    CONVERSATION_NOTHING,
    CONVERSATION_OPTIONS,
    DEFAULT_PROMPT,
    DEFAULT_TOOL_DESCRIPTION,
)
from ..tools.search_entities import MAX_LIMIT
from ..vector_store.engine import Engine
from .model_select import model_select
from .ranges import SectionNumberSelector
from .selectors import multiline_field, number_field, password_field, select_field

SECTION_ADVANCED: Final = "advanced"
KIND_AUTOMATIC: Final = "automatic"

# The presets of a keep_alive. Their labels are translated; that of -1 cannot be,
# since a translation key must not begin with a hyphen.
KEEP_ALIVE_PRESETS: Final = [
    *(
        SelectOptionDict(value=value, label=value)
        for value in ("0", "30s", "5m", "30m", "1h", "24h")
    ),
    SelectOptionDict(value="-1", label="Never unload (-1)"),
]
# Kinds of server that ignore keep_alive, and the setting of the server with which its
# operator decides when an idle model is unloaded.
_UNLOAD_SETTINGS: Final = {
    ServerKind.KOBOLDCPP: "--adminunloadtimeout",
    ServerKind.LEMONADE: "evict_idle_timeout, max_loaded_models",
    ServerKind.LLAMA_CPP: "--sleep-idle-seconds",
    ServerKind.LLAMA_CPP_ROUTER: "--sleep-idle-seconds, --models-max",
    ServerKind.LLAMA_SWAP: "ttl",
    ServerKind.LOCALAI: "LOCALAI_WATCHDOG_IDLE",
}

type Fields = dict[vol.Marker, Any]


def new_subentry_values(role: Role) -> dict[str, Any]:
    """Return the values that the form of a new model role suggests.

    They are not defaults of the fields, because Home Assistant fills a default in
    again when the user clears the field.
    """
    keep_alive = role.key("keep_alive")
    values: dict[str, Any] = {keep_alive: default_keep_alive(keep_alive)}
    if role is Role.LLM:
        values[CONF_LLM_HASS_API] = [llm.LLM_API_ASSIST]
        values[CONF_PROMPT] = llm.DEFAULT_INSTRUCTIONS_PROMPT
    return values | values_of_empty_fields(role)


def values_of_empty_fields(role: Role) -> dict[str, Any]:
    """Return what takes effect where a form of a role leaves a text empty."""
    if role is not Role.EXTERNAL_LLM:
        return {}
    return {
        CONF_EXTERNAL_LLM_TOOL_DESCRIPTION: DEFAULT_TOOL_DESCRIPTION,
        CONF_EXTERNAL_LLM_PROMPT: DEFAULT_PROMPT,
    }


def address_fields(role: Role) -> Fields:
    """Return the fields for the address and the API key of a role's server.

    Only the primary LLM needs an address: other roles use its server if they have
    none of their own.
    """
    marker = vol.Required if role is Role.LLM else vol.Optional
    return {
        marker(role.key("base_url")): TextSelector(),
        vol.Optional(vol.Secret(role.key("api_key"))): password_field(),
    }


def own_server_field(role: Role) -> Fields:
    """Return the field with which users call a server at a public address their own."""
    return {vol.Required(role.key("server_is_own"), default=False): BooleanSelector()}


def name_field() -> Fields:
    """Return the field for the name of a conversation agent."""
    return {vol.Optional(CONF_NAME): TextSelector()}


def server_kind_field() -> Fields:
    """Return the field with which users override the detected kind of a server.

    ServerKind.CLOUD is not offered: clouds are recognized by their address alone.
    """
    return {
        vol.Required(Role.LLM.key("server_kind"), default=KIND_AUTOMATIC): select_field(
            [
                KIND_AUTOMATIC,
                *(kind for kind in ServerKind if kind is not ServerKind.CLOUD),
            ],
            translation_key="server_kind",
        )
    }


def model_fields(
    role: Role,
    models: Iterable[ServerModel],
    *,
    required: bool,
    kind: ServerKind | None,
    server: ModelServer | None = None,
) -> Fields:
    """Return the fields for the model and the keep_alive of a role.

    There is no keep_alive field for a kind of server that ignores or refuses the
    setting. kind is None if the server is not known yet. If server can download
    models, the list has some that it does not have.
    """
    marker = vol.Required if required else vol.Optional
    select = model_select(role, list(models), server)
    fields: Fields = {marker(role.key("model")): select}
    if kind is None or takes_keep_alive(kind):
        fields[vol.Optional(role.key("keep_alive"))] = keep_alive_select()
    return fields


def unloading_controlled_by(kind: ServerKind, server: str) -> str:
    """Return what decides when a server unloads an idle model.

    That is keep_alive, or else the server itself: its name, with the setting that
    its operator uses for this, if there is one.
    """
    if ServerCapability.KEEP_ALIVE in server_capabilities(kind):
        return "keep_alive"
    setting = _UNLOAD_SETTINGS.get(kind)
    # As code: the web interface would show the hyphens of "--" as a dash.
    return f"{server} (`{setting}`)" if setting else server


def keep_alive_select() -> SelectSelector:
    """Return the field for a keep_alive: presets, or any text that the user writes.

    The steps of the dialogs validate the text, since a function in a form schema
    cannot be sent to the browser.
    """
    return select_field(
        KEEP_ALIVE_PRESETS, translation_key="keep_alive", custom_value=True
    )


def num_ctx_number() -> NumberSelector:
    """Return the field for a context size in tokens."""
    return number_field(512, 1048576, unit="tokens")


def control_field(hass: HomeAssistant) -> Fields:
    """Return the field for the LLM APIs with which an agent controls the home.

    Those that only administrators may use are marked (Home Assistant 2026.11 has them).
    """
    apis = [
        SelectOptionDict(
            value=api.id,
            label=f"{api.name} (admin)" if is_admin_only(api) else api.name,
        )
        for api in llm.async_get_apis(hass)
    ]
    return {vol.Optional(CONF_LLM_HASS_API): select_field(apis, multiple=True)}


def conversation_fields(
    hass: HomeAssistant, externals: list[SelectOptionDict], kind: ServerKind
) -> Fields:
    """Return the fields that only a conversation agent has.

    externals are the other models that it may ask.
    """
    fields: Fields = control_field(hass) | {
        vol.Optional(CONF_PROMPT): TemplateSelector(),
        vol.Required(CONF_ENTITY_MODE, default=EntityMode.AUTOMATIC): select_field(
            [str(mode) for mode in EntityMode], translation_key="entity_mode"
        ),
    }
    if externals:
        fields[vol.Optional(CONF_EXTERNAL_LLMS)] = select_field(
            externals, multiple=True
        )
    advanced = sampling_fields(Role.LLM, kind) | {
        vol.Optional(
            CONF_RETRIEVAL_THRESHOLD, default=DEFAULT_RETRIEVAL_THRESHOLD
        ): number_field(1, 10000, unit="entities"),
        vol.Optional(
            CONF_RETRIEVAL_LIMIT, default=DEFAULT_RETRIEVAL_LIMIT
        ): number_field(1, MAX_LIMIT, unit="entities"),
        vol.Required(CONF_TELL_TIME, default=False): BooleanSelector(),
        vol.Optional(CONF_MAX_HISTORY, default=DEFAULT_MAX_HISTORY): number_field(
            0, 200, unit="questions"
        ),
    }
    return fields | _advanced(advanced)


def ai_task_fields(kind: ServerKind) -> Fields:
    """Return the fields that an AI task entity has besides its model."""
    return _advanced(sampling_fields(Role.LLM, kind))


def external_llm_fields(kind: ServerKind) -> Fields:
    """Return the fields that only an external LLM has."""
    return {
        vol.Required(
            CONF_EXTERNAL_LLM_FOR_ALL_AGENTS, default=False
        ): BooleanSelector(),
        vol.Required(
            CONF_EXTERNAL_LLM_CONVERSATION, default=CONVERSATION_NOTHING
        ): select_field(
            list(CONVERSATION_OPTIONS), translation_key="external_llm_conversation"
        ),
        vol.Optional(CONF_EXTERNAL_LLM_TOOL_DESCRIPTION): multiline_field(),
        vol.Optional(CONF_EXTERNAL_LLM_PROMPT): multiline_field(),
    } | _advanced(sampling_fields(Role.EXTERNAL_LLM, kind))


def embedding_fields() -> Fields:
    """Return the fields that only an embedding model has."""
    return {
        vol.Required(CONF_EMBEDDING_SEARCH_TOOL, default=True): BooleanSelector(),
    } | _advanced(
        {
            vol.Optional(
                CONF_EMBEDDING_BATCH_SIZE, default=DEFAULT_EMBEDDING_BATCH_SIZE
            ): number_field(1, 512, unit="entities"),
            vol.Required(CONF_VECTOR_STORE, default=Engine.EMBEDDED): select_field(
                [str(engine) for engine in Engine], translation_key="vector_store"
            ),
        }
        | _server_fields(Role.EMBEDDING)
    )


def chroma_fields() -> Fields:
    """Return the fields for the address and the API key of a Chroma server."""
    return {
        vol.Required(CONF_CHROMA_URL): TextSelector(),
        vol.Optional(vol.Secret(CONF_CHROMA_API_KEY)): password_field(),
    }


def sampling_fields(role: Role, kind: ServerKind) -> Fields:
    """Return the fields that control how a chat model answers, and _server_fields.

    If temperature or top_p is empty, requests omit it and the server uses its own
    default. If max_tokens or num_ctx is empty, requests carry Home Agent's default.
    """
    fields: Fields = {
        vol.Optional(role.key("temperature")): number_field(0, 2, step=0.05),
        vol.Optional(role.key("top_p")): number_field(0, 1, step=0.05),
        vol.Optional(role.key("max_tokens")): number_field(1, 131072, unit="tokens"),
    }
    if kind is ServerKind.OLLAMA:
        num_ctx = vol.Optional(role.key("num_ctx"), default=DEFAULT_NUM_CTX)
        fields[num_ctx] = num_ctx_number()
    think = vol.Required(role.key("think"), default=default_think(role, kind))
    fields[think] = select_field(list(THINK_OPTIONS), translation_key="think")
    fields[vol.Required(role.key("stream"), default=True)] = BooleanSelector()
    return fields | _server_fields(role)


def default_think(role: Role, kind: ServerKind) -> str:
    """Return the option of THINK_OPTIONS that the form of a role suggests.

    It is "off" for a conversation agent on Ollama, since a voice assistant should
    answer at once. Otherwise it is "default": the server decides, since other kinds
    of server may not support the setting.
    """
    return "off" if kind is ServerKind.OLLAMA and role is Role.LLM else "default"


def flattened(user_input: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a form as one flat mapping.

    Values inside sections move to the top, texts lose blanks at their ends, and
    empty fields are left out.
    """
    flat: dict[str, Any] = {}
    for key, value in user_input.items():
        flat |= flattened(value) if isinstance(value, Mapping) else {key: value}
    stripped = {
        key: value.strip() if isinstance(value, str) else value
        for key, value in flat.items()
    }
    return {
        key: value for key, value in stripped.items() if value not in (None, "", [])
    }


def with_sections(fields: Fields, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat values as suggested values for fields with sections.

    Each section gets all values. No section has a default of its own: Home
    Assistant's web interface would use it and ignore the values and defaults of the
    fields inside.
    """
    return dict(values) | {
        marker.schema: values
        for marker, field in fields.items()
        if isinstance(field, section)
    }


def _advanced(fields: Fields) -> Fields:
    """Return the fields as one section that is closed at first."""
    inner = {
        marker: SectionNumberSelector(field.config)
        if isinstance(field, NumberSelector)
        else field
        for marker, field in fields.items()
    }
    return {
        vol.Optional(SECTION_ADVANCED): section(vol.Schema(inner), {"collapsed": True})
    }


def _server_fields(role: Role) -> Fields:
    """Return the fields for the warm-up and the idle timeout (seconds) of a role."""
    return {
        vol.Required(role.key("warm_up"), default=True): BooleanSelector(),
        vol.Optional(
            role.key("idle_timeout"), default=DEFAULT_IDLE_TIMEOUT
        ): number_field(5, 3600, unit="s"),
    }

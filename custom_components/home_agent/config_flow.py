"""The first dialog: it sets up a server and its first models."""

from collections.abc import Mapping
from typing import Any, Final, override

from homeassistant.config_entries import (
    ConfigEntry,
    ConfigFlowResult,
    ConfigSubentryFlow,
)
from homeassistant.const import CONF_NAME
from homeassistant.core import callback
from homeassistant.data_entry_flow import section
import probatio as vol

from .const import (
    CONF_LLM_BASE_URL,
    CONF_LLM_KEEP_ALIVE,
    CONF_LLM_MODEL,
    CONF_LLM_SERVER_KIND,
    DOMAIN,
    SUBENTRY_AI_TASK,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from .dialogs.change_entry import ENTRY_KEYS, ChangeEntryFlow
from .dialogs.fields import (
    Fields,
    address_fields,
    flattened,
    model_fields,
    name_field,
    new_subentry_values,
    own_server_field,
    unloading_controlled_by,
    with_sections,
)
from .dialogs.find_server import FoundServer, ServerNotFound, async_find_server
from .dialogs.new_subentries import (
    OPTIONAL_ROLES,
    default_agent_name,
    new_subentries,
)
from .dialogs.role_check import async_check_role, is_keep_alive_valid
from .dialogs.subentries import (
    AITaskFlow,
    ConversationFlow,
    EmbeddingFlow,
    ExternalLLMFlow,
)
from .keep_alive import InvalidKeepAlive, KeepAlive
from .model.role import Role
from .servers.address import server_id
from .servers.base import ServerKind
from .servers.factory import is_declaration_needed

_ROLES: Final = {SUBENTRY_CONVERSATION: Role.LLM, **OPTIONAL_ROLES}


def validate_keep_alive[T: (str, int)](value: T) -> T:
    """Return value unchanged if it is a valid keep_alive.

    Raise vol.Invalid for anything else; its message says what to write instead.
    """
    try:
        KeepAlive.parse(value)
    except InvalidKeepAlive as err:
        raise vol.Invalid(str(err)) from err
    return value


class HomeAgentConfigFlow(ChangeEntryFlow, domain=DOMAIN):
    """Set up a server and its first models."""

    VERSION = 2
    MINOR_VERSION = 3

    def __init__(self) -> None:
        """Start without a server."""
        super().__init__()
        self._found: FoundServer

    @classmethod
    @callback
    @override
    def async_get_supported_subentry_types(
        cls, config_entry: ConfigEntry[Any]
    ) -> dict[str, type[ConfigSubentryFlow]]:
        """Return the model roles that can be added."""
        return {
            SUBENTRY_CONVERSATION: ConversationFlow,
            SUBENTRY_EXTERNAL_LLM: ExternalLLMFlow,
            SUBENTRY_EMBEDDING: EmbeddingFlow,
            SUBENTRY_AI_TASK: AITaskFlow,
        }

    @override
    async def async_step_user(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Ask for the address of the server, and detect its kind."""
        errors: dict[str, str] = {}
        if user_input is not None:
            try:
                self._found = await async_find_server(
                    self.hass, flattened(user_input), {}
                )
            except ServerNotFound as err:
                errors = err.errors
            else:
                await self._async_claim_server()
                return await self.async_step_models()
        return self.async_show_form(
            step_id="user",
            data_schema=self.add_suggested_values_to_schema(
                vol.Schema(address_fields(Role.LLM)), user_input or {}
            ),
            errors=errors,
        )

    async def _async_claim_server(self) -> None:
        """Abort if an entry for the server exists.

        Another dialog for the server may be open: its page may have been closed, so
        nobody may be able to finish it. The dialog that is finished first wins.
        """
        await self.async_set_unique_id(
            server_id(self._found.data[CONF_LLM_BASE_URL]), raise_on_progress=False
        )
        self._abort_if_unique_id_configured()

    async def async_step_models(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Ask for the models, and create the entry with a subentry for each."""
        errors: dict[str, str] = {}
        if user_input is not None:
            config = self._found.data | flattened(user_input)
            for name, role in _ROLES.items():
                role_errors, learned = await self._async_check(config, role)
                config |= learned
                if role is not Role.LLM and role_errors:
                    # The web interface shows errors of a section above it.
                    errors[name] = f"{role}_{next(iter(role_errors.values()))}"
                errors |= role_errors
            if not errors:
                await self._async_claim_server()
                return self._create_entry(config)
        values = user_input
        if values is None:
            values = {CONF_NAME: default_agent_name(self.hass)}
            for role in _ROLES.values():
                values |= new_subentry_values(role)
        fields = self._models_fields(errors)
        return self.async_show_form(
            step_id="models",
            data_schema=self.add_suggested_values_to_schema(
                vol.Schema(fields), user_input or with_sections(fields, values)
            ),
            errors=errors,
            description_placeholders=self._models_placeholders(),
        )

    def _models_placeholders(self) -> dict[str, str]:
        """Return what the description of the models step names."""
        detected = self._found.detected
        return {
            "server": f"{detected.name} {detected.version}".strip(),
            "count": str(len(self._found.models)),
            "unloading": unloading_controlled_by(self._kind, detected.name),
        }

    @property
    def _kind(self) -> ServerKind:
        """Return the kind of the server: the detected one or the user's choice."""
        return ServerKind(self._found.data[CONF_LLM_SERVER_KIND])

    async def _async_check(
        self, config: Mapping[str, Any], role: Role
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Check one role; return its errors by field, and what to store of its server.

        Of an optional role without a model, which the user does not want, only the
        keep_alive is checked: the user has written it for some reason.
        """
        if not config.get(role.key("model")):
            if role.key("base_url") in config or role.key("api_key") in config:
                return {role.key("model"): "model_required"}, {}
            if not is_keep_alive_valid(config, role):
                return {role.key("keep_alive"): "invalid_keep_alive"}, {}
            return {}, {}
        check = await async_check_role(self.hass, config, role)
        errors = check.errors
        if role is Role.LLM:
            # The fields of the server are in the step before.
            errors = {
                key if key in (CONF_LLM_MODEL, CONF_LLM_KEEP_ALIVE) else "base": error
                for key, error in errors.items()
            }
        return errors, check.learned

    def _models_fields(self, errors: Mapping[str, str]) -> Fields:
        """Return the fields of the models; a section with an error is open."""
        models = self._found.models
        fields = model_fields(Role.LLM, models, required=True, kind=self._kind)
        if is_declaration_needed(self._found.server):
            fields |= own_server_field(Role.LLM)
        fields |= name_field()
        for name, role in OPTIONAL_ROLES.items():
            section_fields = address_fields(role) | model_fields(
                role, models, required=False, kind=None
            )
            fields[vol.Optional(name)] = section(
                vol.Schema(section_fields), {"collapsed": name not in errors}
            )
        return fields

    def _create_entry(self, config: Mapping[str, Any]) -> ConfigFlowResult:
        """Create the entry and its subentries from a flat configuration."""
        name = config.get(CONF_NAME) or default_agent_name(self.hass)
        return self.async_create_entry(
            title=self._found.title,
            data={key: config[key] for key in ENTRY_KEYS if key in config},
            subentries=new_subentries(config, name),
        )

"""The first dialog: it sets up a server and its first models."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Final, override

from homeassistant.config_entries import (
    ConfigEntry,
    ConfigFlowContext,
    ConfigFlowResult,
    ConfigSubentryFlow,
)
from homeassistant.const import CONF_LLM_HASS_API, CONF_NAME
from homeassistant.core import callback
from homeassistant.data_entry_flow import AbortFlow, section
from homeassistant.helpers import llm
import probatio as vol

from .const import (
    CONF_EXTERNAL_LLMS,
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
    control_field,
    flattened,
    model_fields,
    name_field,
    new_subentry_values,
    own_server_field,
    unloading_controlled_by,
    with_sections,
)
from .dialogs.find_server import FoundServer, ServerNotFound, async_find_server
from .dialogs.headers import InvalidHeaders, headers_field, with_headers
from .dialogs.model_steps import ModelSteps
from .dialogs.new_subentries import (
    OPTIONAL_ROLES,
    agent_data,
    default_agent_name,
    new_subentries,
)
from .dialogs.role_check import RoleCheck, async_check_role, is_keep_alive_valid
from .dialogs.same_server import entry_of_server, free_unique_id
from .dialogs.subentries import (
    AITaskFlow,
    ConversationFlow,
    EmbeddingFlow,
    ExternalLLMFlow,
)
from .keep_alive import InvalidKeepAlive, KeepAlive
from .model.role import Role
from .servers.base import ServerKind
from .servers.errors import ModelServerError
from .servers.factory import is_declaration_needed

_ROLES: Final = {SUBENTRY_CONVERSATION: Role.LLM, **OPTIONAL_ROLES}
_SECTIONS: Final = {role: name for name, role in OPTIONAL_ROLES.items()}


def validate_keep_alive[T: (str, int)](value: T) -> T:
    """Return value unchanged if it is a valid keep_alive.

    Raise vol.Invalid for anything else; its message says what to write instead.
    """
    try:
        KeepAlive.parse(value)
    except InvalidKeepAlive as err:
        raise vol.Invalid(str(err)) from err
    return value


class HomeAgentConfigFlow(
    ModelSteps[ConfigFlowContext, ConfigFlowResult, str],
    ChangeEntryFlow,
    domain=DOMAIN,
):
    """Set up a server and its first models."""

    VERSION = 2
    MINOR_VERSION = 3

    def __init__(self) -> None:
        """Start without a server."""
        super().__init__()
        self._found: FoundServer
        self._submitted: dict[str, Any] | None = None
        # Whether the form of the models asks what the agent is to control.
        self._asks_control = False

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
                form = with_headers(user_input, Role.LLM)
                self._found = await async_find_server(self.hass, form, {})
            except (InvalidHeaders, ServerNotFound) as err:
                errors = err.errors
            else:
                await self._async_claim_server()
                return await self.async_step_models()
        fields = address_fields(Role.LLM) | headers_field(Role.LLM, errors)
        return self.async_show_form(
            step_id="user",
            data_schema=self.add_suggested_values_to_schema(
                vol.Schema(fields), user_input or {}
            ),
            errors=errors,
        )

    async def _async_claim_server(self) -> None:
        """Abort if an entry for the server with the same key exists.

        Another dialog for the server may be open: its page may have been closed, so
        nobody may be able to finish it. The dialog that is finished first wins.
        """
        data = self._found.data
        if entry_of_server(self.hass, data):
            raise AbortFlow("already_configured")
        unique_id = free_unique_id(self.hass, data)
        await self.async_set_unique_id(unique_id, raise_on_progress=False)

    async def async_step_models(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Ask for the models, and create the entry with a subentry for each."""
        errors: dict[str, str] = {}
        placeholders = self._models_placeholders()
        if user_input is not None:
            self._submitted = user_input
            config = self._found.data | flattened(user_input)
            if self._asks_control:
                config.setdefault(CONF_LLM_HASS_API, [])
            errors, checks = await self._async_check(config)
            if not errors:
                if download := await self._async_use_models(self.hass, checks):
                    return download
                errors = _errors_by_field(checks)
            for check in checks:
                config |= check.learned
                placeholders |= check.placeholders
            if not errors:
                await self._async_claim_server()
                return self._create_entry(config)
        return self._models_form(user_input, errors, placeholders)

    @override
    async def _async_submit_again(self) -> ConfigFlowResult:
        """Submit the models again, after a download."""
        with suppress(ModelServerError):
            self._found.models[:] = await self._found.server.list_models()
        return await self.async_step_models(self._submitted)

    def _models_form(
        self,
        user_input: dict[str, Any] | None,
        errors: dict[str, str],
        placeholders: dict[str, str],
    ) -> ConfigFlowResult:
        """Show the form of the models.

        If the model cannot use tools, the form asks what it is to control from then
        on: without control, the model can be used all the same.
        """
        values = user_input
        if values is None:
            values = {CONF_NAME: default_agent_name(self.hass)}
            for role in _ROLES.values():
                values |= new_subentry_values(role)
        if CONF_LLM_HASS_API in errors and not self._asks_control:
            self._asks_control = True
            values = {**values, CONF_LLM_HASS_API: [llm.LLM_API_ASSIST]}
        fields = self._models_fields(errors)
        if user_input is None:
            values = with_sections(fields, values)
        return self.async_show_form(
            step_id="models",
            data_schema=self.add_suggested_values_to_schema(vol.Schema(fields), values),
            errors=errors,
            description_placeholders=placeholders,
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
        self, config: Mapping[str, Any]
    ) -> tuple[dict[str, str], list[RoleCheck]]:
        """Check all roles that the user wants; return errors by field, and the checks.

        Of an optional role without a model, which the user does not want, only the
        keep_alive is checked: the user has written it for some reason.
        """
        errors: dict[str, str] = {}
        checks: list[RoleCheck] = []
        for name, role in _ROLES.items():
            if config.get(role.key("model")):
                own = config
                if role is Role.LLM:
                    external = config.get(Role.EXTERNAL_LLM.key("model"))
                    own = {**config, **agent_data(config, [name] if external else [])}
                checks.append(await async_check_role(self.hass, own, role))
            elif role.key("base_url") in config or role.key("api_key") in config:
                errors[role.key("model")] = "model_required"
                errors[name] = f"{role}_model_required"
            elif not is_keep_alive_valid(config, role):
                errors[role.key("keep_alive")] = "invalid_keep_alive"
                errors[name] = f"{role}_invalid_keep_alive"
        return _errors_by_field(checks) | errors, checks

    def _models_fields(self, errors: Mapping[str, str]) -> Fields:
        """Return the fields of the models; a section with an error is open."""
        models = self._found.models
        server = self._found.server
        fields = model_fields(
            Role.LLM, models, required=True, kind=self._kind, server=server
        )
        if self._asks_control:
            fields |= control_field(self.hass)
        if is_declaration_needed(server):
            fields |= own_server_field(Role.LLM)
        fields |= name_field()
        for name, role in OPTIONAL_ROLES.items():
            section_fields = address_fields(role) | model_fields(
                role, models, required=False, kind=None, server=server
            )
            fields[vol.Optional(name)] = section(
                vol.Schema(section_fields), {"collapsed": name not in errors}
            )
        return fields

    def _create_entry(self, config: Mapping[str, Any]) -> ConfigFlowResult:
        """Create the entry and its subentries from a flat configuration."""
        name = config.get(CONF_NAME) or default_agent_name(self.hass)
        return self.async_create_entry(
            title=self._free_title(),
            data={key: config[key] for key in ENTRY_KEYS if key in config},
            subentries=new_subentries(config, name),
        )

    def _free_title(self) -> str:
        """Return a title for the entry, with a number if another entry has it."""
        taken = {entry.title for entry in self._async_current_entries()}
        titles = (self._found.numbered_title(number) for number in count(1))
        return next(title for title in titles if title not in taken)


def _errors_by_field(checks: Iterable[RoleCheck]) -> dict[str, str]:
    """Return the errors of checks by the field of the models form that shows them.

    The fields of the primary LLM's server are in the step before, and what it may ask
    is the model of the external LLM. The web interface shows errors of a section
    above it only, so they are there too.
    """
    errors: dict[str, str] = {}
    own_fields = {CONF_LLM_MODEL, CONF_LLM_KEEP_ALIVE, CONF_LLM_HASS_API}
    external = Role.EXTERNAL_LLM
    for check in checks:
        for key, error in check.errors.items():
            if check.role is not Role.LLM:
                errors[key] = error
                errors.setdefault(_SECTIONS[check.role], f"{check.role}_{error}")
            elif key == CONF_EXTERNAL_LLMS:
                errors[external.key("model")] = error
                errors[_SECTIONS[external]] = f"{external}_{error}"
            else:
                errors[key if key in own_fields else "base"] = error
    return errors

"""The dialogs of a config entry: set-up, reconfiguration and reauthentication."""

from collections.abc import Mapping
import logging
from typing import Any, Final, override

from homeassistant.config_entries import (
    SOURCE_REAUTH,
    ConfigEntry,
    ConfigFlow,
    ConfigFlowResult,
    ConfigSubentry,
    ConfigSubentryFlow,
)
from homeassistant.core import callback
from homeassistant.data_entry_flow import section
import probatio as vol

from .const import (
    CONF_LLM_API_BASE,
    CONF_LLM_API_KEY,
    CONF_LLM_BASE_URL,
    CONF_LLM_HEADERS,
    CONF_LLM_KEEP_ALIVE,
    CONF_LLM_KEEP_ALIVE_REFUSED,
    CONF_LLM_MODEL,
    CONF_LLM_SERVER_IS_OWN,
    CONF_LLM_SERVER_KIND,
    CONF_SUBENTRY_ID,
    DOMAIN,
    SUBENTRY_AI_TASK,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from .dialogs.fields import (
    KIND_AUTOMATIC,
    Fields,
    address_fields,
    flattened,
    model_fields,
    new_subentry_values,
    own_server_field,
    server_kind_field,
    unloading_controlled_by,
    with_sections,
)
from .dialogs.new_subentries import OPTIONAL_ROLES, new_subentries
from .dialogs.role_check import async_check_role, error_field
from .dialogs.server_address import clean_address
from .dialogs.subentries import (
    AITaskFlow,
    ConversationFlow,
    EmbeddingFlow,
    ExternalLLMFlow,
)
from .keep_alive import InvalidKeepAlive, KeepAlive
from .model.role import Role, merged_config, role_connection, subentry_role
from .servers.address import server_id, shown_host
from .servers.base import ModelServer, ServerKind, ServerModel
from .servers.detect import Detected, detect
from .servers.errors import ModelServerError
from .servers.factory import connect, is_declaration_needed
from .servers.session import async_get_session

_LOGGER = logging.getLogger(__name__)

_ROLES: Final = {SUBENTRY_CONVERSATION: Role.LLM, **OPTIONAL_ROLES}
# The keys that describe the server and are stored with the entry. All other keys
# are stored with the subentry of a role.
_ENTRY_KEYS: Final = (
    CONF_LLM_BASE_URL,
    CONF_LLM_API_KEY,
    CONF_LLM_HEADERS,
    CONF_LLM_SERVER_KIND,
    CONF_LLM_KEEP_ALIVE_REFUSED,
    CONF_LLM_API_BASE,
    CONF_LLM_SERVER_IS_OWN,
)


def validate_keep_alive[T: (str, int)](value: T) -> T:
    """Return value unchanged if it is a valid keep_alive.

    Raise vol.Invalid for anything else; its message says what to write instead.
    """
    try:
        KeepAlive.parse(value)
    except InvalidKeepAlive as err:
        raise vol.Invalid(str(err)) from err
    return value


class HomeAgentConfigFlow(ConfigFlow, domain=DOMAIN):
    """Set up a server and its first models."""

    VERSION = 2
    MINOR_VERSION = 3

    def __init__(self) -> None:
        """Start without a server."""
        self._data: dict[str, Any] = {}
        self._detected: Detected
        self._server: ModelServer
        self._models: list[ServerModel] = []
        self._reauth_subentry_id: str | None = None

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
            data = flattened(user_input)
            if not (errors := await self._async_find_server(data, {})):
                await self.async_set_unique_id(server_id(data[CONF_LLM_BASE_URL]))
                self._abort_if_unique_id_configured()
                self._data = data
                return await self.async_step_models()
        return self.async_show_form(
            step_id="user",
            data_schema=self.add_suggested_values_to_schema(
                vol.Schema(address_fields(Role.LLM)), user_input or {}
            ),
            errors=errors,
        )

    async def async_step_models(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Ask for the models, and create the entry with a subentry for each."""
        errors: dict[str, str] = {}
        if user_input is not None:
            config = self._data | flattened(user_input)
            for name, role in _ROLES.items():
                role_errors, learned = await self._async_check(config, role)
                config |= learned
                if role is not Role.LLM and role_errors:
                    # The web interface shows errors of a section above it.
                    errors[name] = f"{role}_{next(iter(role_errors.values()))}"
                errors |= role_errors
            if not errors:
                return self._create_entry(config)
        values = user_input
        if values is None:
            values = {
                key: value
                for role in _ROLES.values()
                for key, value in new_subentry_values(role).items()
            }
        fields = self._models_fields(errors)
        return self.async_show_form(
            step_id="models",
            data_schema=self.add_suggested_values_to_schema(
                vol.Schema(fields), user_input or with_sections(fields, values)
            ),
            errors=errors,
            description_placeholders={
                "server": f"{self._detected.name} {self._detected.version}".strip(),
                "count": str(len(self._models)),
                "unloading": unloading_controlled_by(
                    ServerKind(self._data[CONF_LLM_SERVER_KIND]), self._detected.name
                ),
            },
        )

    async def async_step_reconfigure(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Change the address, the API key or the kind of the server."""
        entry = self._get_reconfigure_entry()
        errors: dict[str, str] = {}
        has_own_field = CONF_LLM_SERVER_IS_OWN in (user_input or entry.data)
        if user_input is not None:
            data = flattened(user_input)
            if not (errors := await self._async_find_server(data, entry.data)):
                is_needed = is_declaration_needed(self._server)
                if not is_needed:
                    data.pop(CONF_LLM_SERVER_IS_OWN, None)
                if has_own_field or not is_needed:
                    return self._reconfigured(entry, data)
                has_own_field = True
        fields = address_fields(Role.LLM) | server_kind_field()
        if has_own_field:
            fields |= own_server_field(Role.LLM)
        values = dict(entry.data)
        values[CONF_LLM_SERVER_KIND] = KIND_AUTOMATIC
        return self.async_show_form(
            step_id="reconfigure",
            data_schema=self.add_suggested_values_to_schema(
                vol.Schema(fields), user_input or values
            ),
            errors=errors,
        )

    def _reconfigured(
        self, entry: ConfigEntry[Any], data: dict[str, Any]
    ) -> ConfigFlowResult:
        """Save what the user changed about the server."""
        unique_id = server_id(data[CONF_LLM_BASE_URL])
        other = self.hass.config_entries.async_entry_for_domain_unique_id(
            DOMAIN, unique_id
        )
        if other not in (None, entry):
            return self.async_abort(reason="already_configured")
        kept = {k: v for k, v in entry.data.items() if k not in _ENTRY_KEYS}
        # A title without the host is one that the user gave.
        host = shown_host(entry.data[CONF_LLM_BASE_URL])
        renamed = not entry.title.endswith(f"({host})")
        return self._save_and_abort(
            unique_id=unique_id,
            title=entry.title if renamed else self._title(data),
            data=kept | data,
        )

    async def async_step_reauth(
        self, entry_data: Mapping[str, Any]
    ) -> ConfigFlowResult:
        """Ask for a new key, since a server refuses the old one.

        entry_data has the id of the subentry whose own key was refused; without it,
        the key is that of the config entry.
        """
        self._reauth_subentry_id = entry_data.get(CONF_SUBENTRY_ID)
        return await self.async_step_reauth_confirm()

    async def async_step_reauth_confirm(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Check the new API key with the server and save it."""
        entry = self._get_reauth_entry()
        subentry = entry.subentries.get(self._reauth_subentry_id or "")
        role = subentry_role(subentry) if subentry else Role.LLM
        config = merged_config(entry, subentry) if subentry else entry.data
        key_field = role.key("api_key")
        errors: dict[str, str] = {}
        if user_input is not None:
            new = {key_field: user_input[key_field].strip()}
            if subentry:
                check = await async_check_role(self.hass, {**config, **new}, role)
                errors = check.errors
            else:
                errors = await self._async_find_server({**config, **new}, entry.data)
            if not errors and subentry:
                return self._save_subentry_key_and_abort(entry, subentry, new)
            if not errors:
                return self._save_and_abort(data={**entry.data, **new})
            errors = {key_field: next(iter(errors.values()))}
        fields = {
            vol.Required(marker.schema): selector
            for marker, selector in address_fields(role).items()
            if marker == key_field
        }
        return self.async_show_form(
            step_id="reauth_confirm",
            data_schema=vol.Schema(fields),
            errors=errors,
            description_placeholders={
                "host": shown_host(role_connection(config, role).url)
            },
        )

    def _save_subentry_key_and_abort(
        self, entry: ConfigEntry[Any], subentry: ConfigSubentry, key: dict[str, str]
    ) -> ConfigFlowResult:
        """Save a role's new key; the update listener of a loaded entry reloads it."""
        is_changed = self.hass.config_entries.async_update_subentry(
            entry, subentry, data={**subentry.data, **key}
        )
        if not is_changed or not entry.update_listeners:
            self.hass.config_entries.async_schedule_reload(entry.entry_id)
        return self.async_abort(reason="reauth_successful")

    def _save_and_abort(self, **changes: Any) -> ConfigFlowResult:
        """Save changes of the entry, and make sure that it is set up again.

        The update listener of a loaded entry reloads it if its data changed. An
        entry whose set-up failed has no listener, and unchanged data calls none:
        both are reloaded here.
        """
        entry = (
            self._get_reauth_entry()
            if self.source == SOURCE_REAUTH
            else self._get_reconfigure_entry()
        )
        reload = not entry.update_listeners or changes["data"] == entry.data
        result = self.async_update_and_abort(entry, **changes)
        if reload:
            self.hass.config_entries.async_schedule_reload(entry.entry_id)
        return result

    async def _async_find_server(
        self, data: dict[str, Any], stored: Mapping[str, Any]
    ) -> dict[str, str]:
        """Detect the server at the address in data, and list its models.

        stored is the data of the entry so far. Return errors by field. Without an
        error, data has the cleaned address, the address of its API if that is
        unusual, and the kind of the server: the detected one, or the one that the
        user chose.
        """
        if error := clean_address(data, Role.LLM, stored):
            return {CONF_LLM_BASE_URL: error}
        data.pop(CONF_LLM_API_BASE, None)
        chosen = data.pop(CONF_LLM_SERVER_KIND, KIND_AUTOMATIC)
        session = async_get_session(self.hass)
        try:
            connection = role_connection(data, Role.LLM)
            self._detected = await detect(session, connection)
            kind = self._detected.kind
            if chosen != KIND_AUTOMATIC:
                kind = ServerKind(chosen)
            data[CONF_LLM_SERVER_KIND] = str(kind)
            if self._detected.api_base is not None:
                data[CONF_LLM_API_BASE] = self._detected.api_base
            self._server = await connect(session, role_connection(data, Role.LLM))
            self._models = await self._server.list_models()
        except ModelServerError as err:
            name, error = error_field(err)
            return {Role.LLM.key(name): error}
        _LOGGER.debug(
            "The server at %s is detected as %s, version %s, is used as %s and has %d"
            " models",
            shown_host(data[CONF_LLM_BASE_URL]),
            self._detected.kind,
            self._detected.version or "unknown",
            kind,
            len(self._models),
        )
        return {}

    async def _async_check(
        self, config: Mapping[str, Any], role: Role
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Check one role; return its errors by field, and what to store of its server.

        An optional role without a model is not checked: the user does not want it.
        """
        if not config.get(role.key("model")):
            if role.key("base_url") in config or role.key("api_key") in config:
                return {role.key("model"): "model_required"}, {}
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
        kind = ServerKind(self._data[CONF_LLM_SERVER_KIND])
        fields = model_fields(Role.LLM, self._models, required=True, kind=kind)
        if is_declaration_needed(self._server):
            fields |= own_server_field(Role.LLM)
        for name, role in OPTIONAL_ROLES.items():
            section_fields = address_fields(role) | model_fields(
                role, self._models, required=False, kind=None
            )
            fields[vol.Optional(name)] = section(
                vol.Schema(section_fields), {"collapsed": name not in errors}
            )
        return fields

    def _create_entry(self, config: Mapping[str, Any]) -> ConfigFlowResult:
        """Create the entry and its subentries from a flat configuration."""
        return self.async_create_entry(
            title=self._title(config),
            data={key: config[key] for key in _ENTRY_KEYS if key in config},
            subentries=new_subentries(config),
        )

    def _title(self, data: Mapping[str, Any]) -> str:
        """Return the title of an entry: the name of the server and its host."""
        return f"{self._detected.name} ({shown_host(data[CONF_LLM_BASE_URL])})"

"""The dialogs of a config entry: set-up, reconfiguration, a new key."""

from collections.abc import Mapping
from typing import Any, Final, override

from homeassistant.config_entries import (
    SOURCE_REAUTH,
    ConfigEntry,
    ConfigFlow,
    ConfigFlowResult,
    ConfigSubentryDataWithId,
    ConfigSubentryFlow,
)
from homeassistant.core import callback
from homeassistant.data_entry_flow import section
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.util.ulid import ulid_now
import probatio as vol

from .const import (
    CONF_EXTERNAL_LLMS,
    CONF_LLM_API_BASE,
    CONF_LLM_API_KEY,
    CONF_LLM_BASE_URL,
    CONF_LLM_HEADERS,
    CONF_LLM_KEEP_ALIVE,
    CONF_LLM_KEEP_ALIVE_REFUSED,
    CONF_LLM_MODEL,
    CONF_LLM_SERVER_IS_OWN,
    CONF_LLM_SERVER_KIND,
    CONF_LLM_THINK,
    DOMAIN,
    SUBENTRY_CONVERSATION,
    SUBENTRY_EMBEDDING,
    SUBENTRY_EXTERNAL_LLM,
)
from .dialogs.fields import (
    KIND_AUTOMATIC,
    Fields,
    address_fields,
    default_think,
    flattened,
    model_fields,
    new_subentry_values,
    own_server_field,
    server_kind_field,
    with_sections,
)
from .dialogs.role_check import async_check_role, error_field
from .dialogs.server_address import clean_address
from .dialogs.subentries import ConversationFlow, EmbeddingFlow, ExternalLLMFlow
from .keep_alive import InvalidKeepAlive, KeepAlive
from .model.role import Role, role_connection
from .servers.address import server_id, shown_host
from .servers.base import ModelServer, ServerKind, ServerModel
from .servers.detect import Detected, detect
from .servers.errors import ModelServerError
from .servers.factory import connect, is_declaration_needed, takes_keep_alive

# The roles that the first dialog may add, each in a section of its own.
_SECTIONS: Final = {
    SUBENTRY_EXTERNAL_LLM: Role.EXTERNAL_LLM,
    SUBENTRY_EMBEDDING: Role.EMBEDDING,
}
_ROLES: Final = {SUBENTRY_CONVERSATION: Role.LLM, **_SECTIONS}
# What belongs to the server; the rest belongs to a model role.
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
    """Return a keep_alive as it is; raise vol.Invalid if no server understands it.

    The message says what to write instead.
    """
    try:
        KeepAlive.parse(value)
    except InvalidKeepAlive as err:
        raise vol.Invalid(str(err)) from err
    return value


class HomeAgentConfigFlow(ConfigFlow, domain=DOMAIN):
    """Set up a server and its first models."""

    VERSION = 2

    def __init__(self) -> None:
        """Start before the first dialog."""
        self._data: dict[str, Any] = {}
        self._detected: Detected
        self._server: ModelServer
        self._models: list[ServerModel] = []

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
        }

    @override
    async def async_step_user(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Ask for the server, and find out which it is."""
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
        """Ask for the models, and make the entry with a subentry for each."""
        errors: dict[str, str] = {}
        if user_input is not None:
            config = self._data | flattened(user_input)
            for name, role in _ROLES.items():
                role_errors, learned = await self._async_check(config, role)
                config |= learned
                if role is not Role.LLM and role_errors:
                    # The frontend shows no error inside a section, but above it.
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
            },
        )

    async def async_step_reconfigure(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Change the address, the key or the kind of the server."""
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
        """Ask for a new key, since the server refuses the old one."""
        return await self.async_step_reauth_confirm()

    async def async_step_reauth_confirm(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Try the new key and save it."""
        entry = self._get_reauth_entry()
        errors: dict[str, str] = {}
        if user_input is not None:
            key = {CONF_LLM_API_KEY: user_input[CONF_LLM_API_KEY].strip()}
            errors = await self._async_find_server({**entry.data, **key}, entry.data)
            if not errors:
                return self._save_and_abort(data={**entry.data, **key})
            errors = {CONF_LLM_API_KEY: next(iter(errors.values()))}
        fields = {
            vol.Required(marker.schema): selector
            for marker, selector in address_fields(Role.LLM).items()
            if marker == CONF_LLM_API_KEY
        }
        return self.async_show_form(
            step_id="reauth_confirm",
            data_schema=vol.Schema(fields),
            errors=errors,
            description_placeholders={
                "host": shown_host(entry.data[CONF_LLM_BASE_URL])
            },
        )

    def _save_and_abort(self, **changes: Any) -> ConfigFlowResult:
        """Save changes of the entry and make sure that it is set up with them.

        A loaded entry is reloaded by its update listener, but only for a change;
        and one that failed has no listener.
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
        """Find out which server answers, and put it into data.

        stored is the data of the entry so far. Return errors by field. data gets the
        address in its plain form, its API's address where that is unusual, and the
        kind of the server, unless the user chose it.
        """
        if error := clean_address(data, Role.LLM, stored):
            return {CONF_LLM_BASE_URL: error}
        data.pop(CONF_LLM_API_BASE, None)
        chosen = data.pop(CONF_LLM_SERVER_KIND, KIND_AUTOMATIC)
        session = async_get_clientsession(self.hass)
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
        return {}

    async def _async_check(
        self, config: Mapping[str, Any], role: Role
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the errors of a role by field, and what was learned of its server.

        A role that is not filled in is not wanted.
        """
        if not config.get(role.key("model")):
            if role.key("base_url") in config or role.key("api_key") in config:
                return {role.key("model"): "model_required"}, {}
            return {}, {}
        check = await async_check_role(self.hass, config, role)
        errors = check.errors
        if role is Role.LLM:
            # The server had its fields in the step before.
            errors = {
                key if key in (CONF_LLM_MODEL, CONF_LLM_KEEP_ALIVE) else "base": error
                for key, error in errors.items()
            }
        return errors, check.learned

    def _models_fields(self, errors: Mapping[str, str]) -> Fields:
        """Return the form for the models; a section with an error is open."""
        kind = ServerKind(self._data[CONF_LLM_SERVER_KIND])
        fields = model_fields(Role.LLM, self._models, required=True, kind=kind)
        if is_declaration_needed(self._server):
            fields |= own_server_field(Role.LLM)
        for name, role in _SECTIONS.items():
            section_fields = address_fields(role) | model_fields(
                role, self._models, required=False, kind=None
            )
            fields[vol.Optional(name)] = section(
                vol.Schema(section_fields), {"collapsed": name not in errors}
            )
        return fields

    def _create_entry(self, config: Mapping[str, Any]) -> ConfigFlowResult:
        """Return the entry of a flat configuration, with its subentries."""
        subentries: list[ConfigSubentryDataWithId] = []
        for subentry_type, role in _SECTIONS.items():
            if model := config.get(role.key("model")):
                data = {k: v for k, v in config.items() if k.startswith(f"{role}_")}
                kind = role_connection(config, role).kind
                if kind and not takes_keep_alive(kind):
                    data.pop(role.key("keep_alive"), None)
                subentries.append(_subentry(subentry_type, model, data))
        kind = ServerKind(config[CONF_LLM_SERVER_KIND])
        agent = {
            **new_subentry_values(Role.LLM),
            CONF_LLM_THINK: default_think(Role.LLM, kind),
            CONF_LLM_MODEL: config[CONF_LLM_MODEL],
        }
        if keep_alive := config.get(CONF_LLM_KEEP_ALIVE):
            agent[CONF_LLM_KEEP_ALIVE] = keep_alive
        else:
            del agent[CONF_LLM_KEEP_ALIVE]
        agent[CONF_EXTERNAL_LLMS] = [
            subentry["subentry_id"]
            for subentry in subentries
            if subentry["subentry_type"] == SUBENTRY_EXTERNAL_LLM
        ]
        subentries.append(_subentry(SUBENTRY_CONVERSATION, "Home Agent", agent))
        return self.async_create_entry(
            title=self._title(config),
            data={key: config[key] for key in _ENTRY_KEYS if key in config},
            subentries=subentries,
        )

    def _title(self, data: Mapping[str, Any]) -> str:
        """Return the title of an entry."""
        return f"{self._detected.name} ({shown_host(data[CONF_LLM_BASE_URL])})"


def _subentry(
    subentry_type: str, title: str, data: Mapping[str, Any]
) -> ConfigSubentryDataWithId:
    """Return a new subentry; its id is known, so that others can refer to it."""
    return ConfigSubentryDataWithId(
        subentry_id=ulid_now(),
        subentry_type=subentry_type,
        title=title,
        unique_id=None,
        data=data,
    )

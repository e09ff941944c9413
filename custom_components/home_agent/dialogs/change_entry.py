"""The dialogs that change a config entry: a new address, or a new API key."""

from collections.abc import Mapping
from typing import Any, Final

from homeassistant.config_entries import (
    SOURCE_REAUTH,
    ConfigEntry,
    ConfigFlow,
    ConfigFlowResult,
    ConfigSubentry,
)
import probatio as vol

from ..const import (
    CONF_LLM_API_BASE,
    CONF_LLM_API_KEY,
    CONF_LLM_BASE_URL,
    CONF_LLM_HEADERS,
    CONF_LLM_KEEP_ALIVE_REFUSED,
    CONF_LLM_SERVER_IS_OWN,
    CONF_LLM_SERVER_KIND,
    CONF_LLM_SERVER_KIND_CHOSEN,
    CONF_SUBENTRY_ID,
)
from ..model.role import Role, merged_config, role_connection, subentry_role
from ..servers.address import shown_host
from ..servers.factory import is_declaration_needed
from .fields import (
    KIND_AUTOMATIC,
    address_fields,
    own_server_field,
    server_kind_field,
    with_sections,
)
from .find_server import FoundServer, ServerNotFound, async_find_server
from .headers import (
    InvalidHeaders,
    headers_field,
    with_headers,
    with_headers_as_text,
)
from .role_check import async_check_role
from .same_server import entry_of_server, free_unique_id

# The keys that describe the server and are stored with the entry. All other keys
# are stored with the subentry of a role.
ENTRY_KEYS: Final = (
    CONF_LLM_BASE_URL,
    CONF_LLM_API_KEY,
    CONF_LLM_HEADERS,
    CONF_LLM_SERVER_KIND,
    CONF_LLM_SERVER_KIND_CHOSEN,
    CONF_LLM_KEEP_ALIVE_REFUSED,
    CONF_LLM_API_BASE,
    CONF_LLM_SERVER_IS_OWN,
)


class ChangeEntryFlow(ConfigFlow):
    """Change the server of an entry, or a key that a server refuses."""

    def __init__(self) -> None:
        """Start with the key of the entry."""
        self._reauth_subentry_id: str | None = None

    async def async_step_reconfigure(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Change the address, the API key or the kind of the server."""
        entry = self._get_reconfigure_entry()
        errors: dict[str, str] = {}
        has_own_field = CONF_LLM_SERVER_IS_OWN in (user_input or entry.data)
        if user_input is not None:
            try:
                form = with_headers(user_input, Role.LLM)
                found = await async_find_server(self.hass, form, entry.data)
            except (InvalidHeaders, ServerNotFound) as err:
                errors = err.errors
            else:
                is_needed = is_declaration_needed(found.server)
                if not is_needed:
                    found.data.pop(CONF_LLM_SERVER_IS_OWN, None)
                if has_own_field or not is_needed:
                    return self._reconfigured(entry, found)
                has_own_field = True
        fields = address_fields(Role.LLM) | server_kind_field()
        if has_own_field:
            fields |= own_server_field(Role.LLM)
        fields |= headers_field(Role.LLM, entry.data)
        values = with_headers_as_text(entry.data, Role.LLM)
        if not values.get(CONF_LLM_SERVER_KIND_CHOSEN):
            values[CONF_LLM_SERVER_KIND] = KIND_AUTOMATIC
        return self.async_show_form(
            step_id="reconfigure",
            data_schema=self.add_suggested_values_to_schema(
                vol.Schema(fields), user_input or with_sections(fields, values)
            ),
            errors=errors,
        )

    def _reconfigured(
        self, entry: ConfigEntry[Any], found: FoundServer
    ) -> ConfigFlowResult:
        """Save what the user changed about the server."""
        if entry_of_server(self.hass, found.data, entry):
            return self.async_abort(reason="already_configured")
        kept = {k: v for k, v in entry.data.items() if k not in ENTRY_KEYS}
        # A title without the host is one that the user gave.
        host = shown_host(entry.data[CONF_LLM_BASE_URL])
        renamed = not entry.title.endswith(f"({host})")
        return self._save_and_abort(
            unique_id=free_unique_id(self.hass, found.data, entry),
            title=entry.title if renamed else found.title,
            data=kept | found.data,
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
            errors = await self._async_key_errors({**config, **new}, role)
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

    async def _async_key_errors(
        self, config: Mapping[str, Any], role: Role
    ) -> dict[str, str]:
        """Return the errors of a configuration with a new key, by field."""
        if role is not Role.LLM:
            return (await async_check_role(self.hass, config, role)).errors
        try:
            await async_find_server(self.hass, config, config)
        except ServerNotFound as err:
            return err.errors
        return {}

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

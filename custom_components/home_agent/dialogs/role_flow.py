"""The dialog that adds or changes a model role; each role is a subentry."""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
import logging
import re
from typing import Any, ClassVar, override

from homeassistant.config_entries import (
    SOURCE_USER,
    ConfigEntryState,
    ConfigSubentryFlow,
    SubentryFlowContext,
    SubentryFlowResult,
)
from homeassistant.const import CONF_NAME
from homeassistant.helpers.translation import async_get_translations
import probatio as vol

from ..const import CONF_SUBENTRY_ID, DOMAIN
from ..model.role import ModelRole, Role, merged_config
from ..servers.address import shown_host
from ..servers.base import ModelServer, ServerModel
from ..servers.detect import server_name
from ..servers.errors import ModelServerError
from ..servers.factory import is_declaration_needed
from .fields import (
    Fields,
    address_fields,
    flattened,
    model_fields,
    new_subentry_values,
    own_server_field,
    unloading_controlled_by,
    values_of_empty_fields,
    with_sections,
)
from .headers import (
    InvalidHeaders,
    headers_field,
    with_headers,
    with_headers_as_text,
)
from .model_steps import ModelSteps
from .ranges import OutOfRange, first_out_of_range
from .role_check import async_check_role, error_field
from .server_address import clean_address
from .trials import is_trial_needed

_LOGGER = logging.getLogger(__name__)


class RoleFlow(
    ModelSteps[SubentryFlowContext, SubentryFlowResult, tuple[str, str]],
    ConfigSubentryFlow,
):
    """Add a model role, or change one."""

    role: ClassVar[Role]

    def __init__(self) -> None:
        """Start without a server."""
        super().__init__()
        self._submitted: dict[str, Any] | None = None
        self._values: dict[str, Any] = {}
        self._address: dict[str, Any] = {}
        self._server: ModelServer
        self._models: list[ServerModel] = []

    @abstractmethod
    def _fields(self, server: ModelServer) -> Fields:
        """Return the fields that only this role has."""

    @property
    def _is_new(self) -> bool:
        """Return whether the dialog adds a role; otherwise it changes one."""
        return self.source == SOURCE_USER

    async def async_step_user(
        self, user_input: dict[str, Any] | None = None
    ) -> SubentryFlowResult:
        """Add a model role."""
        self._values = new_subentry_values(self.role)
        return await self._async_first_step()

    async def async_step_reconfigure(
        self, user_input: dict[str, Any] | None = None
    ) -> SubentryFlowResult:
        """Change a model role; show what takes effect where it stores nothing."""
        self._values = {
            **values_of_empty_fields(self.role),
            **self._get_reconfigure_subentry().data,
        }
        return await self._async_first_step()

    async def _async_first_step(self) -> SubentryFlowResult:
        """Show the first form; abort if the entry has no connected server."""
        if self._get_entry().state is not ConfigEntryState.LOADED:
            return self.async_abort(reason="entry_not_loaded")
        return await self.async_step_server()

    async def async_step_server(
        self, user_input: dict[str, Any] | None = None
    ) -> SubentryFlowResult:
        """Ask for the server of the role; an empty form is the server of the entry."""
        errors: dict[str, str] = {}
        if user_input is not None:
            try:
                self._address = with_headers(user_input, self.role)
            except InvalidHeaders as err:
                errors = err.errors
            else:
                errors = await self._async_find_server()
            if not errors:
                return await self.async_step_settings()
        fields = address_fields(self.role) | headers_field(self.role, self._values)
        return self._form("server", fields, user_input, errors)

    async def async_step_settings(
        self, user_input: dict[str, Any] | None = None
    ) -> SubentryFlowResult:
        """Ask for the model and its settings, check them, and save them."""
        errors: dict[str, str] = {}
        fields = self._settings_fields()
        placeholders = self._server_placeholders()
        if user_input is not None and (wrong := first_out_of_range(fields, user_input)):
            errors = {wrong.section: "out_of_range", wrong.key: "out_of_range"}
            placeholders |= await self._async_range_placeholders(wrong)
        elif user_input is not None:
            self._submitted = user_input
            data = self._address | flattened(user_input)
            check = await async_check_role(self.hass, self._config(data), self.role)
            download = await self._async_use_models(
                self.hass, [check], may_try=self._is_trial_needed(check.config)
            )
            if download:
                return download
            if not check.errors:
                return await self._async_save(data, check.learned)
            # The fields of the server are in the step before.
            errors = {
                field if field not in _address_keys(self.role) else "base": error
                for field, error in check.errors.items()
            }
            placeholders |= check.placeholders
        return self._form("settings", fields, user_input, errors, placeholders)

    @override
    async def _async_submit_again(self) -> SubentryFlowResult:
        """Submit the settings again, after a download."""
        with suppress(ModelServerError):
            self._models = await self._server.list_models()
        return await self.async_step_settings(self._submitted)

    def _is_trial_needed(self, config: Mapping[str, Any]) -> bool:
        """Return whether to try the model: not if only its instructions change."""
        if self._is_new:
            return True
        before = merged_config(self._get_entry(), self._get_reconfigure_subentry())
        return is_trial_needed(self.role, before, config)

    def _config(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flat configuration of the role with the data of the form."""
        config = {**self._get_entry().data, **data}
        if not self._is_new:
            subentry_id = self._get_reconfigure_subentry().subentry_id
            config[CONF_SUBENTRY_ID] = subentry_id
        return config

    def _settings_fields(self) -> Fields:
        """Return the fields of the settings step."""
        fields = model_fields(
            self.role,
            self._models,
            required=True,
            kind=self._server.kind,
            server=self._server,
        )
        if self.role.key("base_url") in self._address and is_declaration_needed(
            self._server
        ):
            fields |= own_server_field(self.role)
        return fields | self._fields(self._server)

    async def _async_range_placeholders(self, wrong: OutOfRange) -> dict[str, str]:
        """Return the label of a number that is out of range, and its limits."""
        category = "config_subentries"
        texts = await async_get_translations(
            self.hass, self.hass.config.language, category, {DOMAIN}
        )
        step = f"component.{DOMAIN}.{category}.{self._subentry_type}.step.settings"
        label = texts.get(f"{step}.sections.{wrong.section}.data.{wrong.key}")
        return {
            "field": label or wrong.key,
            "minimum": f"{wrong.minimum:g}",
            "maximum": f"{wrong.maximum:.0f}",
        }

    def _form(
        self,
        step_id: str,
        fields: Fields,
        user_input: dict[str, Any] | None,
        errors: dict[str, str],
        placeholders: dict[str, str] | None = None,
    ) -> SubentryFlowResult:
        """Show a form with the user's input, or at first with the stored values.

        placeholders are those of the step's description.
        """
        values = user_input
        if values is None:
            values = with_sections(
                fields, with_headers_as_text(self._values, self.role)
            )
        return self.async_show_form(
            step_id=step_id,
            data_schema=self.add_suggested_values_to_schema(vol.Schema(fields), values),
            errors=errors,
            description_placeholders=placeholders,
        )

    def _server_placeholders(self) -> dict[str, str]:
        """Return which server a role uses, and what unloads its models."""
        kind = self._server.kind
        name = server_name(kind, self._server.connection.url)
        return {"server": name, "unloading": unloading_controlled_by(kind, name)}

    async def _async_find_server(self) -> dict[str, str]:
        """Connect to the server of the role, and list its models.

        Return errors by field.
        """
        url_key = self.role.key("base_url")
        if url_key not in self._address:
            # The headers of the entry are sent to its server.
            self._address.pop(self.role.key("proxy_headers"), None)
        elif error := clean_address(self._address, self.role, self._values):
            return {url_key: error}
        # ModelRole needs a model, but the user chooses it in the next step.
        config = {**self._get_entry().data, **self._address, self.role.key("model"): ""}
        try:
            self._server = await ModelRole(self.hass, config, self.role).server()
            self._models = await self._server.list_models()
        except ModelServerError as err:
            name, error = error_field(err)
            return {self.role.key(name): error}
        _LOGGER.debug(
            "The server at %s, used as %s for the role %s, has %d models",
            shown_host(self._server.connection.url),
            self._server.kind,
            self.role,
            len(self._models),
        )
        return {}

    async def _async_save(
        self, data: dict[str, Any], learned: dict[str, Any]
    ) -> SubentryFlowResult:
        """Save data in the subentry.

        What was learned about the server is saved with it: in the entry if the role
        uses the server of the entry, else in the subentry.
        """
        entry = self._get_entry()
        model = data[self.role.key("model")]
        if self.role is Role.LLM or self.role.key("base_url") not in data:
            self.hass.config_entries.async_update_entry(
                entry, data={**entry.data, **learned}
            )
        else:
            data |= learned
        if self._is_new:
            title = data.pop(CONF_NAME, None) or self._default_title(model)
            return self.async_create_entry(title=title, data=data)
        subentry = self._get_reconfigure_subentry()
        title = subentry.title
        before = subentry.data[self.role.key("model")]
        # Another title than the model, maybe with a number, is a name by the user.
        if model != before and re.fullmatch(rf"{re.escape(before)}( \d+)?", title):
            title = self._default_title(model)
        return self.async_update_and_abort(entry, subentry, title=title, data=data)

    def _default_title(self, model: str) -> str:
        """Return the title of a new subentry to which the user gives no name."""
        return model


def _address_keys(role: Role) -> set[str]:
    """Return the configuration keys that have no field in the settings step."""
    return {
        owner.key(name)
        for owner in (role, Role.LLM)
        for name in ("base_url", "api_key")
    }

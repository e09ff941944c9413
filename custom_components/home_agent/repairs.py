"""Fix flows of the repair issues."""

from abc import abstractmethod
import asyncio
import logging
from typing import Any, Final, override

from homeassistant.components.repairs import RepairsFlow, RepairsFlowResult
from homeassistant.config_entries import ConfigEntryState, ConfigSubentry
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
import probatio as vol

from .const import DOMAIN
from .dialogs.fields import keep_alive_select, num_ctx_number
from .dialogs.voice_assistants import (
    ISSUE as VOICE_ASSISTANT,
    async_switch_voice_assistants,
)
from .keep_alive import InvalidKeepAlive, KeepAlive
from .model.role import ModelRole, Role, merged_config, subentry_role
from .residency.checks.model_missing import check_model_missing
from .residency.loader import ModelLoader
from .runtime import HomeAgentConfigEntry
from .servers.errors import ModelServerError

_LOGGER = logging.getLogger(__name__)

_KEEP_ALIVE: Final = "keep_alive"
_NUM_CTX: Final = "num_ctx"

type IssueData = dict[str, str | int | float | None]


async def async_create_fix_flow(
    hass: HomeAssistant, issue_id: str, data: IssueData | None
) -> RepairsFlow:
    """Return the flow that fixes an issue."""
    issue = data or {}
    if issue.get("pull"):
        return PullFlow(issue)
    if issue.get(VOICE_ASSISTANT):
        return VoiceAssistantFlow(issue)
    return ConfirmFlow(issue) if issue.get("is_notice") else SettingFlow(issue)


class IssueFlow(RepairsFlow):
    """A flow that fixes one issue in one or more steps."""

    def __init__(self, issue: IssueData) -> None:
        """Fix the issue that was reported with this data."""
        self._issue = issue

    @property
    def _entry(self) -> HomeAgentConfigEntry | None:
        """Return the entry that the issue belongs to, None if it was removed."""
        return self.hass.config_entries.async_get_entry(str(self._issue["entry_id"]))

    async def async_step_init(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """Continue with the confirmation."""
        return await self.async_step_confirm()

    @abstractmethod
    async def async_step_confirm(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """Show what the flow will do, and do it after the confirmation."""

    def _placeholders(self) -> dict[str, str]:
        """Return the placeholders with which the issue was reported."""
        registry = ir.async_get(self.hass)
        issue = registry.async_get_issue(self.handler, self.issue_id)
        return dict(issue.translation_placeholders or {}) if issue else {}


class ConfirmFlow(IssueFlow):
    """Shows a text. Submitting it closes the issue."""

    @override
    async def async_step_confirm(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """Show the text; when it is submitted, apply the fix and close the issue."""
        if user_input is None:
            return self.async_show_form(
                step_id="confirm",
                data_schema=vol.Schema({}),
                description_placeholders=self._placeholders(),
            )
        await self._async_fix()
        return self.async_create_entry(data={})

    async def _async_fix(self) -> None:
        """Do nothing; a subclass applies its fix here."""


class VoiceAssistantFlow(ConfirmFlow):
    """Assigns the current agent to voice assistants that use the version 1 agent."""

    @override
    async def _async_fix(self) -> None:
        """Change the voice assistants."""
        if (entry := self._entry) is not None:
            await async_switch_voice_assistants(self.hass, entry)


class PullFlow(IssueFlow):
    """Lets the server download a model that it does not have."""

    _pulling: asyncio.Task[None] | None = None
    # Waits for _pulling: Home Assistant cancels it when the user closes the dialog.
    _waiting: asyncio.Task[Any] | None = None
    # Stays False if the download ends without a result: a reload cancels its task, or
    # it raises an unexpected error.
    _has_result = False
    # The error of the server, None if the model was downloaded.
    _failure: str | None = None

    @override
    async def async_step_confirm(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """Show which model the server will download."""
        if user_input is not None:
            return await self.async_step_pull()
        return self.async_show_form(
            step_id="confirm",
            data_schema=vol.Schema({}),
            description_placeholders=self._placeholders(),
        )

    async def async_step_pull(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """Show the progress of the download."""
        if self._pulling is None:
            entry = self._entry
            if entry is None or entry.state is not ConfigEntryState.LOADED:
                return self.async_abort(reason="entry_not_loaded")
            loader = entry.runtime_data.loaders.get(str(self._issue["subentry_id"]))
            if loader is None:
                return self.async_abort(reason="entry_not_loaded")
            # A task of the entry goes on when the user closes the dialog.
            self._pulling = entry.async_create_background_task(
                self.hass, self._async_pull(loader), "pull a model"
            )
            self._waiting = self.hass.async_create_background_task(
                asyncio.wait({self._pulling}), "wait for a model"
            )
        if self._waiting is not None and not self._pulling.done():
            return self.async_show_progress(
                step_id="pull",
                progress_action="pull",
                progress_task=self._waiting,
                description_placeholders=self._placeholders(),
            )
        return self.async_show_progress_done(next_step_id="pulled")

    async def async_step_pulled(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """End the flow, or show why the download failed."""
        if not self._has_result:
            return self.async_abort(
                reason="pull_interrupted",
                description_placeholders=self._placeholders(),
            )
        if self._failure is not None:
            return self.async_abort(
                reason="pull_failed",
                description_placeholders={
                    **self._placeholders(),
                    "error": self._failure,
                },
            )
        return self.async_create_entry(data={})

    async def _async_pull(self, loader: ModelLoader) -> None:
        """Download the model, then reload the entry.

        The reload loads the model if Keep ready is on. Store the error of the server if
        the download fails. It goes on after the user has closed the dialog.
        """
        residency = loader.residency
        try:
            async for fraction in loader.async_pull():
                self.async_update_progress(fraction)
        except ModelServerError as err:
            self._failure = err.detail
            self._has_result = True
            _LOGGER.warning(
                "Cannot download %s: %s", residency.role.model, err.log_text
            )
            return
        self._has_result = True
        check_model_missing(residency, None)
        self.hass.config_entries.async_schedule_reload(residency.entry.entry_id)


class SettingFlow(IssueFlow):
    """Suggests a keep_alive or context size and stores it, or removes a keep_alive."""

    @override
    async def async_step_confirm(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """Show the suggested setting, and store it after the confirmation."""
        errors: dict[str, str] = {}
        if user_input is not None:
            if value := user_input.get(_KEEP_ALIVE):
                try:
                    KeepAlive.parse(value.strip())
                except InvalidKeepAlive:
                    errors[_KEEP_ALIVE] = "invalid_keep_alive"
            if not errors:
                self._store(user_input)
                return self.async_create_entry(data={})
        fields: dict[vol.Marker, Any] = {}
        if (suggestion := self._issue.get(_KEEP_ALIVE)) is not None:
            fields[vol.Required(_KEEP_ALIVE, default=suggestion)] = keep_alive_select()
        if (num_ctx := self._issue.get(_NUM_CTX)) is not None:
            fields[vol.Required(_NUM_CTX, default=num_ctx)] = num_ctx_number()
        return self.async_show_form(
            step_id="confirm",
            data_schema=vol.Schema(fields),
            errors=errors,
            description_placeholders=self._placeholders(),
        )

    def _store(self, values: dict[str, Any]) -> None:
        """Store values in each subentry that the issue belongs to.

        A keep_alive is removed if values has none.
        """
        if (own_entry := self._entry) is None:
            return
        for entry, subentry in self._subentries(own_entry):
            role = subentry_role(subentry)
            data = dict(subentry.data)
            if _KEEP_ALIVE in self._issue:
                data.pop(role.key(_KEEP_ALIVE), None)
            data |= {
                role.key(key): int(value) if key == _NUM_CTX else value.strip()
                for key, value in values.items()
            }
            self.hass.config_entries.async_update_subentry(entry, subentry, data=data)

    def _subentries(
        self, own_entry: HomeAgentConfigEntry
    ) -> list[tuple[HomeAgentConfigEntry, ConfigSubentry]]:
        """Return the subentries in which to store the setting, with their entries.

        other_id is a second subentry that gets the same keep_alive (pushed_out).

        A context size is stored for all chat roles that use the model, in all entries:
        if the sizes differed, the server would reload the model for each role.
        """
        keys = [self._issue.get("subentry_id"), self._issue.get("other_id")]
        found = [
            (own_entry, own_entry.subentries[str(key)])
            for key in keys
            if key in own_entry.subentries
        ]
        if _NUM_CTX not in self._issue or not found:
            return found
        use = self._role(*found[0]).use
        return [
            (entry, subentry)
            for entry in self.hass.config_entries.async_entries(DOMAIN)
            for subentry in entry.subentries.values()
            if subentry_role(subentry) is not Role.EMBEDDING
            and self._role(entry, subentry).use is use
        ]

    def _role(self, entry: HomeAgentConfigEntry, subentry: ConfigSubentry) -> ModelRole:
        """Return the model role of a subentry, also if its entry is not loaded."""
        config = merged_config(entry, subentry)
        return ModelRole(self.hass, config, subentry_role(subentry))

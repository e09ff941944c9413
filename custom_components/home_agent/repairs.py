"""Fix flows of the repair issues."""

from abc import abstractmethod
import asyncio
from typing import Any, Final, override

from homeassistant.components.repairs import RepairsFlow, RepairsFlowResult
from homeassistant.config_entries import ConfigEntryState, ConfigSubentry
from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
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
from .residency.pull import ModelPull, async_pull_model
from .runtime import HomeAgentConfigEntry

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

    _pull: ModelPull | None = None
    # Waits for the download: Home Assistant cancels it when the user closes the dialog.
    _waiting: asyncio.Task[Any] | None = None
    _stop_listening: CALLBACK_TYPE | None = None

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
        if self._pull is None:
            entry = self._entry
            if entry is None or entry.state is not ConfigEntryState.LOADED:
                return self.async_abort(reason="entry_not_loaded")
            loader = entry.runtime_data.loaders.get(str(self._issue["subentry_id"]))
            if loader is None:
                return self.async_abort(reason="entry_not_loaded")
            self._pull = async_pull_model(self.hass, loader)
            self._stop_listening = self._pull.progressed.add(self.async_update_progress)
            self._waiting = self.hass.async_create_background_task(
                asyncio.wait({self._pull.task}), "wait for a model"
            )
        if self._waiting is not None and not self._pull.task.done():
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
        if self._pull is None or not self._pull.has_result:
            return self.async_abort(
                reason="pull_interrupted",
                description_placeholders=self._placeholders(),
            )
        if self._pull.failure is not None:
            return self.async_abort(
                reason="pull_failed",
                description_placeholders={
                    **self._placeholders(),
                    "error": self._pull.failure,
                },
            )
        return self.async_create_entry(data={})

    @override
    @callback
    def async_remove(self) -> None:
        """Show no more progress in a dialog that is closed; the download goes on."""
        if self._stop_listening is not None:
            self._stop_listening()


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

        other_ids are those of more subentries that get the same keep_alive, separated
        by commas (pushed_out).

        A context size is stored for all chat roles that use the model, in all entries:
        if the sizes differed, the server would reload the model for each role.
        """
        others = str(self._issue.get("other_ids") or "").split(",")
        found = [
            (own_entry, own_entry.subentries[key])
            for key in (str(self._issue.get("subentry_id")), *others)
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

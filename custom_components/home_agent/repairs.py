"""Fix what a repair reports, in a click."""

from typing import Any, Final

from homeassistant.components.repairs import RepairsFlow, RepairsFlowResult
from homeassistant.config_entries import ConfigSubentry
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
import probatio as vol

from .data import HomeAgentConfigEntry, subentry_role
from .forms import keep_alive_select, num_ctx_number
from .keep_alive import InvalidKeepAlive, KeepAlive
from .role import Role

_KEEP_ALIVE: Final = "keep_alive"
_NUM_CTX: Final = "num_ctx"

type IssueData = dict[str, str | int | float | None]


async def async_create_fix_flow(
    hass: HomeAssistant, issue_id: str, data: IssueData | None
) -> RepairsFlow:
    """Return the flow that fixes an issue."""
    return SettingFlow(data or {})


class SettingFlow(RepairsFlow):
    """Shows the setting that would help, and stores it."""

    def __init__(self, issue: IssueData) -> None:
        """Fix an issue with what was reported with it."""
        self._issue = issue

    async def async_step_init(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """Go to the one step."""
        return await self.async_step_confirm()

    async def async_step_confirm(
        self, user_input: dict[str, Any] | None = None
    ) -> RepairsFlowResult:
        """Show what will be stored, and store it when that is confirmed."""
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

    def _placeholders(self) -> dict[str, str]:
        """Return the placeholders of the issue's own text."""
        registry = ir.async_get(self.hass)
        issue = registry.async_get_issue(self.handler, self.issue_id)
        return dict(issue.translation_placeholders or {}) if issue else {}

    def _store(self, values: dict[str, Any]) -> None:
        """Store the setting with each subentry that the issue is about.

        Without a value of its own a keep_alive is taken out.
        """
        entry: HomeAgentConfigEntry | None
        entry = self.hass.config_entries.async_get_entry(str(self._issue["entry_id"]))
        if entry is None:
            return
        for subentry in self._subentries(entry):
            role = subentry_role(subentry)
            data = dict(subentry.data)
            if _KEEP_ALIVE in self._issue:
                data.pop(role.key(_KEEP_ALIVE), None)
            data |= {
                role.key(key): int(value) if key == _NUM_CTX else value.strip()
                for key, value in values.items()
            }
            self.hass.config_entries.async_update_subentry(entry, subentry, data=data)

    def _subentries(self, entry: HomeAgentConfigEntry) -> list[ConfigSubentry]:
        """Return the subentries that a setting belongs to.

        A context size is that of all chat roles with the model, or the next one
        would reload it.
        """
        keys = [self._issue.get("subentry_id"), self._issue.get("other_id")]
        found = [entry.subentries[str(key)] for key in keys if key in entry.subentries]
        if _NUM_CTX not in self._issue or not found:
            return found
        residencies = entry.runtime_data.residencies
        use = residencies[found[0].subentry_id].use
        return [
            residency.subentry
            for residency in residencies.values()
            if residency.use is use and residency.kind is not Role.EMBEDDING
        ]

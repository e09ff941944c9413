"""The one place that raises and clears the repair issues of a model role."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from homeassistant.config_entries import (
    SIGNAL_CONFIG_ENTRY_CHANGED,
    ConfigEntry,
    ConfigEntryChange,
)
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.dispatcher import async_dispatcher_connect
from homeassistant.helpers.event import async_track_time_interval
from homeassistant.helpers.start import async_at_started

from ...const import DOMAIN
from ...servers.model_names import shown_model
from ..state import ModelResidency

DOCS: Final = "https://github.com/home-agent/home-agent/blob/main/docs/MODEL_MEMORY.md"
# They rest on what happened in the past; the others are seen again at once
# after a restart, if they are still there.
_PERSISTENT: Final = {"cadence", "models_do_not_fit", "pushed_out"}

_HOUR: Final = timedelta(hours=1)


def issue_id(name: str, residency: ModelResidency) -> str:
    """Return the id of an issue of a role."""
    return f"{name}_{residency.subentry.subentry_id}"


@callback
def raise_issue(
    name: str,
    residency: ModelResidency,
    *,
    fix: dict[str, Any] | None = None,
    severity: ir.IssueSeverity = ir.IssueSeverity.WARNING,
    **placeholders: str,
) -> None:
    """Raise an issue of a role, or update it.

    fix is the data of its fix flow (repairs.py), None for an issue that the user must
    fix by hand. placeholders are those of its text, except title, model and host.
    """
    subentry = residency.subentry
    ir.async_create_issue(
        residency.hass,
        DOMAIN,
        issue_id(name, residency),
        data={
            "entry_id": residency.entry.entry_id,
            "subentry_id": subentry.subentry_id,
            **(fix or {}),
        },
        is_fixable=fix is not None,
        is_persistent=name in _PERSISTENT,
        severity=severity,
        learn_more_url=DOCS,
        # The text says how to fix it.
        translation_key=name if fix else f"{name}_by_hand",
        translation_placeholders={
            "title": shown_model(subentry.title),
            "model": shown_model(residency.role.model),
            "host": residency.coordinator.host,
            **placeholders,
        },
    )


@callback
def clear_issue(name: str, residency: ModelResidency) -> None:
    """Clear an issue of a role, if it is there."""
    ir.async_delete_issue(residency.hass, DOMAIN, issue_id(name, residency))


@callback
def is_raised(name: str, residency: ModelResidency) -> bool:
    """Return whether an issue of a role is there."""
    registry = ir.async_get(residency.hass)
    issue = registry.async_get_issue(DOMAIN, issue_id(name, residency))
    return issue is not None and issue.active


@callback
def check_hourly(residency: ModelResidency, check: Callable[[], None]) -> None:
    """Call a check of a role each hour until its entry is unloaded.

    What an issue says of the last day becomes untrue while nothing happens.
    """

    @callback
    def check_now(_: datetime) -> None:
        check()

    residency.entry.async_on_unload(
        async_track_time_interval(residency.hass, check_now, _HOUR)
    )


@callback
def check_with_users(residency: ModelResidency, check: Callable[[], None]) -> None:
    """Call a check when a role that uses the model is added or removed.

    Not before Home Assistant has started: until then, some roles are not set up yet.
    Then once for all of them. It ends when the entry is unloaded.
    """

    @callback
    def users_changed() -> None:
        if residency.hass.is_running:
            check()

    @callback
    def started(_: HomeAssistant) -> None:
        check()

    for stop in (
        residency.use.users_changed.add(users_changed),
        async_at_started(residency.hass, started),
    ):
        residency.entry.async_on_unload(stop)


@callback
def clear_issues_of_removed(
    hass: HomeAssistant, entry: ConfigEntry[Any], *, is_removed: bool = False
) -> None:
    """Clear the issues of removed subentries, and of the entry if it is removed."""
    for issue in list(ir.async_get(hass).issues.values()):
        data = issue.data or {}
        if (
            issue.domain == DOMAIN
            and data.get("entry_id") == entry.entry_id
            and (is_removed or data.get("subentry_id") not in entry.subentries)
        ):
            ir.async_delete_issue(hass, DOMAIN, issue.issue_id)


@callback
def async_clear_issues_of_disabled(hass: HomeAssistant) -> None:
    """Clear the issues of each entry that the user disables from now on.

    The checks raise those that are still true when the entry is set up again.
    """

    @callback
    def entry_changed(_: ConfigEntryChange, entry: ConfigEntry[Any]) -> None:
        if entry.domain == DOMAIN and entry.disabled_by is not None:
            clear_issues_of_removed(hass, entry, is_removed=True)

    async_dispatcher_connect(hass, SIGNAL_CONFIG_ENTRY_CHANGED, entry_changed)

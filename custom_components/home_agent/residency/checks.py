"""What is wrong with the residency of models, as repairs.

Each check raises its issue or clears it; all of them look at what has really
happened, not at what might.
"""

from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.dispatcher import async_dispatcher_connect
from homeassistant.util import dt as dt_util

from ..const import DEFAULT_NUM_CTX, DOMAIN
from ..model.role import Role
from ..model.use import SIGNAL_PROMPT, SIGNAL_TURN, TurnFigures
from ..prompt.context_size import ROOM_FOR_AN_ANSWER, prompt_room
from ..servers.address import server_id
from ..servers.base import ServerCapability, ServerKind
from ..servers.errors import ModelNotFound
from ..servers.factory import takes_keep_alive
from ..vector_db_manager import VectorDBManager
from .state import ModelResidency, ResidencyEvent

DOCS: Final = "https://github.com/home-agent/home-agent/blob/main/docs/MODEL_MEMORY.md"
DAY: Final = timedelta(days=1)
# How often in a day models must push each other out before it is told.
PUSHED_OUT_OFTEN: Final = 2
# How often in a row another keep_alive must hold than the one that was sent.
MISSED_OFTEN: Final = 3
# Failures of indexing in a row: with the pauses between them a quarter of an hour.
STUCK_AFTER: Final = 5


@callback
def report(
    hass: HomeAssistant,
    name: str,
    residency: ModelResidency,
    *,
    fix: dict[str, Any] | None = None,
    severity: ir.IssueSeverity = ir.IssueSeverity.WARNING,
    **placeholders: str,
) -> None:
    """Report an issue of a role; fix is what its fix flow needs to know."""
    subentry = residency.subentry
    ir.async_create_issue(
        hass,
        DOMAIN,
        issue_id(name, residency),
        data={
            "entry_id": residency.entry_id,
            "subentry_id": subentry.subentry_id,
            **(fix or {}),
        },
        is_fixable=fix is not None,
        # What was seen would have to be seen again after each restart.
        is_persistent=name in _PERSISTENT,
        severity=severity,
        learn_more_url=DOCS,
        # A text for each way to fix it.
        translation_key=name if fix else f"{name}_by_hand",
        translation_placeholders={
            "title": subentry.title,
            "model": residency.role.model,
            "host": residency.coordinator.host,
            **placeholders,
        },
    )


_PERSISTENT: Final = {"cadence", "pushed_out"}


def issue_id(name: str, residency: ModelResidency) -> str:
    """Return the id of an issue of a role."""
    return f"{name}_{residency.subentry.subentry_id}"


@callback
def clear(hass: HomeAssistant, name: str, residency: ModelResidency) -> None:
    """Take an issue back."""
    ir.async_delete_issue(hass, DOMAIN, issue_id(name, residency))


@callback
def model_missing(
    hass: HomeAssistant, residency: ModelResidency, err: ModelNotFound | None
) -> None:
    """Report that a server does not have a model, or that it has."""
    if err is None:
        clear(hass, "model_missing", residency)
    else:
        report(
            hass,
            "model_missing",
            residency,
            fix={"pull": True}
            if ServerCapability.PULL in residency.capabilities
            else None,
            severity=ir.IssueSeverity.ERROR,
        )


@callback
def forget_gone(
    hass: HomeAssistant, entry: ConfigEntry[Any], *, is_removed: bool = False
) -> None:
    """Clear the issues of an entry's roles that are there no more."""
    for issue in list(ir.async_get(hass).issues.values()):
        data = issue.data or {}
        if (
            issue.domain == DOMAIN
            and data.get("entry_id") == entry.entry_id
            and (is_removed or data.get("subentry_id") not in entry.subentries)
        ):
            ir.async_delete_issue(hass, DOMAIN, issue.issue_id)


@callback
def check_index(
    hass: HomeAssistant,
    entry: ConfigEntry[Any],
    residency: ModelResidency,
    manager: VectorDBManager,
) -> None:
    """Report an index that cannot be finished, until it is."""

    @callback
    def progressed() -> None:
        progress = manager.progress
        if not progress.failures:
            clear(hass, "index_stuck", residency)
        elif progress.failures >= STUCK_AFTER:
            report(
                hass,
                "index_stuck",
                residency,
                indexed=str(progress.indexed),
                total=str(progress.total),
                error=progress.error,
            )

    entry.async_on_unload(manager.progressed.add(progressed))


class ResidencyChecks:
    """Watches one role's model for all that can be wrong with its residency."""

    def __init__(
        self,
        hass: HomeAssistant,
        entry: ConfigEntry[Any],
        residency: ModelResidency,
    ) -> None:
        """Watch a residency until its entry is unloaded."""
        self._hass = hass
        self._residency = residency
        self._missed = 0
        self._looked_at: datetime | None = None
        self._pushed_out: deque[tuple[datetime, str]] = deque(maxlen=20)
        # The tokens that the last prompt read ahead has, and the longest of a turn.
        self._prompt_tokens = {False: 0, True: 0}
        key = residency.subentry.subentry_id
        for end in (
            async_dispatcher_connect(hass, SIGNAL_TURN.format(key), self._turn_ended),
            async_dispatcher_connect(hass, SIGNAL_PROMPT.format(key), self._prompt),
            residency.happened.add(self._happened),
            residency.coordinator.async_add_listener(self._server_asked),
        ):
            entry.async_on_unload(end)
        self._check_setting()
        self._check_cadence()
        self._check_num_ctx(entry)

    @callback
    def _turn_ended(self, figures: TurnFigures) -> None:
        """Look at what a turn adds to the history."""
        self._check_cadence()

    @callback
    def _check_cadence(self) -> None:
        """Report a keep_alive that is shorter than the cadence of the uses."""
        residency, history = self._residency, self._residency.use.history
        suggestion = None
        if ServerCapability.KEEP_ALIVE in residency.capabilities:
            suggestion = history.suggestion(residency.keep_alive)
        if suggestion is None or (cadence := history.cadence) is None:
            clear(self._hass, "cadence", residency)
            return
        since = dt_util.utcnow() - DAY
        report(
            self._hass,
            "cadence",
            residency,
            fix={"keep_alive": suggestion},
            keep_alive=residency.keep_alive.text,
            suggestion=suggestion,
            minutes=f"{cadence / 60:.0f}",
            cold_starts=str(history.cold_starts(residency.keep_alive, since)),
            seconds=f"{history.load_seconds or 0:.0f}",
        )

    @callback
    def _check_setting(self) -> None:
        """Report a keep_alive that is set for a server that does not honor it."""
        residency = self._residency
        connection = residency.coordinator.connection
        is_set = residency.kind.key("keep_alive") in residency.subentry.data
        has_effect = connection.kind is None or (
            takes_keep_alive(connection.kind) and not connection.keep_alive_refused
        )
        if has_effect or not is_set:
            clear(self._hass, "no_effect", residency)
        else:
            report(
                self._hass,
                "no_effect",
                residency,
                fix={"keep_alive": None},
                keep_alive=residency.keep_alive.text,
            )

    @callback
    def _server_asked(self) -> None:
        """Compare what holds after a turn of this role with what was sent."""
        residency, use = self._residency, self._residency.use
        model = residency.loaded
        seconds = residency.keep_alive.seconds
        if (
            residency.coordinator.connection.kind is not ServerKind.OLLAMA
            or use.last_owner != residency.subentry.subentry_id
            or use.last_ended is None
            or use.last_ended == self._looked_at
            or use.running
            or model is None
            or model.is_busy
            or seconds == 0
        ):
            return
        self._looked_at = use.last_ended
        if seconds is None:
            holds = model.is_indefinite
        else:
            wanted = use.last_ended + timedelta(seconds=seconds)
            slack = timedelta(seconds=max(10.0, seconds / 10))
            holds = model.expires_at is not None and (
                abs(model.expires_at - wanted) < slack
            )
        self._missed = 0 if holds else self._missed + 1
        if holds:
            clear(self._hass, "not_held", residency)
        elif self._missed >= MISSED_OFTEN:
            report(
                self._hass,
                "not_held",
                residency,
                keep_alive=residency.keep_alive.text,
                held="-1"
                if model.is_indefinite
                else f"{_minutes(model.expires_at)} min",
            )

    @callback
    def _happened(self, event: ResidencyEvent) -> None:
        """Count how often another model pushes this one out."""
        if event is not ResidencyEvent.EVICTED:
            return
        now = dt_util.utcnow()
        self._pushed_out.extend(
            (now, name) for name in self._residency.coordinator.came
        )
        recent = [name for time, name in self._pushed_out if now - time < DAY]
        if len(recent) < PUSHED_OUT_OFTEN:
            return
        residency = self._residency
        others = [other for other in residency.others if other.role.model in recent]
        fix = None
        if residency.coordinator.connection.kind is ServerKind.LM_STUDIO and others:
            # Auto-Evict spares what was loaded explicitly.
            fix = {
                "keep_alive": "-1",
                "other_id": others[0].subentry.subentry_id,
            }
        report(
            self._hass,
            "pushed_out",
            residency,
            fix=fix,
            others=", ".join(sorted(set(recent))),
            times=str(len(recent)),
        )

    @callback
    def _check_num_ctx(self, entry: ConfigEntry[Any]) -> None:
        """Report that users of one model want different context sizes."""
        residency = self._residency
        if (
            residency.kind is Role.EMBEDDING
            or residency.coordinator.connection.kind is not ServerKind.OLLAMA
        ):
            return
        own = residency.role.num_ctx
        ours = dict(self._our_sizes(entry))
        theirs = dict(self._core_sizes())
        # Only our own settings can be changed here; of those the largest stays.
        wanted = max(theirs.values() or (own, *ours.values()))
        others = {name: size for name, size in (ours | theirs).items() if size != own}
        if wanted == own:
            clear(self._hass, "num_ctx", residency)
            return
        report(
            self._hass,
            "num_ctx",
            residency,
            fix={"num_ctx": wanted},
            num_ctx=str(own),
            others=", ".join(f"{name}: {size}" for name, size in others.items()),
        )

    def _our_sizes(self, entry: ConfigEntry[Any]) -> Iterable[tuple[str, int]]:
        """Yield our other users of the model, and the context size they want."""
        residency = self._residency
        for other in entry.runtime_data.residencies.values():
            if (
                other.use is residency.use
                and other is not residency
                and other.kind is not Role.EMBEDDING
            ):
                yield other.subentry.title, other.role.num_ctx

    def _core_sizes(self) -> Iterable[tuple[str, int]]:
        """Yield the users of the model in Home Assistant's Ollama integration."""
        root = server_id(self._residency.coordinator.connection.url)
        for entry in self._hass.config_entries.async_entries("ollama"):
            if server_id(str(entry.data.get("url", ""))) != root:
                continue
            for subentry in entry.subentries.values():
                if subentry.data.get("model") == self._residency.role.model:
                    size = int(subentry.data.get("num_ctx", DEFAULT_NUM_CTX))
                    yield f"Ollama, {subentry.title}", size

    @callback
    def _prompt(self, tokens: int, of_turn: bool) -> None:
        """Report a prompt that does not fit, before it is sent.

        A turn that had to be shortened is told once: it is not taken back by the
        next one that fits, but when the settings change.
        """
        residency = self._residency
        longest = self._prompt_tokens
        longest[of_turn] = max(tokens, longest[of_turn]) if of_turn else tokens
        tokens = max(longest.values())
        limit = residency.role.context_size(residency.coordinator.connection.kind)
        if limit is None or tokens <= prompt_room(limit):
            clear(self._hass, "prompt_too_long", residency)
            return
        fix = None
        if residency.coordinator.connection.kind is ServerKind.OLLAMA:
            needed = tokens + 4 * ROOM_FOR_AN_ANSWER
            fix = {"num_ctx": 1 << (needed - 1).bit_length()}
        report(
            self._hass,
            "prompt_too_long",
            residency,
            fix=fix,
            tokens=str(tokens),
            limit=str(limit),
        )


def _minutes(expires_at: datetime | None) -> int:
    """Return the minutes until a model leaves."""
    if expires_at is None:
        return 0
    return round((expires_at - dt_util.utcnow()).total_seconds() / 60)

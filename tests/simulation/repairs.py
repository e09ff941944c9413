"""Whether the repairs that are shown are those that are true."""

from homeassistant.helpers import issue_registry as ir

from custom_components.home_agent.const import DOMAIN

from .oracle import LATENCY, Key, Oracle, Truth
from .world import ROLES, World

# How many cold starts become older than a day until the figure is made again.
_HOURLY = 4


class RepairCheck:
    """Compares the repairs with an oracle.

    faults are repairs that are not true, or missing, for longer than it may take.
    """

    def __init__(self, world: World, oracle: Oracle) -> None:
        """Compare from now on."""
        self._world = world
        self._oracle = oracle
        self._wrong_since: dict[Key, float] = {}
        self._reported: set[Key] = set()
        self._shown: frozenset[Key] = frozenset()
        self.changes: list[str] = []
        self.faults: list[str] = []

    def observe(self) -> None:
        """Compare what is shown now."""
        issues = {
            _key(issue_id): dict(issue.translation_placeholders or {})
            for (domain, issue_id), issue in ir.async_get(
                self._world.hass
            ).issues.items()
            if domain == DOMAIN and issue.active
        }
        for key in self._shown.symmetric_difference(issues):
            verb = "raised" if key in issues else "cleared"
            self._note(self.changes, f"{verb} {key[0]} of {key[1]} {issues.get(key)}")
        self._shown = frozenset(issues)
        truths = dict(self._oracle.truths())
        shown_unfit = {key for key in issues if key[0] == "models_do_not_fit"}
        truths["models_do_not_fit", "any"] = self._oracle.fits()
        for key in {*truths, *issues} - shown_unfit:
            is_shown = key in issues
            if key[0] == "models_do_not_fit":
                is_shown = bool(shown_unfit)
            self._judge(key, is_shown, truths.get(key, Truth(may=False, must=False)))
        for role in ROLES:
            placeholders = issues.get(("cadence", role), {})
            least = self._oracle.cold_starts(role)
            most = self._oracle.cold_starts(role, due=False)
            said = int(placeholders.get("cold_starts", least))
            self._judge(
                ("cadence", f"{role}, figure"),
                is_shown=True,
                truth=Truth(least - _HOURLY <= said <= most + _HOURLY, must=False),
                detail=f"{said} cold starts, really {least} to {most}",
            )

    def _judge(self, key: Key, is_shown: bool, truth: Truth, detail: str = "") -> None:
        """Note a repair that is wrong for too long; an outage stops the clock."""
        is_right = truth.may if is_shown else not truth.must
        now = self._world.now
        if is_right:
            self._wrong_since.pop(key, None)
            self._reported.discard(key)
            return
        since = self._wrong_since.setdefault(key, now)
        if not self._world.is_up and not is_shown:
            self._wrong_since[key] = now
            return
        appears, goes = LATENCY.get(key[0], (0, 0))
        if now - since > (goes if is_shown else appears) and key not in self._reported:
            self._reported.add(key)
            verb = "is not true" if is_shown else "is missing"
            self._note(self.faults, f"{key[0]} of {key[1]} {verb} {detail}")

    def _note(self, notes: list[str], text: str) -> None:
        """Note something with the day and hour."""
        hours = (self._world.now - self._world.started_at) / 3600
        notes.append(f"day {int(hours // 24)}, {hours % 24:.3f} h: {text}")


def _key(issue_id: str) -> Key:
    """Return the name and role of an issue's id."""
    for role in ROLES:
        if issue_id.endswith(f"_{role}"):
            return issue_id.removesuffix(f"_{role}"), role
    return issue_id, ""

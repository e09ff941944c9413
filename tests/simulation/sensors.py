"""Whether the sensors show what the server reports, and for how long they do not."""

from datetime import timedelta

from homeassistant.const import STATE_UNAVAILABLE, STATE_UNKNOWN
from homeassistant.util import dt as dt_util
import pytest

from .world import ROLES, World

# The Date header of an answer has whole seconds.
_TOLERANCE = timedelta(seconds=2)
# A poll follows half a second after a request.
_ENTITIES_FOLLOW = 1.0


class SensorCheck:
    """Compares all sensors with the last poll, and with the memory itself.

    longest is for how many seconds the sensors differed from the memory at most:
    nobody sees before the next poll what another client has done.
    """

    def __init__(self, world: World) -> None:
        """Compare from now on."""
        self._world = world
        self._seen = 0
        self._requests = 0
        self._wrong_since: dict[str, float] = {}
        self._last_fault = ("", "")
        self.compared = 0
        self.faults: list[str] = []
        self.longest = 0.0

    def observe(self) -> None:
        """Compare what is shown now."""
        world = self._world
        polls = world.server.memory.record.polls
        # A request is being answered meanwhile, or was a moment ago.
        if len(world.server.requests) > self._requests:
            new = world.server.requests[self._requests :]
            self._requests = len(world.server.requests)
            if any(request.method == "POST" for request in new):
                for role in ROLES:
                    self._lasts(f"{role}, poll", is_wrong=False)
        has_polled, self._seen = len(polls) > self._seen, len(polls)
        for role, (model, _) in ROLES.items():
            fault = None
            if polls and world.is_up:
                self.compared += has_polled
                fault = self._differs(role, polls[-1][1].get(model))
            if (
                self._lasts(f"{role}, poll", is_wrong=fault is not None)
                > _ENTITIES_FOLLOW
            ):
                self._note(role, str(fault))
            is_shown = world.state(role, "residency") == "loaded"
            is_held = world.is_up and world.server.loaded(model) is not None
            lasts = self._lasts(f"{role}, memory", is_wrong=is_shown != is_held)
            self.longest = max(self.longest, lasts)

    def _lasts(self, what: str, *, is_wrong: bool) -> float:
        """Return for how many seconds something has been wrong."""
        if not is_wrong:
            self._wrong_since.pop(what, None)
            return 0.0
        return self._world.now - self._wrong_since.setdefault(what, self._world.now)

    def _note(self, role: str, fault: str) -> None:
        """Note a fault once."""
        if (role, fault) != self._last_fault:
            self._last_fault = role, fault
            hours = (self._world.now - self._world.started_at) / 3600
            self.faults.append(f"{hours:.4f} h, {role}: {fault}")

    def _differs(self, role: str, reported: dict[str, object] | None) -> str | None:
        """Return what differs from the answer of a poll, None if nothing does."""
        shown = {
            key: self._world.state(role, key)
            for key in ("residency", "loaded_until", "memory", "context_length")
        }
        if STATE_UNAVAILABLE in shown.values():
            return f"{shown}, although a poll was answered"
        if reported is None:
            is_right = shown == {
                "residency": "unloaded",
                "loaded_until": STATE_UNKNOWN,
                "memory": "0.0",
                "context_length": STATE_UNKNOWN,
            }
            return None if is_right else f"{shown}, but it is not loaded"
        expires = str(reported["expires_at"])
        if int(expires[:4]) > 2200:
            is_right = shown["loaded_until"] == "never"
        else:
            until = dt_util.parse_datetime(shown["loaded_until"])
            real = dt_util.parse_datetime(expires)
            assert real
            real = self._world.datetime_of(real.timestamp())
            is_right = until is not None and abs(until - real) < _TOLERANCE
        size, context = reported["size_vram"], reported["context_length"]
        assert isinstance(size, int)
        is_right = (
            is_right
            and shown["residency"] == "loaded"
            and float(shown["memory"]) == pytest.approx(size / 1e9)
            and shown["context_length"] == str(context)
        )
        return None if is_right else f"{shown}, but {reported}"

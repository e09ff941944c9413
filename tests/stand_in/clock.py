"""Time for a stand-in server: the machine's, or one that a test moves by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import heapq
from itertools import count
import time
from typing import Protocol

# Loop turns that a task may need to go on after its sleep is over: from a load to
# the answer's first byte on a socket.
_TURNS = 20


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Do not make the call."""


class Clock(Protocol):
    """What a stand-in needs of time."""

    def now(self) -> float:
        """Return the Unix time in seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Make a call after some seconds."""


class RealClock:
    """The machine's own time."""

    def now(self) -> float:
        """Return the Unix time in seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Make a call after some seconds."""
        return asyncio.get_running_loop().call_later(seconds, callback)


class _ManualTimer:
    """A call of a manual clock, None once it was made or canceled."""

    def __init__(self, callback: Callable[[], None]) -> None:
        """Remember the call."""
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not make the call."""
        self.callback = None

    def fire(self) -> None:
        """Make the call, unless it was canceled."""
        if self.callback is not None:
            callback, self.callback = self.callback, None
            callback()


class ManualClock:
    """A time that passes only when a test says so."""

    def __init__(self, start: float | None = None) -> None:
        """Begin at a Unix time, by default at the present."""
        self._now = time.time() if start is None else start
        self._timers: list[tuple[float, int, _ManualTimer]] = []
        self._order = count()
        self._sleepers = 0
        self._sleeper_came = asyncio.Event()

    @property
    def sleepers(self) -> int:
        """Return how many tasks are asleep, a model load for instance."""
        return self._sleepers

    def now(self) -> float:
        """Return the Unix time in seconds."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the time was moved on that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        awake = asyncio.Event()
        timer = self.call_later(seconds, awake.set)
        self._sleepers += 1
        self._sleeper_came.set()
        try:
            await awake.wait()
        finally:
            self._sleepers -= 1
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Make a call once the time was moved on that far."""
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (self._now + seconds, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move the time on and make the calls that are due then, in order.

        Tasks that were asleep go on when the caller next awaits something; pass_time
        lets them go on at their own time.
        """
        end = self._now + seconds
        while self._fire_next(end):
            pass
        self._now = end

    async def pass_time(self, seconds: float) -> None:
        """Move the time on as advance does, and let tasks go on at each call.

        What they do then, another sleep or timer, falls due in its turn.
        """
        end = self._now + seconds
        await _let_tasks_run()
        while self._fire_next(end):
            await _let_tasks_run()
        self._now = end

    async def until_asleep(self, tasks: int = 1) -> None:
        """Wait until that many tasks are asleep."""
        while self._sleepers < tasks:
            self._sleeper_came.clear()
            await self._sleeper_came.wait()

    def _fire_next(self, end: float) -> bool:
        """Make the earliest call up to a time; return whether there was one."""
        if not self._timers or self._timers[0][0] > end:
            return False
        self._now, _, timer = heapq.heappop(self._timers)
        timer.fire()
        return True


async def _let_tasks_run() -> None:
    """Give tasks that became ready some turns of the loop."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)

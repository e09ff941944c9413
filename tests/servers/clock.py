"""Time for a stand-in: the machine's, or a test's own."""

import asyncio
from collections.abc import Callable
import heapq
from itertools import count
import time
from typing import Protocol


class Timer(Protocol):
    """A call that a clock will make."""

    def cancel(self) -> None:
        """Cancel the call."""


class Clock:
    """The machine's own time."""

    def now(self) -> float:
        """Return the Unix time in seconds."""
        return time.time()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Make a call after some seconds."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        await asyncio.sleep(seconds)


class _ManualTimer:
    """A call of a manual clock."""

    def __init__(self, callback: Callable[[], None]) -> None:
        """Remember the call."""
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Cancel the call."""
        self.callback = None


class ManualClock(Clock):
    """A time that passes only when a test says so."""

    def __init__(self) -> None:
        """Start now."""
        self._now = time.time()
        self._timers: list[tuple[float, int, _ManualTimer]] = []
        self._order = count()

    def now(self) -> float:
        """Return the test's time."""
        return self._now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Make a call once the time was moved on that far."""
        timer = _ManualTimer(callback)
        due = self._now + seconds
        heapq.heappush(self._timers, (due, next(self._order), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait until the time was moved on that far."""
        if seconds > 0:
            done = asyncio.get_running_loop().create_future()
            timer = self.call_later(seconds, lambda: done.set_result(None))
            try:
                await done
            finally:
                timer.cancel()

    def advance(self, seconds: float) -> None:
        """Move the time on, and make the calls that are due then, in order."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            self._now, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
        self._now = end

"""Which models are in a stand-in's memory: timers, reloads, eviction.

The rules are those of Ollama's scheduler (server/sched.go).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .clock import Clock, Timer
from .go_duration import FOREVER

# The context in tokens where neither the request nor the server sets one.
DEFAULT_NUM_CTX = 4096


@dataclass
class Resident:
    """A model in memory.

    size is in bytes. num_ctx is the context in tokens that it was loaded with,
    requested_num_ctx what the request wanted that loaded it, None for nothing.
    seconds is its keep_alive; expires_at is in Unix seconds.
    """

    name: str
    size: int
    num_ctx: int
    requested_num_ctx: int | None
    seconds: float
    expires_at: float
    users: int = 0
    timer: Timer | None = None
    cached: list[str] = field(default_factory=list)


class Memory:
    """The models in memory: it loads, reloads, evicts and expires them."""

    def __init__(
        self, clock: Clock, capacity: int, max_models: int, default_seconds: float
    ) -> None:
        """Hold at most max_models with capacity bytes together."""
        self._clock = clock
        self._capacity = capacity
        self._max_models = max_models
        self._default_seconds = default_seconds
        self._changed = asyncio.Condition()
        self._loading = asyncio.Lock()
        self.residents: dict[str, Resident] = {}
        self.loads: list[str] = []

    @asynccontextmanager
    async def use(
        self,
        name: str,
        size: int,
        *,
        seconds: float | None,
        num_ctx: int | None,
        largest_num_ctx: int,
        load: Callable[[], float],
    ) -> AsyncIterator[tuple[Resident, float]]:
        """Hold a model for one request; yield it and the seconds of its load.

        seconds is the request's keep_alive, None where it has none: a model that
        is loaded keeps what it has, a new one gets the server's default. num_ctx is
        the request's context in tokens, None where it has none; a model is loaded
        with no more than largest_num_ctx.
        """
        started = self._clock.now()
        async with self._loading:
            resident = self.residents.get(name)
            if resident is not None and self._needs_reload(resident, num_ctx):
                old = resident
                await self._wait_until(lambda: old.users == 0)
                self.unload(name)
                resident = None
            if resident is None:
                await self._make_room(size)
                await self._clock.sleep(load())
                self.loads.append(name)
                keep = self._default_seconds if seconds is None else seconds
                resident = Resident(
                    name,
                    size,
                    min(num_ctx or DEFAULT_NUM_CTX, largest_num_ctx),
                    num_ctx,
                    keep,
                    self._clock.now() + keep,
                )
                self.residents[name] = resident
            resident.users += 1
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        if seconds is not None:
            resident.seconds = seconds
        try:
            yield resident, self._clock.now() - started
        finally:
            resident.users -= 1
            if resident.users == 0:
                self._start_timer(resident)
            await self._notify()

    def unload(self, name: str) -> None:
        """Drop a model from memory."""
        if (resident := self.residents.pop(name, None)) and resident.timer:
            resident.timer.cancel()

    def expire(self, name: str) -> None:
        """Drop a model as soon as it is idle."""
        if resident := self.residents.get(name):
            resident.seconds = 0
            if resident.users == 0:
                self.unload(name)

    def _start_timer(self, resident: Resident) -> None:
        """Count the idle time from the end of the last request."""
        if resident.seconds <= 0:
            if self.residents.get(resident.name) is resident:
                self.unload(resident.name)
            return
        resident.expires_at = self._clock.now() + resident.seconds
        if resident.seconds != FOREVER:
            resident.timer = self._clock.call_later(
                resident.seconds, lambda: self.unload(resident.name)
            )

    def _needs_reload(self, resident: Resident, num_ctx: int | None) -> bool:
        """Return whether a request wants another context size.

        A model loaded without one keeps its size for requests without one.
        """
        if num_ctx is None and resident.requested_num_ctx is None:
            return False
        loaded_for = resident.requested_num_ctx or DEFAULT_NUM_CTX
        return (num_ctx or DEFAULT_NUM_CTX) != loaded_for

    async def _make_room(self, size: int) -> None:
        """Unload idle models until it fits, the shortest keep_alive first."""
        while self.residents and not self._fits(size):
            idle = [item for item in self.residents.values() if item.users == 0]
            if idle:
                self.unload(min(idle, key=lambda item: item.seconds).name)
            else:
                await self._wait_until(
                    lambda: any(not item.users for item in self.residents.values())
                )

    def _fits(self, size: int) -> bool:
        """Return whether a model fits in memory with the others."""
        used = sum(item.size for item in self.residents.values())
        return len(self.residents) < self._max_models and used + size <= self._capacity

    async def _wait_until(self, done: Callable[[], bool]) -> None:
        """Wait until requests have ended and done is true."""
        async with self._changed:
            await self._changed.wait_for(done)

    async def _notify(self) -> None:
        """Wake the requests that wait for another one to end."""
        async with self._changed:
            self._changed.notify_all()

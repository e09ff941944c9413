"""An Ollama whose memory keeps a record of what has happened in it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, override

from aiohttp import web

from tests.servers import ManualClock, OllamaStandIn
from tests.servers.ollama_models import GIB
from tests.servers.residency import Memory, Resident

# Seconds that each load takes.
LOAD_SECONDS = 8.0


def utc_text(time: float) -> str:
    """Return a Unix time as /api/ps writes it, in whole seconds."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class JumpingClock(ManualClock):
    """A server's time: whoever sleeps makes the time of the world pass at once."""

    def __init__(self) -> None:
        """Start now; jump is set by the world."""
        super().__init__()
        self.jump: Callable[[float], None] = self.advance

    @override
    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        if seconds > 0:
            self.jump(seconds)

    @property
    def next_due(self) -> float | None:
        """Return when the next timer is due, None if there is none."""
        due = [time for time, _, timer in self._timers if timer.callback is not None]
        return min(due, default=None)


@dataclass(frozen=True)
class Load:
    """That a model was loaded, at a Unix time of the server, and what had to go.

    asker is the agent's role that waited for it, "warm-up" or "guest". due is whether
    the model was not in memory because its keep_alive was over.
    """

    time: float
    name: str
    asker: str
    evicted: tuple[str, ...]
    due: bool


@dataclass
class Record:
    """What has happened in the memory; polls are the answers of /api/ps."""

    loads: list[Load] = field(default_factory=list)
    polls: list[tuple[float, dict[str, Any]]] = field(default_factory=list)


class RecordingMemory(Memory):
    """A memory that records each load and each eviction."""

    def __init__(self, clock: ManualClock, capacity: int, max_models: int) -> None:
        """Hold at most max_models with capacity bytes together."""
        super().__init__(clock, capacity, max_models, default_seconds=300)
        self.clock = clock
        self.record = Record()
        # Who waits for a load now, by model; what nobody waits for is a warm-up.
        self.askers: dict[str, str] = {}
        # The models that are not in memory because their time was over.
        self._expired: set[str] = set()

    @property
    def max_models(self) -> int:
        """Return how many models may be in memory together."""
        return self._max_models

    @max_models.setter
    def max_models(self, count: int) -> None:
        """Let so many models be in memory together."""
        self._max_models = count

    def fit_together(self, sizes: list[int]) -> bool:
        """Return whether models of these sizes can be in memory together."""
        return len(sizes) <= self._max_models and sum(sizes) <= self._capacity

    @override
    @asynccontextmanager
    async def use(
        self, name: str, size: int, *, load: Callable[[], float], **values: Any
    ) -> AsyncIterator[tuple[Resident, float]]:
        """Hold a model for one request, and record its load."""

        def recorded() -> float:
            """Record the load, which comes right after room was made for it."""
            evicted = tuple(self._made_room)
            asker = self.askers.get(name, "warm-up")
            is_due = name in self._expired
            self._expired.discard(name)
            self.record.loads.append(
                Load(
                    self.clock.now(),
                    name,
                    asker,
                    evicted,
                    is_due,
                )
            )
            return load()

        async with super().use(name, size, load=recorded, **values) as used:
            yield used

    @override
    async def _make_room(self, size: int) -> None:
        """Unload idle models until it fits, and remember which."""
        before = list(self.residents)
        await super()._make_room(size)
        self._made_room = [name for name in before if name not in self.residents]

    @override
    def _start_timer(self, resident: Resident) -> None:
        """Remember that a model is gone when its time is over."""
        super()._start_timer(resident)
        timer = resident.timer
        if timer is None:
            if resident.seconds <= 0:
                self._expired.add(resident.name)
            return
        timer.cancel()

        def expire() -> None:
            self._expired.add(resident.name)
            self.unload(resident.name)

        resident.timer = self.clock.call_later(resident.seconds, expire)


class RecordingOllama(OllamaStandIn):
    """A stand-in Ollama with a recording memory, which keeps the answers of polls."""

    def __init__(self, clock: JumpingClock) -> None:
        """Have room for three models in 45 GiB."""
        super().__init__(clock=clock, load_seconds=LOAD_SECONDS)
        self.memory: RecordingMemory = RecordingMemory(clock, 45 * GIB, 3)

    @override
    async def _ps(self, request: web.Request, _: dict[str, Any]) -> web.Response:
        """Answer a poll and keep the answer."""
        residents = self.memory.residents.values()
        models = {item.name: self._ps_entry(item) for item in residents}
        self.memory.record.polls.append((self.clock.now(), models))
        return web.json_response({"models": list(models.values())})

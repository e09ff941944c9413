"""Which models are in a stand-in Ollama's memory: timers, reloads, eviction.

The rules are those of Ollama's scheduler (server/sched.go).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
import math
from typing import Any, Final

from .clock import Clock, Timer
from .ollama_models import OllamaModel
from .prompt_cache import PromptCache

# What a model is loaded with, beside num_ctx, when nothing is asked for. Another
# value for one of these means loading it again.
_LOAD_OPTIONS: Final[dict[str, Any]] = {
    "num_batch": 512,
    "num_gpu": -1,
    "main_gpu": 0,
    "use_mmap": None,
    "num_thread": 0,
    "draft_num_predict": 0,
}


@dataclass(frozen=True)
class LoadOptions:
    """How a request wants its model loaded; num_ctx is None where it does not say."""

    num_ctx: int | None
    others: Mapping[str, Any]

    @classmethod
    def of(cls, model: OllamaModel, options: Mapping[str, Any]) -> LoadOptions:
        """Return what a request's options say, on top of the model's own."""
        said = {**model.options, **options}
        said = {key: value for key, value in said.items() if value is not None}
        num_ctx = said.get("num_ctx")
        if num_ctx is not None:
            num_ctx = min(max(int(num_ctx), 4), model.context_length)
        return cls(
            num_ctx, {key: said.get(key, _LOAD_OPTIONS[key]) for key in _LOAD_OPTIONS}
        )

    def fit(self, loaded: LoadOptions) -> bool:
        """Return whether a model that is loaded so will do, num_ctx aside."""
        others = dict(self.others)
        if others["num_gpu"] < 0:  # any will do
            others["num_gpu"] = loaded.others["num_gpu"]
        return others == loaded.others


@dataclass(eq=False)
class Residency:
    """A model in memory.

    keep_alive is in seconds, infinite for ever. expires_at is a Unix time, infinite
    for ever; while a request runs it is as old as the end of the one before.
    """

    model: OllamaModel
    options: LoadOptions
    num_ctx: int
    keep_alive: float
    clock: Clock
    loading: bool = True
    users: int = 0
    cache: PromptCache = field(default_factory=PromptCache)
    slot: asyncio.Lock = field(default_factory=asyncio.Lock)
    timer: Timer | None = None
    expiry: float | None = None

    @property
    def expires_at(self) -> float:
        """Return when the model is to leave memory."""
        if self.expiry is None:  # no request has ended yet
            return self.clock.now() + self.keep_alive
        return self.expiry

    def stop_timer(self) -> None:
        """Let the model stay."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Memory:
    """The models in memory, and what becomes of them.

    loads names every model whose load has begun, in order.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        size: int,
        max_models: int,
        keep_alive: float,
        num_ctx: int,
        keeps_automatic_num_ctx: bool,
    ) -> None:
        """Hold at most max_models, of size bytes together.

        keep_alive and num_ctx are for loads whose request says nothing of them.
        keeps_automatic_num_ctx is Ollama's rule since 0.30: a model loaded without
        a num_ctx keeps its own for requests without one.
        """
        self.loads: list[str] = []
        self.aborted_loads: list[str] = []
        self._residents: dict[str, Residency] = {}
        self._clock = clock
        self._size = size
        self._max_models = max_models
        self._keep_alive = keep_alive
        self._num_ctx = num_ctx
        self._keeps_automatic_num_ctx = keeps_automatic_num_ctx
        self._pending = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def residents(self) -> list[Residency]:
        """Return the models in memory."""
        return list(self._residents.values())

    @asynccontextmanager
    async def use(
        self, model: OllamaModel, options: Mapping[str, Any], keep_alive: float | None
    ) -> AsyncIterator[Residency]:
        """Hold a model for one request, loading it first where needed.

        keep_alive is the request's, None where it has none: a loaded model keeps
        the one that it has.
        """
        wanted = LoadOptions.of(model, options)
        resident = self._residents.get(model.key)
        if resident is None or resident.loading or self._must_reload(resident, wanted):
            async with self._pending:  # one at a time, in the order of their coming
                resident = await self._ready(model, wanted, keep_alive)
        resident.users += 1
        resident.stop_timer()
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        try:
            yield resident
        finally:
            resident.users -= 1
            if resident.users == 0:
                self._went_idle(resident)
            self._changed.set()

    def expire(self, model: OllamaModel) -> None:
        """Drop a model as soon as it is idle."""
        if (resident := self._residents.get(model.key)) is None:
            return
        resident.stop_timer()
        resident.keep_alive = 0
        resident.expiry = self._clock.now()
        if resident.users == 0 and not resident.loading:
            self.unload(model)

    def unload(self, model: OllamaModel) -> None:
        """Drop a model now, as a crash of its runner would."""
        if resident := self._residents.pop(model.key, None):
            resident.stop_timer()
            self._changed.set()

    def clear(self) -> None:
        """Drop all models."""
        for resident in self.residents:
            self.unload(resident.model)

    async def _ready(
        self, model: OllamaModel, wanted: LoadOptions, keep_alive: float | None
    ) -> Residency:
        """Return a model that is loaded as a request wants it."""
        resident = self._residents.get(model.key)
        if resident is not None and self._must_reload(resident, wanted):
            await self._evict(resident)
            resident = None
        if resident is not None:
            return resident
        while victim := self._in_the_way(model):
            await self._evict(victim)
        return await self._load(model, wanted, keep_alive)

    async def _load(
        self, model: OllamaModel, wanted: LoadOptions, keep_alive: float | None
    ) -> Residency:
        """Load a model; the load is given up when its client hangs up."""
        resident = Residency(
            model,
            wanted,
            num_ctx=self._context(model, wanted),
            keep_alive=self._keep_alive if keep_alive is None else keep_alive,
            clock=self._clock,
        )
        self._residents[model.key] = resident
        self.loads.append(model.name)
        try:
            await self._clock.sleep(model.load_seconds)
        except asyncio.CancelledError:
            self.aborted_loads.append(model.name)
            self.unload(model)
            raise
        resident.loading = False
        return resident

    def _went_idle(self, resident: Residency) -> None:
        """Count the idle time, from the end of the last request."""
        if self._residents.get(resident.model.key) is not resident:
            return
        if resident.keep_alive <= 0:
            self.unload(resident.model)
            return
        resident.expiry = self._clock.now() + resident.keep_alive
        if not math.isinf(resident.keep_alive):
            resident.timer = self._clock.call_later(
                resident.keep_alive, lambda: self.unload(resident.model)
            )

    def _must_reload(self, resident: Residency, wanted: LoadOptions) -> bool:
        """Return whether a request wants a model loaded in another way."""
        if not wanted.fit(resident.options):
            return True
        neither_asked = wanted.num_ctx is None and resident.options.num_ctx is None
        if neither_asked and self._keeps_automatic_num_ctx:
            return False
        return self._context(resident.model, wanted) != resident.num_ctx

    def _context(self, model: OllamaModel, wanted: LoadOptions) -> int:
        """Return the size of the context that a model is to be loaded with."""
        return wanted.num_ctx or min(self._num_ctx, model.context_length)

    def _in_the_way(self, model: OllamaModel) -> Residency | None:
        """Return the model to evict for another one.

        The one with the shortest keep_alive, not the least recently used, and an
        idle one rather than a busy one, whatever their keep_alive.
        """
        used = sum(resident.model.size for resident in self.residents)
        fits = used + model.size <= self._size
        if not self.residents or (fits and len(self.residents) < self._max_models):
            return None
        return min(
            self.residents,
            key=lambda item: (item.users > 0, item.keep_alive, item.model.name),
        )

    async def _evict(self, resident: Residency) -> None:
        """Drop a model once it is idle, and wait for that."""
        self.expire(resident.model)
        await self._until(lambda: resident not in self.residents)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait until an unloading makes something true."""
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

"""What happens on a day: a household, an automation, other clients, and accidents."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
import heapq
from itertools import count
from random import Random
from typing import Any, Protocol

from .world import EMBEDDING, KEEP_ALIVES, NUM_CTX, VOICE, World

DAY = 86400.0
HOUR = 3600.0
MINUTE = 60.0
# The automation asks this often; the keep_alive of its agent is 10m.
CADENCE = 15 * MINUTE
_GUEST = "llama3.2:70b"
_QUESTIONS = (
    "Hello",
    "Turn on the kitchen light",
    "What is the temperature in the bedroom",
    "Find the coffee machine",
    "Ask the expert why the sky is blue",
)

type Action = Callable[[], Awaitable[None]]


class Events(Protocol):
    """What learns of events that nobody but the household knows."""

    def turn_begins(self, agent: str) -> None:
        """Learn that an agent is asked."""

    def turn_ends(self, agent: str, *, is_answered: bool) -> None:
        """Learn that an agent has answered or failed."""

    def used_by_others(self, model: str) -> None:
        """Learn that another client has set another keep_alive for a model."""

    def disturbed(self) -> None:
        """Learn that models are gone for other reasons."""

    def reloaded(self) -> None:
        """Learn that the entry is reloaded."""


class Household:
    """Acts on a world, day by day, in the same way for the same seed."""

    def __init__(self, world: World, seed: int) -> None:
        """Be ready for the first day.

        automated is when the automation has asked, done counts all events.
        """
        self.world = world
        self.events: Events
        self.automated: list[float] = []
        self.done = Counter[str]()
        self.turns = 0
        self._settings: dict[str, dict[str, Any]] = {}
        self._seed = seed
        self._random = Random()  # noqa: S311 - a household, not a secret
        self._order = count()
        self._events: list[tuple[float, int, str, Action]] = []

    def keep_alive(self, role: str) -> str:
        """Return the configured keep_alive of a role."""
        settings = self._settings.get(role, {})
        return str(settings.get("keep_alive", KEEP_ALIVES[role]))

    def num_ctx(self, role: str) -> int:
        """Return the configured context size of a role."""
        return int(self._settings.get(role, {}).get("num_ctx", NUM_CTX))

    async def live(self, number: int) -> None:
        """Live through the day of a number; each has its own accidents.

        events must be set.
        """
        midnight = self.world.started_at + number * DAY
        self._random.seed(f"{self._seed}, {number}")
        for hours, name, action in self._plan(number):
            self._at(midnight + hours * HOUR, name, action)
        while self._events and self._events[0][0] < midnight + DAY:
            time, _, name, action = heapq.heappop(self._events)
            await self.world.wait_until(time)
            self.done[name] += 1
            await action()
        await self.world.wait_until(midnight + DAY)

    def _at(self, time: float, name: str, action: Action) -> None:
        """Plan an action."""
        heapq.heappush(self._events, (time, next(self._order), name, action))

    def _after(self, seconds: float, name: str, action: Action) -> None:
        """Plan an action in some seconds."""
        self._at(self.world.now + seconds, name, action)

    def _plan(self, number: int) -> Iterator[tuple[float, str, Action]]:
        """Yield the hours, names and actions of a day."""
        draw = self._random.uniform
        for _ in range(self._random.randint(8, 16)):
            yield draw(6.5, 23), "conversation", self._converse
        # Two days with the automation, three without it.
        if number % 5 in (0, 1):
            for quarter in range(int(DAY / CADENCE)):
                yield quarter * CADENCE / HOUR, "automation", self._automate
        if number % 3 == 1:
            for quarter in range(6):
                yield 17 + quarter / 4, "guest shortens", self._shorten
        for every, remainder, earliest, latest, name, action in self._calendar:
            if number % every == remainder:
                yield draw(earliest, latest), name, action

    @property
    def _calendar(self) -> Iterator[tuple[int, int, float, float, str, Action]]:
        """Yield what happens every so many days between two hours of the day."""
        yield 2, 0, 1, 5, "restart in the night", self._restart
        yield 1, 0, 12, 14, "restart within seconds", self._restart_at_once
        yield 3, 0, 15, 16, "outage", self._outage
        for remainder in (0, 0, 0, 2):
            yield 3, remainder, 9, 22, "guest evicts", self._evict
        yield 4, 1, 9, 22, "guest comes and goes", self._come_and_go
        yield 3, 2, 17, 18, "guest keeps", self._keep
        yield 1, 0, 0, 24, "reload", self._reload
        yield 2, 1, 23.4, 23.4, "unload for the night", self._good_night
        yield 7, 3, 10, 11, "delete a model", self._delete
        yield 6, 1, 10.2, 10.2, "another keep_alive", self._lengthen
        yield 6, 1, 20.2, 20.2, "the old keep_alive", self._restore
        yield 8, 0, 11.1, 11.1, "another context", self._widen
        yield 8, 0, 13.9, 13.9, "the old context", self._narrow
        yield 9, 2, 8.1, 8.1, "fewer models allowed", self._allow_two
        yield 9, 2, 21.1, 21.1, "more models allowed", self._allow_three

    async def _converse(self) -> None:
        """Ask one to four questions."""
        for number in range(self._random.randint(1, 4)):
            text = self._random.choice(_QUESTIONS)
            self._after(
                number * self._random.uniform(20, 50),
                "question",
                partial(self._ask, "voice", text),
            )

    async def _automate(self) -> None:
        """Ask the agent of the automation."""
        self.automated.append(self.world.now)
        await self._ask("tasks", "Summarize the weather")

    async def _ask(self, agent: str, text: str) -> None:
        """Ask an agent."""
        self.turns += 1
        self.events.turn_begins(agent)
        is_answered = await self.world.ask(agent, text)
        self.events.turn_ends(agent, is_answered=is_answered)

    async def _restart(self) -> None:
        """Restart the server; it is away for up to half a minute."""
        await self._stop_for(self._random.uniform(2, 30))

    async def _restart_at_once(self) -> None:
        """Restart the server between two polls."""
        await self._stop_for(0.5)

    async def _outage(self) -> None:
        """Switch the server off for up to forty minutes."""
        await self._stop_for(self._random.uniform(2, 40) * MINUTE)

    async def _stop_for(self, seconds: float) -> None:
        """Stop the server, and start it again after some seconds."""
        if self.world.is_up:
            self.events.disturbed()
            await self.world.stop_server()
            self._after(seconds, "server started", self.world.start_server)

    async def _evict(self) -> None:
        """Let another client load a model that needs nearly all of the memory."""
        await self.world.foreign(_GUEST, self._random.choice(("30s", "5m", "20m")))

    async def _come_and_go(self) -> None:
        """Let another client load such a model for one answer."""
        await self.world.foreign(_GUEST, 0)

    async def _shorten(self) -> None:
        """Ask, and let another client use the model for five seconds then."""
        await self._ask("voice", "Hello")
        self._after(20, "shorten", lambda: self._use_voice("5s"))

    async def _keep(self) -> None:
        """Let another client keep the model in memory."""
        await self._use_voice(-1)

    async def _use_voice(self, keep_alive: str | int) -> None:
        """Let another client use the model of "voice" as it is loaded."""
        if self.world.is_up and self.world.server.loaded(VOICE):
            self.events.used_by_others(VOICE)
            options = {"num_ctx": NUM_CTX}
            await self.world.foreign(VOICE, keep_alive, options=options)

    async def _reload(self) -> None:
        """Reload the entry, unless that cannot succeed."""
        if self.world.is_up:
            self.events.reloaded()
            await self.world.reload()

    async def _good_night(self) -> None:
        """Unload two models for the night."""
        if self.world.is_up:
            self.events.disturbed()
            await self.world.press("voice", "unload")
            await self.world.press("embedding", "unload")

    async def _delete(self) -> None:
        """Delete a model on the server, and pull it again three hours later."""
        model = self.world.server.models.pop(EMBEDDING)
        self.world.server.memory.unload(EMBEDDING)
        self._after(
            3 * HOUR,
            "pull the model",
            lambda: self._pull(model),
        )

    async def _pull(self, model: Any) -> None:
        """Pull a model again."""
        self.world.server.models[EMBEDDING] = model

    async def _configure(self, role: str, **settings: Any) -> None:
        """Change settings of a role, unless the entry cannot be loaded again."""
        if self.world.is_up:
            self._settings.setdefault(role, {}).update(settings)
            self.events.reloaded()
            await self.world.configure(role, **settings)

    async def _lengthen(self) -> None:
        """Let the expert stay longer than the agent that uses the same model."""
        await self._configure("external", keep_alive="45m")

    async def _restore(self) -> None:
        """Let both stay as long as before."""
        await self._configure("external", keep_alive=KEEP_ALIVES["external"])

    async def _widen(self) -> None:
        """Give the expert a larger context than the agent with the same model."""
        await self._configure("external", num_ctx=2 * NUM_CTX)

    async def _narrow(self) -> None:
        """Let both have the same context."""
        await self._configure("external", num_ctx=NUM_CTX)

    async def _allow_two(self) -> None:
        """Restart the server with OLLAMA_MAX_LOADED_MODELS=2."""
        self.world.server.memory.max_models = 2
        await self._restart()

    async def _allow_three(self) -> None:
        """Restart the server with OLLAMA_MAX_LOADED_MODELS=3."""
        self.world.server.memory.max_models = 3
        await self._restart()

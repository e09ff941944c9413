"""How each model is used through us: what runs now, and what became of it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.dispatcher import async_dispatcher_send
from homeassistant.helpers.storage import Store
from homeassistant.util import dt as dt_util
from homeassistant.util.hass_dict import HassKey

from ..const import DOMAIN
from ..keep_alive import KeepAlive
from ..servers.address import server_id
from ..servers.base import ModelServer
from ..servers.messages import (
    ChatAnswer,
    ChatDelta,
    ChatRequest,
    ChatStats,
    text_length,
)
from .listeners import Listeners
from .use_history import UseHistory

STORAGE_KEY: Final = f"{DOMAIN}.model_uses"
STORAGE_VERSION: Final = 1
SAVE_DELAY: Final = 60
# Seconds that work in the background gives way to a conversation.
MAX_WAIT_FOR_IDLE: Final = 60.0
# Sent with a TurnFigures when a turn of this subentry is over.
SIGNAL_TURN: Final = f"{DOMAIN}_turn_{{}}"
# Sent with the tokens of a prompt before it goes out, and whether a turn wants it:
# else it is only read ahead.
SIGNAL_PROMPT: Final = f"{DOMAIN}_prompt_{{}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFigures:
    """What a turn cost: seconds and tokens; None is what the server does not tell.

    load_seconds, tokens and completion_seconds are sums over the turn's requests;
    first_token_seconds is from its beginning to the first piece of an answer; prefix
    is the key of the prompt that it began with.
    """

    started: datetime
    ended: datetime
    requests: int
    load_seconds: float | None
    first_token_seconds: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    completion_seconds: float | None
    prefix: int | None

    @property
    def tokens_per_second(self) -> float | None:
        """Return how fast the answer was generated."""
        if not self.completion_tokens or not self.completion_seconds:
            return None
        return self.completion_tokens / self.completion_seconds


@dataclass(slots=True)
class ModelUse:
    """One model on one server, whoever of us uses it.

    running counts the requests that have not ended, loading those of them that
    only load; turns counts the turns. primed is the key of the prefix that the
    server has evaluated last, as far as we know; is_leaving whether we unloaded
    the model. lock is held while the model is loaded ahead, so that nobody does it
    twice. context_length is what the server has told of it, in tokens.
    """

    history: UseHistory = field(default_factory=UseHistory)
    running: int = 0
    loading: int = 0
    turns: int = 0
    primed: int | None = None
    is_leaving: bool = False
    context_length: int | None = None
    last_ended: datetime | None = None
    last_owner: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    # Told whenever a request begins or ends.
    changed: Listeners[()] = field(default_factory=Listeners[()])

    def __post_init__(self) -> None:
        """Start without a turn."""
        self.idle.set()

    @contextmanager
    def request(self, *, loads: bool = False) -> Iterator[None]:
        """Count a request as running, as one that only loads if it does."""
        self.running += 1
        self.loading += loads
        self.changed.notify()
        try:
            yield
        finally:
            self.running -= 1
            self.loading -= loads
            self.last_ended = dt_util.utcnow()
            self.changed.notify()


class ModelUses:
    """The uses of all models, with histories that outlive a restart."""

    def __init__(self, hass: HomeAssistant) -> None:
        """Start with nothing."""
        self.hass = hass
        self._uses: dict[str, ModelUse] = {}
        self._store: Store[dict[str, Any]] = Store(hass, STORAGE_VERSION, STORAGE_KEY)

    async def async_load(self) -> None:
        """Read the histories."""
        for key, data in (await self._store.async_load() or {}).items():
            # Earlier versions stored the address as it was typed.
            root, _, model = key.partition(" ")
            use = ModelUse(UseHistory.from_dict(data))
            self._uses[f"{server_id(root)} {model}"] = use

    @callback
    def of(self, url: str, model: str) -> ModelUse:
        """Return the use of a model on the server at url."""
        return self._uses.setdefault(f"{server_id(url)} {model}", ModelUse())

    async def async_wait_until_idle(self, url: str, own: ModelUse) -> None:
        """Wait until no other model of a server has a turn, a minute at most."""
        root = f"{server_id(url)} "
        others = [
            use
            for key, use in self._uses.items()
            if key.startswith(root) and use is not own and use.turns
        ]
        if others:
            with suppress(TimeoutError):
                async with asyncio.timeout(MAX_WAIT_FOR_IDLE):
                    for use in others:
                        await use.idle.wait()

    @callback
    def save_soon(self) -> None:
        """Write the histories within a minute, and before Home Assistant stops."""
        self._store.async_delay_save(self._data, SAVE_DELAY)

    @callback
    def _data(self) -> dict[str, Any]:
        """Return what is stored: models that were really used."""
        return {
            key: use.history.as_dict()
            for key, use in self._uses.items()
            if use.history.uses
        }


_DATA: Final[HassKey[ModelUses]] = HassKey(f"{DOMAIN}_model_uses")


@callback
def model_uses(hass: HomeAssistant) -> ModelUses:
    """Return the uses of all models."""
    return hass.data.setdefault(_DATA, ModelUses(hass))


@callback
def announce_prompt(
    hass: HomeAssistant, owner: str, tokens: int, *, of_turn: bool
) -> None:
    """Tell that a prompt of so many tokens is wanted, by a turn or to be ready."""
    async_dispatcher_send(hass, SIGNAL_PROMPT.format(owner), tokens, of_turn)


class Turn:
    """One use of a model, of one or more requests; a context manager."""

    def __init__(
        self,
        hass: HomeAssistant,
        use: ModelUse,
        server: Callable[[], Awaitable[ModelServer]],
        owner: str | None,
    ) -> None:
        """Begin before the first request.

        server is a coroutine function that returns the ModelServer; owner is the
        subentry that is told the figures.
        """
        self._hass = hass
        self._use = use
        self._server = server
        self._owner = owner
        self._started = dt_util.utcnow()
        self._clock = monotonic()
        self._first_token: float | None = None
        self._stats: list[ChatStats] = []
        # What the server has evaluated after this turn, if it may be asked for.
        self.prefix: int | None = None
        # The tokens of a prompt that had to be shortened.
        self.wanted_tokens = 0

    def __enter__(self) -> Self:
        """Begin."""
        self._use.turns += 1
        self._use.idle.clear()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and tell the figures if anything was answered."""
        self._use.turns -= 1
        if not self._use.turns:
            self._use.idle.set()
        if not self._stats:
            return
        self._use.primed = self.prefix
        self._use.last_owner = self._owner
        figures = self._figures()
        self._use.history.record(
            figures.started, figures.ended, figures.requests, figures.load_seconds
        )
        model_uses(self._hass).save_soon()
        if self._owner:
            async_dispatcher_send(self._hass, SIGNAL_TURN.format(self._owner), figures)

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Return an answer in one piece."""
        server = await self._server()
        characters = self._announce(request)
        with self._use.request():
            answer = await server.chat(request)
        self._answered(answer.stats, characters, request.num_ctx)
        return answer

    async def chat_stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """Yield an answer as it is made."""
        server = await self._server()
        characters = self._announce(request)
        with self._use.request():
            async with aclosing(server.chat_stream(request)) as deltas:
                async for delta in deltas:
                    if self._first_token is None:
                        self._first_token = monotonic() - self._clock
                    if delta.stats:
                        self._answered(delta.stats, characters, request.num_ctx)
                    yield delta

    async def embed(
        self, model: str, texts: Sequence[str], keep_alive: KeepAlive
    ) -> list[list[float]]:
        """Return the vectors of texts."""
        server = await self._server()
        with self._use.request():
            vectors = await server.embed(model, texts, keep_alive)
        self._answered(ChatStats())
        return vectors

    def _announce(self, request: ChatRequest) -> int:
        """Tell the size of a prompt, and return its characters."""
        characters = text_length(request.messages, request.tools)
        if self._owner:
            tokens = max(self.wanted_tokens, self._use.history.tokens(characters))
            announce_prompt(self._hass, self._owner, tokens, of_turn=True)
        return characters

    def _answered(
        self, stats: ChatStats, characters: int = 0, num_ctx: int | None = None
    ) -> None:
        """Keep the figures of a request."""
        if limit := self._use.context_length or num_ctx:
            self._use.history.calibrate(characters, stats.prompt_tokens, limit)
        if self._first_token is None:
            self._first_token = monotonic() - self._clock
        self._stats.append(stats)

    def _figures(self) -> TurnFigures:
        """Return the figures of the turn."""

        def total[N: (int, float)](name: str) -> N | None:
            values = [getattr(stats, name) for stats in self._stats]
            known = [value for value in values if value is not None]
            return sum(known) if known else None

        return TurnFigures(
            started=self._started,
            ended=dt_util.utcnow(),
            requests=len(self._stats),
            load_seconds=total("load_seconds"),
            first_token_seconds=self._first_token,
            prompt_tokens=total("prompt_tokens"),
            cached_tokens=total("cached_tokens"),
            completion_tokens=total("completion_tokens"),
            completion_seconds=total("completion_seconds"),
            prefix=self.prefix,
        )

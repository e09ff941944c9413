"""State shared by all roles that use the same model on the same server."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
import logging
from typing import Any, Final

from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.storage import Store
from homeassistant.util import dt as dt_util
from homeassistant.util.hass_dict import HassKey

from ..const import DOMAIN
from ..keep_alive import KeepAlive
from ..servers.address import server_id
from ..servers.errors import ModelServerError
from ..servers.ollama_names import full_name
from .listeners import Listeners
from .server_use import ServerUse
from .shared_keep_alive import ModelUser, SharedKeepAlive
from .token_estimate import TokenEstimate
from .turn_record import TurnRecord
from .use_history import UseHistory

_LOGGER = logging.getLogger(__name__)

STORAGE_KEY: Final = f"{DOMAIN}.model_uses"
STORAGE_VERSION: Final = 1
SAVE_DELAY: Final = 60
# Maximum seconds that embedding waits for turns of other models on the server.
MAX_WAIT_FOR_IDLE: Final = 60.0

# A later version has written the storage file, or something else, of any shape.
_UNREADABLE: Final = (
    HomeAssistantError,
    NotImplementedError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)

_ESTIMATE_KEY: Final = "characters_per_token"
_UNLOADED_KEY: Final = "unloaded_by_user"


@dataclass(frozen=True, slots=True)
class PromptSized:
    """The size of a prompt of a subentry, counted by the server.

    tokens is that of the whole prompt, before it was shortened to fit. is_refused:
    the server has refused the prompt as too long; tokens is an estimate then.
    """

    subentry_id: str
    tokens: int
    is_refused: bool = False


@dataclass(slots=True)
class ModelUse:
    """One model on one server, shared by all roles that use it.

    users are the roles of all loaded config entries that use the model.
    running_requests counts the requests that have not ended, loading_requests those
    of them that only load the model, running_turns the turns. primed_prefix is the
    key of the prompt prefix that the server evaluated last, None if that is not known.
    unload_requested says that Home Agent itself asked the server to unload the model;
    unloaded_by_user that the user wanted that, maybe before a restart (it is stored):
    the model is then not loaded before a request needs it.
    load_lock is held while the model is loaded or unloaded, so that two callers do not
    load it twice. context_length is the context that the server reports, in tokens;
    max_context is the longest that the model was trained for, None if not known.
    prompt_tokens are those of the last prompt of each subentry, counted by the server.
    last_ended is when the last request ended, last_answered when the last one ended
    that was answered.
    server is shared by all models on the same server.
    """

    history: UseHistory = field(default_factory=UseHistory)
    token_estimate: TokenEstimate = field(default_factory=TokenEstimate)
    server: ServerUse = field(default_factory=ServerUse)
    users: list[ModelUser] = field(default_factory=list)
    running_requests: int = 0
    loading_requests: int = 0
    running_turns: int = 0
    primed_prefix: int | None = None
    unload_requested: bool = False
    unloaded_by_user: bool = False
    context_length: int | None = None
    max_context: int | None = None
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    last_ended: datetime | None = None
    last_answered: datetime | None = None
    load_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    users_changed: Listeners[()] = field(default_factory=Listeners[()])
    requests_changed: Listeners[()] = field(default_factory=Listeners[()])
    prompt_sized: Listeners[PromptSized] = field(default_factory=Listeners[PromptSized])
    request_failed: Listeners[ModelServerError] = field(
        default_factory=Listeners[ModelServerError]
    )
    turn_ended: Listeners[TurnRecord] = field(default_factory=Listeners[TurnRecord])
    keep_alive: SharedKeepAlive = field(init=False)

    def __post_init__(self) -> None:
        """Start without a running turn."""
        self.idle.set()
        self.keep_alive = SharedKeepAlive(self.users)

    @callback
    def add_user(self, user: ModelUser) -> CALLBACK_TYPE:
        """Add a role that uses the model; return the function that removes it."""

        @callback
        def remove() -> None:
            self.users.remove(user)
            self.users_changed.notify()

        self.users.append(user)
        self.users_changed.notify()
        return remove

    @callback
    def note_prompt(self, prompt: PromptSized) -> None:
        """Store the size of a prompt, and notify the listeners."""
        self.prompt_tokens[prompt.subentry_id] = prompt.tokens
        self.prompt_sized.notify(prompt)

    @callback
    def begin_turn(self, *, interrupts_priming: bool = True) -> None:
        """Count a turn as running; by default, interrupt priming on its server."""
        self.running_turns += 1
        self.idle.clear()
        self.server.begin_turn()
        if interrupts_priming:
            self.server.interrupt_priming()

    @callback
    def end_turn(self) -> None:
        """Count a turn as ended."""
        self.running_turns -= 1
        if not self.running_turns:
            self.idle.set()
        self.server.end_turn()

    @callback
    def request_unload(self) -> None:
        """Note that Home Agent unloads the model, and stop priming on its server."""
        self.unload_requested = True
        self.primed_prefix = None
        self.server.interrupt_priming()

    @contextmanager
    def count_request(
        self, keep_alive: KeepAlive | None = None, *, only_loads: bool = False
    ) -> Iterator[None]:
        """Count a request as running until it has ended, successfully or not.

        keep_alive is the one that the request carries, None if it carries none.
        """
        configured = self.keep_alive.longest()
        self.running_requests += 1
        self.loading_requests += only_loads
        # The model is wanted again: if it is unloaded later, it is not by us.
        self.unload_requested = self.unloaded_by_user = False
        self.requests_changed.notify()
        is_answered = False
        try:
            yield
            is_answered = True
        finally:
            self.running_requests -= 1
            self.loading_requests -= only_loads
            self.last_ended = dt_util.utcnow()
            if is_answered:
                self.last_answered = self.last_ended
            if is_answered and keep_alive is not None:
                self.keep_alive.sent = keep_alive
                self.keep_alive.configured = configured
            self.requests_changed.notify()


class ModelUses:
    """The uses of all models; their histories are stored."""

    def __init__(self, hass: HomeAssistant) -> None:
        """Create an empty registry."""
        self._uses: dict[str, ModelUse] = {}
        self._servers: defaultdict[str, ServerUse] = defaultdict(ServerUse)
        self._store: Store[dict[str, Any]] = Store(hass, STORAGE_VERSION, STORAGE_KEY)

    async def async_load(self) -> None:
        """Read the stored histories; without them all else works."""
        stored: dict[str, Any] | None = None
        try:
            stored = await self._store.async_load()
        except _UNREADABLE as err:
            _LOGGER.warning("Cannot read how models were used: %r", err)
        for key, data in stored.items() if isinstance(stored, dict) else ():
            # Earlier versions stored the address as the user typed it.
            address, _, model = key.partition(" ")
            try:
                root = server_id(address)
                self._uses[_key(root, model)] = ModelUse(
                    UseHistory.from_dict(data),
                    TokenEstimate(data[_ESTIMATE_KEY]),
                    self._servers[root],
                    unloaded_by_user=data.get(_UNLOADED_KEY) is True,
                )
            except _UNREADABLE as err:
                _LOGGER.warning(
                    "Forgetting how %s was used: what is stored is unreadable (%s)",
                    model,
                    type(err).__name__,
                )

    @callback
    def async_get(self, url: str, model: str) -> ModelUse:
        """Return the use of a model on the server at url; make it if there is none."""
        root = server_id(url)
        return self._uses.setdefault(
            _key(root, model), ModelUse(server=self._servers[root])
        )

    async def async_wait_until_idle(self, url: str, own: ModelUse) -> None:
        """Wait until no other model of the server at url runs a turn or is primed.

        The wait for turns ends after MAX_WAIT_FOR_IDLE seconds; priming waits for
        nothing but its own request, which has a timeout.
        """
        root = f"{server_id(url)} "
        others = [
            use
            for key, use in self._uses.items()
            if key.startswith(root) and use is not own and use.running_turns
        ]
        if others:
            with suppress(TimeoutError):
                async with asyncio.timeout(MAX_WAIT_FOR_IDLE):
                    for use in others:
                        await use.idle.wait()
        await own.server.async_wait_until_primed()

    async def async_keep_only(self, models: Iterable[tuple[str, str]]) -> None:
        """Forget how all models were used except these (address, model)."""
        kept = {_key(url, model) for url, model in models}
        self._uses = {key: use for key, use in self._uses.items() if key in kept}
        await self._store.async_save(self._data_to_store())

    @callback
    def save_soon(self) -> None:
        """Store the histories within a minute, and before Home Assistant stops."""
        self._store.async_delay_save(self._data_to_store, SAVE_DELAY)

    @callback
    def _data_to_store(self) -> dict[str, Any]:
        """Return the histories of the models that were used."""
        return {
            key: use.history.as_dict()
            | {
                _ESTIMATE_KEY: use.token_estimate.characters_per_token,
                _UNLOADED_KEY: use.unloaded_by_user,
            }
            for key, use in self._uses.items()
            if use.unloaded_by_user or not use.history.is_empty
        }


def _key(url: str, model: str) -> str:
    """Return what identifies a model on a server.

    "llama3.2" and "llama3.2:latest" are one model on Ollama. No other server is known
    to distinguish two models by what Ollama adds to a name.
    """
    return f"{server_id(url)} {full_name(model)}"


_MODEL_USES: Final[HassKey[ModelUses]] = HassKey(f"{DOMAIN}_model_uses")


@callback
def model_uses(hass: HomeAssistant) -> ModelUses:
    """Return the uses of all models, the same object for all of Home Assistant."""
    return hass.data.setdefault(_MODEL_USES, ModelUses(hass))

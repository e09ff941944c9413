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
from ..servers.errors import CannotConnect, ModelServerError
from ..servers.ollama_names import full_name
from .listeners import Listeners
from .server_use import ServerUse
from .shared_model import ModelUser, SharedModel, UsersOfName
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
    """One name of a model on one server, shared by all roles that use it.

    shared is what holds for all names of the model: Ollama loads a file only once,
    however many names stand for it (see ModelUses.async_compare_name).
    running_requests counts the requests that have not ended, loading_requests those
    of them that only load the model, running_turns the turns. primed_prefix is the
    key of the prompt prefix that the server evaluated last, None if that is not known.
    load_lock is held while the model is loaded or unloaded, so that two callers do not
    load it twice. context_length is the context that the server reports, in tokens;
    max_context is the longest that the model was trained for, None if not known.
    last_ended is when the last request ended, last_answered when the last one ended
    that was answered. keep_alive_refusal is why the server has refused the keep_alive
    of the last request, in its own words without secrets, None if it did not; listeners
    to refusal_changed hear when that changes.
    server is shared by all models on the same server.
    """

    history: UseHistory = field(default_factory=UseHistory)
    token_estimate: TokenEstimate = field(default_factory=TokenEstimate)
    server: ServerUse = field(default_factory=ServerUse)
    running_requests: int = 0
    loading_requests: int = 0
    running_turns: int = 0
    primed_prefix: int | None = None
    context_length: int | None = None
    max_context: int | None = None
    last_ended: datetime | None = None
    last_answered: datetime | None = None
    load_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    users_changed: Listeners[()] = field(default_factory=Listeners[()])
    requests_changed: Listeners[()] = field(default_factory=Listeners[()])
    answer_began: Listeners[()] = field(default_factory=Listeners[()])
    prompt_sized: Listeners[PromptSized] = field(default_factory=Listeners[PromptSized])
    request_failed: Listeners[ModelServerError] = field(
        default_factory=Listeners[ModelServerError]
    )
    turn_ended: Listeners[TurnRecord] = field(default_factory=Listeners[TurnRecord])
    keep_alive_refusal: str | None = None
    refusal_changed: Listeners[()] = field(default_factory=Listeners[()])
    own_users: UsersOfName = field(init=False)
    shared: SharedModel = field(init=False)

    def __post_init__(self) -> None:
        """Start without a running turn, with what is known of this name only."""
        self.idle.set()
        self.own_users = UsersOfName(changed=self.users_changed)
        self.shared = SharedModel([self.own_users])

    @property
    def users(self) -> list[ModelUser]:
        """Return the roles of all loaded entries that use the model, by any name."""
        return self.shared.users

    @property
    def unload_requested(self) -> bool:
        """Return whether Home Agent itself asked the server to unload the model."""
        return self.shared.unload_requested

    @unload_requested.setter
    def unload_requested(self, value: bool) -> None:
        self.shared.unload_requested = value

    @property
    def unloaded_by_user(self) -> bool:
        """Return whether the user has unloaded the model, maybe before a restart.

        The model is then not loaded before a request needs it.
        """
        return self.shared.unloaded_by_user

    @unloaded_by_user.setter
    def unloaded_by_user(self, value: bool) -> None:
        self.shared.unloaded_by_user = value

    @callback
    def add_user(self, user: ModelUser) -> CALLBACK_TYPE:
        """Add a role that uses the model; return the function that removes it."""

        @callback
        def remove() -> None:
            self.own_users.roles.remove(user)
            self.shared.notify_users_changed()

        self.own_users.roles.append(user)
        self.shared.notify_users_changed()
        return remove

    @callback
    def note_keep_alive_answer(self, refusal: str | None) -> None:
        """Store whether the server has refused a keep_alive, and why."""
        if refusal != self.keep_alive_refusal:
            self.keep_alive_refusal = refusal
            self.refusal_changed.notify()

    @callback
    def note_prompt(self, prompt: PromptSized) -> None:
        """Store the size of a prompt, and notify the listeners."""
        self.shared.prompt_tokens[prompt.subentry_id] = prompt.tokens
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
        self,
        keep_alive: KeepAlive | None = None,
        *,
        only_loads: bool = False,
        is_configured: bool = False,
    ) -> Iterator[None]:
        """Count a request as running until it has ended, successfully or not.

        keep_alive is the one that the request carries, None if it carries none.
        is_configured says that it comes from the settings of the roles; otherwise it
        stays in effect until a setting changes or a request with theirs is sent.
        """
        settled = keep_alive if is_configured else self.shared.longest()
        self.running_requests += 1
        self.loading_requests += only_loads
        # The model is wanted again: if it is unloaded later, it is not by us.
        self.unload_requested = self.unloaded_by_user = False
        self.requests_changed.notify()
        try:
            yield
        except BaseException as err:
            self._end_request(only_loads=only_loads)
            if keep_alive is not None and not isinstance(err, CannotConnect):
                if _is_answer_of_server(err):
                    self.shared.note_unanswered(settled)
                else:
                    self.shared.note_sent(keep_alive, settled, is_answered=False)
            raise
        else:
            self._end_request(only_loads=only_loads)
            self.last_answered = self.last_ended
            if keep_alive is not None:
                self.shared.note_sent(keep_alive, settled, is_answered=True)
        finally:
            self.requests_changed.notify()

    def _end_request(self, *, only_loads: bool) -> None:
        """Count a request as ended."""
        self.running_requests -= 1
        self.loading_requests -= only_loads
        self.last_ended = dt_util.utcnow()


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
                use = ModelUse(
                    UseHistory.from_dict(data),
                    TokenEstimate(data[_ESTIMATE_KEY]),
                    self._servers[root],
                )
                use.unloaded_by_user = data.get(_UNLOADED_KEY) is True
                self._uses[_key(root, model)] = use
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

    @callback
    def async_compare_name(
        self, url: str, own: ModelUse, loaded_as: str, *, is_same: bool
    ) -> None:
        """Let two names of one model on the server at url share what holds for it.

        loaded_as is the name by which the server lists a loaded model. is_same says
        whether the name of own stands for that model too. If it does not any more, it
        shares nothing with it from now on.
        """
        if not is_same and len(own.shared.names) == 1:
            return
        other = self.async_get(url, loaded_as)
        if other is own or is_same == (own.shared is other.shared):
            return
        before = own.shared
        if is_same:
            newer, older = sorted((own, other), key=_last_ended, reverse=True)
            before = older.shared
            newer.shared.names.extend(before.names)
            newer.shared.prompt_tokens |= before.prompt_tokens
            for use in self._uses.values():
                if use.shared is before:
                    use.shared = newer.shared
        else:
            before.names.remove(own.own_users)
            own.shared = SharedModel(
                [own.own_users], prompt_tokens=dict(before.prompt_tokens)
            )
            before.notify_users_changed()
        own.shared.notify_users_changed()

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


def _is_answer_of_server(err: BaseException) -> bool:
    """Return whether a request has failed because the server answered with an error."""
    return isinstance(err, ModelServerError) and err.status != 0


def _last_ended(use: ModelUse) -> float:
    """Return when the last request of a use ended, as a timestamp, 0 if none did."""
    return use.last_ended.timestamp() if use.last_ended else 0.0


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

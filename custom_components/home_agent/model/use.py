"""State shared by all roles that use the same model on the same server.

A role is the use of a model by one subentry: a conversation agent, an external LLM or
an embedding model. Priming sends the prompt of an agent before the first question, so
that the server has evaluated it already.
"""

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
from ..listeners import Listeners
from ..servers.address import server_id
from ..servers.errors import CannotConnect, ModelServerError
from ..servers.ollama_names import full_name
from .server_use import ServerUse
from .shared_model import ModelUser, SharedModel, UsersOfName
from .token_estimate import TokenEstimate
from .turn_record import TurnRecord
from .use_history import UseHistory

_LOGGER = logging.getLogger(__name__)

STORAGE_KEY: Final = f"{DOMAIN}.model_uses"
STORAGE_VERSION: Final = 1
# Seconds from a change of the histories until they are stored.
SAVE_DELAY: Final = 60
# Seconds that an embedding request waits at most for turns of other models.
MAX_WAIT_FOR_IDLE: Final = 60.0

# What reading may raise: a later version or another program has written the file.
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
    """The size of the last prompt of a subentry, as the server counted it.

    tokens is the size before the prompt was shortened to fit, scaled from the count and
    without what overlong messages of the user add.
    is_refused is true if the server refused the prompt as too long; tokens is an
    estimate then.
    """

    subentry_id: str
    tokens: int
    is_refused: bool = False


@dataclass(slots=True)
class ModelUse:
    """State of one name of a model on one server, shared by all roles that use it.

    shared is what holds for all names of the model: Ollama loads a file only once,
    however many names stand for it (see ModelUses.async_compare_name).
    running_requests counts all running requests, loading_requests those of them that
    only load the model, running_turns the running turns; idle is set while there is
    no turn. primed_prefix is the
    key of the prompt prefix that the server evaluated last, None if that is not known.
    load_lock is held while the model is loaded or unloaded, so that two callers do not
    load it twice. context_length is the context of the loaded model,
    max_context the longest one that it was trained for: in tokens, None if not known.
    last_ended is when the last request ended, last_answered when the last successful
    one ended: they are equal if the last request was answered. keep_alive_refusal is
    the error text of the server for a refused keep_alive, without secrets, None if it
    accepted the last one; refusal_changed is notified when that changes.
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
        """Start idle, and share nothing with other names of the model."""
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
        """Count a turn as running; by default, interrupt priming on the same server."""
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

    @contextmanager
    def unloading(self) -> Iterator[None]:
        """Context of Home Agent's own request to unload the model.

        Interrupt priming before it, which would load the model again.
        """
        self.unload_requested = True
        self.primed_prefix = None
        self.server.interrupt_priming()
        try:
            yield
        except HomeAssistantError:
            self.unload_requested = False
            raise

    @contextmanager
    def count_request(
        self,
        keep_alive: KeepAlive | None = None,
        *,
        only_loads: bool = False,
        is_configured: bool = False,
    ) -> Iterator[None]:
        """Count a request as running until it has ended, successfully or not.

        keep_alive is the value in the request, None if there is none. only_loads marks
        a request that only loads the model. is_configured says that keep_alive comes
        from the settings of the roles; another value stays in effect until a setting
        changes or a request with the configured value is sent.
        """
        settled = keep_alive if is_configured else self.shared.longest()
        self.running_requests += 1
        self.loading_requests += int(only_loads)
        # This request loads the model again: an earlier unload does not count any more.
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
        self.loading_requests -= int(only_loads)
        self.last_ended = dt_util.utcnow()


class ModelUses:
    """The ModelUse objects of all models; histories and token estimates are stored."""

    def __init__(self, hass: HomeAssistant) -> None:
        """Start without models."""
        self._uses: dict[str, ModelUse] = {}
        self._servers: defaultdict[str, ServerUse] = defaultdict(ServerUse)
        self._store: Store[dict[str, Any]] = Store(hass, STORAGE_VERSION, STORAGE_KEY)

    async def async_load(self) -> None:
        """Read the stored histories; log and skip what cannot be read."""
        stored: dict[str, Any] | None = None
        try:
            stored = await self._store.async_load()
        except _UNREADABLE as err:
            _LOGGER.warning("Cannot read the stored histories of models: %r", err)
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
                    "Ignoring the stored history of %s, which cannot be read (%s)",
                    model,
                    type(err).__name__,
                )

    @callback
    def async_get(self, url: str, model: str) -> ModelUse:
        """Return the ModelUse of a model on the server at url; create it if missing."""
        root = server_id(url)
        return self._uses.setdefault(
            _key(root, model), ModelUse(server=self._servers[root])
        )

    @callback
    def async_compare_name(
        self, url: str, own: ModelUse, loaded_as: str, *, is_same: bool
    ) -> None:
        """Let two names of one model on the server at url share its SharedModel.

        loaded_as is the name by which the server lists a loaded model. is_same says
        whether the name of own stands for that model too; if not, the two names share
        nothing from now on.
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
        """Wait for running turns of the server's other models, and for any priming.

        Turns are waited for at most MAX_WAIT_FOR_IDLE seconds. Priming needs no limit:
        it is one request, which has a timeout.
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
        await own.server.async_wait_for_priming()

    async def async_keep_only(self, models: Iterable[tuple[str, str]]) -> None:
        """Delete the histories of all models but these pairs of address and name."""
        kept = {_key(url, model) for url, model in models}
        self._uses = {key: use for key, use in self._uses.items() if key in kept}
        await self._store.async_save(self._data_to_store())

    @callback
    def save_soon(self) -> None:
        """Store the histories after SAVE_DELAY, or when Home Assistant stops."""
        self._store.async_delay_save(self._data_to_store, SAVE_DELAY)

    @callback
    def _data_to_store(self) -> dict[str, Any]:
        """Return what is stored: models with a history, or that the user unloaded."""
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

    Ollama adds ":latest" to a name without a tag. The same is done for all servers:
    none is known that has both names for different models.
    """
    return f"{server_id(url)} {full_name(model)}"


_MODEL_USES: Final[HassKey[ModelUses]] = HassKey(f"{DOMAIN}_model_uses")


@callback
def model_uses(hass: HomeAssistant) -> ModelUses:
    """Return the one ModelUses object of Home Assistant."""
    return hass.data.setdefault(_MODEL_USES, ModelUses(hass))

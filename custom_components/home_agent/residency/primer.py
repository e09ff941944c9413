"""Let the server evaluate an agent's prompt before the first question.

The server keeps what it has evaluated in its prompt cache, so that a question that
begins with the same prompt is answered sooner.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
import logging
from time import monotonic
from typing import Final

from homeassistant.core import CALLBACK_TYPE, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.event import async_call_later

from ..home.exposed_tracker import exposed_entity_tracker
from ..prompt.prefix import prefix_key
from ..servers.errors import PromptTooLong
from ..servers.messages import ChatMessage, ToolSpec, text_length
from .background import SharedTask
from .loader import ModelLoader
from .state import ResidencyEvent

_LOGGER = logging.getLogger(__name__)

# Seconds to wait for more changes: a renamed area changes many entities at once.
PREFIX_COOLDOWN: Final = 10.0

# The messages and tools that a conversation begins with.
type PrefixContent = tuple[list[ChatMessage], list[ToolSpec]]
# Returns them for a language, or for that of the last user if it is None. Raises
# HomeAssistantError if it cannot make them.
type MakePrefix = Callable[[str | None], Awaitable[PrefixContent]]


class Primer:
    """Keeps the prompt of one conversation agent evaluated on its server."""

    def __init__(self, loader: ModelLoader) -> None:
        """Prime the model of a loader.

        make_prefix is set by the agent's entity. It is None while the user has disabled
        the agent.
        """
        self.make_prefix: MakePrefix | None = None
        self.loader = loader
        self._residency = loader.residency
        self._role = loader.residency.role
        self._use = loader.residency.use
        hass, entry = self._residency.hass, self._residency.entry
        self._preparing = SharedTask(hass, entry, f"prepare {self._role.model}")
        self._cancel_scheduled: CALLBACK_TYPE | None = None

    @callback
    def async_start(self) -> None:
        """Prime after changes and loads of the model, until the entry is unloaded."""
        for stop in (
            self._unschedule,
            exposed_entity_tracker(self._residency.hass).async_listen(self._schedule),
            self._residency.event_occurred.add(self._event_occurred),
        ):
            self._residency.entry.async_on_unload(stop)

    async def async_prepare(self, language: str | None = None) -> None:
        """Load the model and prime it for a question that is being asked.

        Sends only a poll if all is ready. The work goes on if the caller does
        not wait for it.
        """

        async def prepare() -> None:
            """Only log a failure: the request that follows reports it."""
            if not self.loader.prepares or self.make_prefix is None:
                return
            try:
                await self.loader.async_load_if_needed("a question is being asked")
                if not await self._async_prime_once(language):
                    self._schedule()
            except HomeAssistantError as err:
                _LOGGER.debug("Cannot prepare %s: %s", self._role.model, err)

        await self._preparing.async_run(prepare)

    async def async_prime(self, *, only_if_loaded: bool = False) -> None:
        """Let the server evaluate the prompt of the agent, unless it already has.

        Wait until no turn runs on the server. A turn that begins meanwhile
        interrupts the priming, which is repeated after the turn. If only_if_loaded is
        true, do nothing if the model is not loaded: the request would load it. Raise
        a ModelServerError if the server fails, HomeAssistantError if the prompt
        cannot be made.
        """
        is_done = False
        while not is_done:
            await self._use.server.idle.wait()
            if only_if_loaded and not await self.loader.async_is_loaded():
                return
            is_done = await self._async_prime_once(None)

    async def _async_prime_once(self, language: str | None) -> bool:
        """Prime the model once.

        Return False if a turn or an unload prevented it: try again.
        """
        if self._use.server.running_turns:
            return False
        messages, tools = await self._async_make_prefix(language)
        characters = text_length(messages, tools)
        key = prefix_key(messages, tools)
        try:
            async with self._use.server.priming():
                if self._use.server.running_turns:
                    return False
                if self._use.unload_requested or self._use.primed_prefix == key:
                    _LOGGER.debug(
                        "No need to prime %s: it is primed or unloaded",
                        self._role.model,
                    )
                    return True
                self._use.primed_prefix = None
                await self._async_evaluate(messages, tools, characters)
                self._use.primed_prefix = key
        except TimeoutError:
            return False
        return True

    async def _async_make_prefix(self, language: str | None) -> PrefixContent:
        """Return the prompt of the agent; raise HomeAssistantError if that fails."""
        if self.make_prefix is None:
            raise HomeAssistantError("The agent is disabled")
        try:
            return await self.make_prefix(language)
        except HomeAssistantError:
            raise
        except Exception as err:
            # The tools and the prompt of an LLM API are code of its integration.
            _LOGGER.exception(
                "Unexpected error in the prompt of %s", self._residency.subentry.title
            )
            raise HomeAssistantError(f"{type(err).__name__} in its prompt") from err

    async def _async_evaluate(
        self, messages: list[ChatMessage], tools: list[ToolSpec], characters: int
    ) -> None:
        """Ask for an answer of one token, and learn how many tokens the prompt has."""
        # Priming must not change the keep_alive in effect: the last one is sent again.
        shared = self._use.shared
        keep_alive = shared.sent
        if keep_alive is None or keep_alive.nanoseconds == 0 or shared.has_changed():
            keep_alive = self.loader.load_keep_alive
        request = self._role.chat_request(messages, keep_alive, tools)
        server = await self._role.server()
        started = monotonic()
        is_configured = self._role.is_configured(keep_alive)
        with self._use.count_request(keep_alive, is_configured=is_configured):
            # max_tokens is 1, because Ollama (0.24) takes 0 as no limit.
            try:
                answer = await server.chat(replace(request, max_tokens=1))
            except PromptTooLong:
                self._role.note_refused_prompt(characters)
                raise
        tokens = answer.stats.prompt_tokens
        self._role.learn_tokens(characters, tokens)
        _LOGGER.debug(
            "Primed %s with the prompt of %s in %.1f s: %s tokens, %s of them cached",
            self._role.model,
            self._residency.subentry.title,
            monotonic() - started,
            tokens,
            answer.stats.cached_tokens,
        )

    @callback
    def _event_occurred(self, event: ResidencyEvent) -> None:
        """Prime the model after it was loaded, not after it was unloaded."""
        if event is ResidencyEvent.LOADED:
            self._schedule()
        else:
            self._unschedule()

    @callback
    def _schedule(self) -> None:
        """Prime after PREFIX_COOLDOWN seconds, once for all changes in that time.

        A change while the model is primed schedules another priming.
        """
        hass = self._residency.hass
        if (
            self._cancel_scheduled is None
            and self.make_prefix is not None
            and self.loader.keeps_ready
            and hass.is_running
        ):
            self._cancel_scheduled = async_call_later(
                hass, PREFIX_COOLDOWN, self._start_scheduled
            )

    @callback
    def _unschedule(self) -> None:
        """Cancel the priming that is scheduled."""
        if self._cancel_scheduled is not None:
            self._cancel_scheduled()
            self._cancel_scheduled = None

    @callback
    def _start_scheduled(self, _now: datetime) -> None:
        """Prime in a background task that ends when the entry is unloaded."""
        self._cancel_scheduled = None
        self._residency.entry.async_create_background_task(
            self._residency.hass,
            self._async_prime_again(),
            f"prime {self._role.model}",
        )

    async def _async_prime_again(self) -> None:
        """Prime the model if it is loaded; only log a failure."""
        try:
            await self.async_prime(only_if_loaded=True)
        except HomeAssistantError as err:
            _LOGGER.debug("Cannot prime %s: %s", self._role.model, err)

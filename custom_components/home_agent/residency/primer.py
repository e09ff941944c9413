"""Let the server evaluate an agent's prompt before the first question.

The server keeps what it has evaluated in its prompt cache, so that a question that
begins with the same prompt is answered sooner.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
import logging
from time import monotonic
from typing import Final

from homeassistant.core import callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.debounce import Debouncer

from ..home.exposed import async_track_exposed_entities
from ..prompt.prefix import prefix_key
from ..servers.errors import PromptTooLong
from ..servers.messages import ChatMessage, ToolSpec, text_length
from .background import SharedTask
from .loader import ModelLoader
from .state import ResidencyEvent

_LOGGER = logging.getLogger(__name__)

# Seconds to wait for more changes: a renamed area changes many entities at once.
PREFIX_COOLDOWN: Final = 10.0

type Prefix = tuple[list[ChatMessage], list[ToolSpec]]
type MakePrefix = Callable[[str | None], Awaitable[Prefix]]


class Primer:
    """Keeps the prompt of one conversation agent evaluated on its server."""

    def __init__(self, loader: ModelLoader) -> None:
        """Prime the model of a loader; make_prefix is set by the agent's entity.

        make_prefix is called with a language, or None for that of the last user, and
        returns the messages and tools that a conversation begins with. It raises
        HomeAssistantError if it cannot make them.
        """
        self.make_prefix: MakePrefix | None = None
        self.loader = loader
        self._residency = loader.residency
        self._role = loader.residency.role
        self._use = loader.residency.use
        hass, entry = self._residency.hass, self._residency.entry
        self._preparing = SharedTask(hass, entry, f"prepare {self._role.model}")
        self._debouncer = Debouncer(
            hass,
            _LOGGER,
            cooldown=PREFIX_COOLDOWN,
            immediate=False,
            function=self._async_prime_if_loaded,
            background=True,
        )

    @callback
    def async_start(self) -> None:
        """Prime again whenever that is needed, until the entry is unloaded."""
        for stop in (
            self._debouncer.async_shutdown,
            async_track_exposed_entities(self._residency.hass, self._schedule),
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
            if not self.loader.prepares:
                return
            try:
                await self.loader.async_load_if_needed("a question is being asked")
                await self.async_prime(language)
            except HomeAssistantError as err:
                _LOGGER.debug("Cannot prepare %s: %s", self._role.model, err)

        await self._preparing.async_run(prepare)

    async def async_prime(self, language: str | None = None) -> None:
        """Let the server evaluate the prompt of the agent, unless it already has.

        Wait until no turn of the model runs: a turn evaluates its own prompt. Raise
        a ModelServerError if the server fails, HomeAssistantError if the prompt
        cannot be made.
        """
        if self.make_prefix is None:
            return
        messages, tools = await self.make_prefix(language)
        characters = text_length(messages, tools)
        key = prefix_key(messages, tools)
        async with self._use.load_lock:
            await self._use.idle.wait()
            if self._use.primed_prefix == key:
                _LOGGER.debug("The prompt of %s is primed already", self._role.model)
                return
            await self._async_evaluate(messages, tools, characters)
            self._use.primed_prefix = key

    async def _async_evaluate(
        self, messages: list[ChatMessage], tools: list[ToolSpec], characters: int
    ) -> None:
        """Ask for an answer of one token, and learn how many tokens the prompt has."""
        request = self._role.chat_request(messages, self.loader.load_keep_alive, tools)
        server = await self._role.server()
        started = monotonic()
        with self._use.count_request(request.keep_alive):
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
        """Prime the model after it was loaded."""
        if event is ResidencyEvent.LOADED:
            self._schedule()

    @callback
    def _schedule(self) -> None:
        """Prime after PREFIX_COOLDOWN seconds, once for all changes in that time."""
        if self.loader.keeps_ready and self._residency.hass.is_running:
            self._debouncer.async_schedule_call()

    async def _async_prime_if_loaded(self) -> None:
        """Prime the model if it is loaded; do not load it for this."""
        try:
            if await self.loader.async_is_loaded():
                await self.async_prime()
        except HomeAssistantError as err:
            _LOGGER.debug("Cannot prime %s: %s", self._role.model, err)

"""Run the requests of one turn: a user message, tool calls, an answer."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
import logging
from types import TracebackType
from typing import Self

from ..keep_alive import KeepAlive
from ..servers.base import ModelServer, ServerCapability
from ..servers.errors import ModelNotFound, ModelServerError, PromptTooLong
from ..servers.messages import (
    ChatAnswer,
    ChatDelta,
    ChatRequest,
    ChatStats,
    ToolCall,
    text_length,
)
from ..servers.retry import async_may_retry
from .role import ModelRole, Role
from .turn_record import TurnRecord

_LOGGER = logging.getLogger(__name__)


class Turn:
    """Sends the requests of one turn of a role and records seconds and tokens.

    A context manager: the turn ends with the outermost `with`. A request that is sent
    outside of a `with` block counts as a turn of its own.

    prefix_key is the key of the prompt prefix that the server has evaluated at the end
    of the turn, None if that is not known. wanted_characters is the length of the
    prompt before it was shortened to fit the context, excess_characters of it are those
    by which messages of the user are longer than usual: no setting makes room for them.

    Each request is sent with the longest keep_alive of all roles that share the model.
    If that is 0, the model nevertheless stays loaded until the turn has ended: a
    request with tools may be followed by another one, and another turn may need it.
    """

    def __init__(self, role: ModelRole) -> None:
        """Start a turn of a role, before its first request."""
        self._role = role
        self._use = role.use
        self._record = TurnRecord(role.subentry_id)
        self._depth = 0
        # The server on which the model is to be unloaded when the turn has ended.
        self._unloads_on: ModelServer | None = None
        self.prefix_key: int | None = None
        self.wanted_characters = 0
        self.excess_characters = 0

    def __enter__(self) -> Self:
        """Count the turn as running."""
        if not self._depth:
            # Indexing does not interrupt priming: it waits until that has ended.
            self._use.begin_turn(
                interrupts_priming=self._role.role is not Role.EMBEDDING
            )
        self._depth += 1
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the turn; listeners get its figures if a request was answered."""
        self._depth -= 1
        if self._depth:
            return
        self._use.end_turn()
        self._unload_if_kept()
        record = self._record
        if not record.requests:
            return
        record.finish()
        self._use.primed_prefix = self.prefix_key
        self._role.record_use(record)
        self._use.turn_ended.notify(record)

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Return an answer in one piece.

        The request is repeated once if the connection was refused or lost: no part
        of an answer was used, so no tool runs twice. Raise a ModelServerError if
        the server fails.
        """
        with self:
            server = await self._role.server()
            request, characters = self._before(server, request)
            with self._count_request(server, request.keep_alive, characters):
                try:
                    answer = await server.chat(request)
                except ModelServerError as err:
                    if not await async_may_retry(err):
                        raise
                    answer = await server.chat(request)
            self._after(request, characters, answer)
            return answer

    async def chat_stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """Yield an answer as the model makes it.

        The request is repeated once if the connection was refused or lost before the
        first delta. Tool calls come with the last delta, so no tool
        has run at that point. Raise a ModelServerError if the server fails.
        """
        with self:
            server = await self._role.server()
            request, characters = self._before(server, request)
            is_first = may_retry = True
            with self._count_request(server, request.keep_alive, characters):
                while True:
                    try:
                        async with aclosing(server.chat_stream(request)) as deltas:
                            async for delta in deltas:
                                if is_first:
                                    self._use.answer_began.notify()
                                is_first = may_retry = False
                                self._record.add_first_token()
                                if delta.stats is not None:
                                    self._after(request, characters, delta)
                                yield delta
                    except ModelServerError as err:
                        if not may_retry or not await async_may_retry(err):
                            raise
                        may_retry = False
                    else:
                        return

    async def embed(
        self, texts: Sequence[str], keep_alive: KeepAlive
    ) -> list[list[float]]:
        """Return one vector for each text, in the same order.

        Raise a ModelServerError if the server fails.
        """
        model = self._role.model
        keep_alive = self._role.keep_alive_to_send(keep_alive)
        with self:
            server = await self._role.server()
            _LOGGER.debug(
                "%s request to %s (%s): %d texts, %s",
                self._role.role,
                model,
                server.kind,
                len(texts),
                _as_sent(server, model, keep_alive),
            )
            with self._count_request(server, keep_alive):
                vectors = await server.embed(model, texts, keep_alive)
            self._record.add_answer(ChatStats())
            _LOGGER.debug(
                "%s answer from %s after %.2f s: %d vectors",
                self._role.role,
                model,
                self._record.seconds,
                len(vectors),
            )
            return vectors

    def _unload_if_kept(self) -> None:
        """Unload the model after the last turn, if it stayed loaded only for turns.

        Another role that has begun to use the model may want it to stay.
        """
        model, shared = self._role.model, self._use.shared
        if self._unloads_on is not None and model in self._unloads_on.kept_loaded:
            self._unloads_on.kept_loaded.discard(model)
            shared.kept_on = self._unloads_on
        if shared.kept_on is None or self._use.running_turns:
            return
        server, shared.kept_on = shared.kept_on, None
        # The setting of this role may have changed while the turn ran.
        wanted = shared.longest()
        if wanted is None or wanted.nanoseconds == 0:
            unload = self._async_unload(server, shared.sent)
            self._role.run_in_background(unload, "unload")

    async def _async_unload(self, server: ModelServer, sent: KeepAlive | None) -> None:
        """Unload the model after a turn with keep_alive 0; only log a failure.

        sent is the keep_alive of the last request of the turn. Do nothing if another
        request has loaded the model since: its keep_alive holds.
        """
        use = self._use
        async with use.load_lock:
            if use.running_turns:
                # The last of them unloads it.
                use.shared.kept_on = server
                return
            if use.shared.sent is not sent:
                return
            _LOGGER.debug("Unloading %s: its keep_alive is 0", self._role.model)
            try:
                with use.unloading():
                    await server.unload(self._role.model)
            except ModelServerError as err:
                _LOGGER.debug("Cannot unload %s: %s", self._role.model, err.log_text)
        # Its listeners poll the server.
        use.requests_changed.notify()

    @contextmanager
    def _count_request(
        self,
        server: ModelServer,
        keep_alive: KeepAlive | None,
        characters: int | None = None,
    ) -> Iterator[None]:
        """Count a request as running, and log why it fails if it does.

        characters is the length of a prompt, None for texts to embed. Store what the
        server says of the keep_alive and of a prompt that is too long.
        """
        if server.is_keep_alive_fixed and self._use.shared.has_changed():
            # The request does not apply the change to a loaded model: ModelLoader does.
            keep_alive = None
        is_configured = keep_alive is not None and self._role.is_configured(keep_alive)
        with self._use.count_request(keep_alive, is_configured=is_configured):
            try:
                yield
                self._use.note_keep_alive_answer(server.keep_alive_refusal)
            except ModelServerError as err:
                if isinstance(err, PromptTooLong) and characters is not None:
                    wanted = max(characters, self.wanted_characters)
                    self._role.note_refused_prompt(wanted, self.excess_characters)
                if isinstance(err, ModelNotFound):
                    err.set_model(self._role.model)
                if server.is_keep_alive_refusal(err):
                    self._use.note_keep_alive_answer(err.detail)
                _LOGGER.debug(
                    "%s request to %s failed after %.2f s: %s",
                    self._role.role,
                    self._role.model,
                    self._record.seconds,
                    err.log_text,
                )
                self._use.request_failed.notify(err)
                raise

    def _before(
        self, server: ModelServer, request: ChatRequest
    ) -> tuple[ChatRequest, int]:
        """Log a request; return it as it is sent, and the length of its prompt."""
        if request.keep_alive is not None:
            longest = self._role.keep_alive_to_send(request.keep_alive)
            may_follow = (
                request.more_may_follow
                or bool(request.tools)
                or request.json_schema is not None
                # A tool may ask the model in a turn of its own.
                or self._use.running_turns > 1
            )
            request = replace(
                request,
                keep_alive=longest,
                more_may_follow=may_follow and _unloads(server),
            )
            if request.keeps_loaded:
                self._unloads_on = server
        characters = text_length(request.messages, request.tools)
        tokens = self._use.token_estimate.tokens(characters)
        _LOGGER.debug(
            "%s request to %s (%s): %d messages, %d tools, about %d tokens, %s",
            self._role.role,
            request.model,
            server.kind,
            len(request.messages),
            len(request.tools),
            tokens,
            _as_sent(server, request.model, request.keep_alive),
        )
        return request, characters

    def _after(
        self, request: ChatRequest, characters: int, answer: ChatAnswer | ChatDelta
    ) -> None:
        """Record and log the end of an answer."""
        stats = answer.stats or ChatStats()
        self._record.add_answer(stats)
        self._role.learn_tokens(
            characters,
            stats.prompt_tokens,
            self.wanted_characters,
            self.excess_characters,
        )
        _LOGGER.debug(
            "%s answer from %s after %.2f s: finish reason %s, tools %s,"
            " %s prompt tokens (%s cached), %s completion tokens, loaded in %s s",
            self._role.role,
            request.model,
            self._record.seconds,
            answer.finish_reason,
            _names(answer.tool_calls),
            stats.prompt_tokens,
            stats.cached_tokens,
            stats.completion_tokens,
            stats.load_seconds,
        )


def _unloads(server: ModelServer) -> bool:
    """Return whether the server follows a keep_alive, and unloads when told to."""
    needed = ServerCapability.KEEP_ALIVE | ServerCapability.UNLOAD
    return needed in server.capabilities


def _as_sent(server: ModelServer, model: str, keep_alive: KeepAlive | None) -> str:
    """Return the fields of a request that say how long the model stays loaded."""
    fields = server.residency_fields(model, keep_alive)
    sent = ", ".join(f"{key} {value}" for key, value in fields.items())
    return sent or "no keep_alive"


def _names(calls: Sequence[ToolCall]) -> str:
    """Return the names of the tools that are called."""
    return ", ".join(call.name for call in calls) or "none"

"""The agent: one turn of conversation with the primary LLM."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import asdict
from functools import partial
import logging
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import llm
from homeassistant.util.json import (
    JSON_DECODE_EXCEPTIONS,
    JsonObjectType,
    json_loads,
)

from .const import (
    CONF_LLM_KEEP_ALIVE,
    CONF_LLM_STREAM,
    CONF_MAX_HISTORY,
    DEFAULT_MAX_HISTORY,
    DOMAIN,
)
from .home.exposed import is_exposed
from .keep_alive import KeepAlive
from .model.role import ModelRole, Role
from .model.use import Turn
from .prompt.context_size import async_prompt_size
from .prompt.history import Histories, History
from .prompt.messages import async_messages, tool_specs
from .prompt.prefix import prefix_key
from .prompt.retrieval import Retrieval
from .servers.errors import ConnectionLost
from .servers.messages import (
    ChatAnswer,
    ChatDelta,
    ChatMessage,
    ChatRequest,
    ToolCall,
    ToolSpec,
)

_LOGGER = logging.getLogger(__name__)

# How often the model may ask for tools before it must answer.
MAX_TOOL_ROUNDS: Final = 10

type _HassDelta = (
    conversation.AssistantContentDeltaDict | conversation.ToolResultContentDeltaDict
)


class HomeAgent:
    """Answers with the primary LLM, which may use Home Assistant's tools."""

    def __init__(self, hass: HomeAssistant, config: Mapping[str, Any]) -> None:
        """Make an agent from a flat configuration."""
        self.hass = hass
        self._config = config
        self._role = ModelRole(hass, config, Role.LLM)
        self._stream: bool = config.get(CONF_LLM_STREAM, True)
        self._retrieval = Retrieval(hass, config)
        self._histories = Histories(
            int(config.get(CONF_MAX_HISTORY, DEFAULT_MAX_HISTORY))
        )

    async def async_answer(self, chat_log: conversation.ChatLog, agent_id: str) -> None:
        """Answer the last message of a chat log, into the chat log.

        Raise a ModelServerError if the server fails, a HomeAssistantError if the
        model gives no answer. What was said and done until then stays.
        """
        offered = tool_specs(chat_log.llm_api)
        history = self._histories.of(chat_log)
        history.forget_hidden(partial(is_exposed, self.hass))
        with self._role.turn() as turn:
            if isinstance(question := chat_log.content[-1], conversation.UserContent):
                context = await self._retrieval.async_context(
                    chat_log, question.content
                )
                history.begin_turn(question, context)
            for round_number in range(MAX_TOOL_ROUNDS):
                messages = await self._async_messages(chat_log, history, offered, turn)
                turn.prefix = prefix_key(messages, offered)
                # In the last round nothing is left but to answer.
                tools = offered if round_number < MAX_TOOL_ROUNDS - 1 else []
                answer = self._deltas(chat_log, messages, tools, turn)
                async with aclosing(answer) as deltas:
                    async for _ in chat_log.async_add_delta_content_stream(
                        agent_id, deltas
                    ):
                        pass
                if not chat_log.unresponded_tool_results:
                    break
        last = chat_log.content[-1]
        if not isinstance(last, conversation.AssistantContent) or not last.content:
            raise HomeAssistantError(
                translation_domain=DOMAIN, translation_key="no_answer"
            )

    async def _async_messages(
        self,
        chat_log: conversation.ChatLog,
        history: History,
        tools: Sequence[ToolSpec],
        turn: Turn,
    ) -> list[ChatMessage]:
        """Return the messages: as much as the model's context has room for."""
        while True:
            messages = await async_messages(
                self.hass, history.told(chat_log.content), history.context_of
            )
            request = self._request(messages, tools, None)
            size = await async_prompt_size(self._role, request)
            if size.fits:
                break
            turn.wanted_tokens = max(turn.wanted_tokens, size.tokens)
            if not history.shorten(chat_log.content):
                break
        history.sent()
        return messages

    async def _call_llm(
        self,
        messages: list[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        keep_alive: str | int | None = None,
        turn: Turn | None = None,
    ) -> ChatAnswer:
        """Return the primary LLM's answer in one piece.

        keep_alive takes the place of the configured one; without a turn this is
        one of its own.
        """
        request = self._request(messages, tools, keep_alive)
        with self._role.turn() if turn is None else nullcontext(turn) as asked:
            try:
                return await asked.chat(request)
            except ConnectionLost as err:
                # No part of an answer was used: asking again does nothing twice.
                _LOGGER.debug("Asking again: %s", err.log_text)
                return await asked.chat(request)

    async def _call_llm_streaming(
        self,
        messages: list[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        keep_alive: str | int | None = None,
        turn: Turn | None = None,
    ) -> AsyncGenerator[ChatDelta]:
        """Yield the primary LLM's answer as it is made.

        keep_alive takes the place of the configured one; without a turn this is
        one of its own. A stream that breaks is asked for once more as long as
        nothing of it was passed on; tool calls come last, so none of them has
        been started then.
        """
        request = self._request(messages, tools, keep_alive)
        with self._role.turn() if turn is None else nullcontext(turn) as asked:
            stream = asked.chat_stream(request)
            try:
                first = await anext(stream)
            except ConnectionLost as err:
                _LOGGER.debug("Asking again: %s", err.log_text)
                stream = asked.chat_stream(request)
                first = await anext(stream)
            async with aclosing(stream):
                yield first
                async for delta in stream:
                    yield delta

    def _request(
        self,
        messages: list[ChatMessage],
        tools: Sequence[ToolSpec],
        keep_alive: str | int | None,
    ) -> ChatRequest:
        """Return a request with the keep_alive of this role."""
        return self._role.chat_request(
            messages,
            KeepAlive.for_role(CONF_LLM_KEEP_ALIVE, self._config, keep_alive),
            tools,
        )

    async def _deltas(
        self,
        chat_log: conversation.ChatLog,
        messages: list[ChatMessage],
        tools: list[ToolSpec],
        turn: Turn,
    ) -> AsyncGenerator[_HassDelta]:
        """Yield one answer of the model as deltas of a chat log."""
        yield {"role": "assistant"}
        if not self._stream:
            answer = await self._call_llm(messages, tools=tools, turn=turn)
            delta = ChatDelta(
                content=answer.content,
                thinking=answer.thinking,
                tool_calls=answer.tool_calls,
                stats=answer.stats,
            )
            for hass_delta in self._hass_deltas(chat_log, delta):
                yield hass_delta
            return
        stream = self._call_llm_streaming(messages, tools=tools, turn=turn)
        async with aclosing(stream):
            async for delta in stream:
                for hass_delta in self._hass_deltas(chat_log, delta):
                    yield hass_delta

    def _hass_deltas(
        self, chat_log: conversation.ChatLog, delta: ChatDelta
    ) -> list[_HassDelta]:
        """Return a delta of the server as deltas of a chat log."""
        result: list[_HassDelta] = []
        if delta.content or delta.thinking:
            result.append(
                {
                    "content": delta.content or None,
                    "thinking_content": delta.thinking or None,
                }
            )
        if delta.tool_calls and chat_log.llm_api is None:
            _LOGGER.warning("The model called a tool, but none was offered")
        elif delta.tool_calls:
            result += _tool_deltas(delta.tool_calls)
        if delta.stats:
            chat_log.async_trace(
                {"model": self._role.model, "stats": asdict(delta.stats)}
            )
        return result


def _tool_deltas(calls: Sequence[ToolCall]) -> list[_HassDelta]:
    """Return the deltas that start tool calls.

    A call whose arguments are no JSON object is not made: the model is told so,
    as if by the tool, and may try again.
    """
    inputs: list[llm.ToolInput] = []
    refusals: list[_HassDelta] = []
    for call in calls:
        tool_input = llm.ToolInput(
            tool_name=call.name,
            tool_args=_repaired(call.arguments or {}),
            external=call.arguments is None,
        )
        # Results find their call by its id; some servers number each reply anew,
        # or give every call of a reply the same id.
        if call.id and call.id not in {earlier.id for earlier in inputs}:
            tool_input.id = call.id
        inputs.append(tool_input)
        if call.arguments is None:
            error: JsonObjectType = {
                "error": "The arguments were not a JSON object. Try again."
            }
            refusals.append(
                {
                    "role": "tool_result",
                    "tool_call_id": tool_input.id,
                    "tool_name": call.name,
                    "result": llm.ToolResult(data=error, error=True),
                }
            )
    return [{"tool_calls": inputs}, *refusals]


def _repaired(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a tool call's arguments without the usual faults of small models.

    They fill in null or "" where an argument should be left out, and write
    lists and objects as strings (seen with llama3.1 8B by Home Assistant's own
    Ollama integration).
    """
    return {
        key: _parsed(value)
        for key, value in arguments.items()
        if value is not None and value != ""
    }


def _parsed(value: Any) -> Any:
    """Return the list or object that a string holds, or the value as it is."""
    if isinstance(value, str) and (value[:1], value[-1:]) in (("[", "]"), ("{", "}")):
        try:
            return json_loads(value)
        except JSON_DECODE_EXCEPTIONS:
            return value
    return value

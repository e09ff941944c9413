"""The agent: one turn of conversation with the primary LLM."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
import logging
from typing import Any, Final, Literal

from homeassistant.components import conversation
from homeassistant.const import MAJOR_VERSION, MINOR_VERSION
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.translation import async_get_translations

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
from .model.turn import Turn
from .prompt.context_size import async_prompt_size, excess_characters
from .prompt.history import Histories, History
from .prompt.messages import async_messages, tool_specs
from .prompt.prefix import prefix_key
from .prompt.retrieval import Retrieval
from .prompt.tool_calls import ChatLogDelta, tool_deltas
from .servers.messages import (
    ChatAnswer,
    ChatDelta,
    ChatMessage,
    ChatRequest,
    ToolSpec,
)

_LOGGER = logging.getLogger(__name__)

# Requests of a turn in which the model may call tools; the next one forbids it.
MAX_TOOL_ITERATIONS: Final = 9
# Since 2026.11 an empty answer is allowed: Home Assistant only plays a sound.
_HAS_SILENT_RESPONSE: Final = (MAJOR_VERSION, MINOR_VERSION) >= (2026, 11)
_CONFIRMATION: Final = f"component.{DOMAIN}.exceptions.done.message"


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
        """Answer the last message of a chat log, and add the answer to it.

        Raise a ModelServerError if the server fails, a HomeAssistantError if the
        model gives no answer. What was added to the chat log before that stays.
        """
        tools = tool_specs(chat_log.llm_api)
        history = self._histories.async_get(chat_log)
        with Turn(self._role) as turn:
            if isinstance(question := chat_log.content[-1], conversation.UserContent):
                context = await self._retrieval.async_context(
                    chat_log, question.content
                )
                history.begin_turn(question, context)
            for tool_iteration in range(MAX_TOOL_ITERATIONS + 1):
                messages = await self._async_messages(chat_log, history, tools, turn)
                turn.prefix_key = prefix_key(messages, tools)
                deltas = self._deltas(
                    chat_log,
                    messages,
                    tools,
                    turn,
                    may_call=tool_iteration < MAX_TOOL_ITERATIONS,
                )
                async with aclosing(deltas):
                    async for _ in chat_log.async_add_delta_content_stream(
                        agent_id, deltas
                    ):
                        pass
                if not needs_another_request(chat_log):
                    break
        if needs_another_request(chat_log):
            raise _no_answer_error()
        self._histories.async_keep(chat_log, history)

    async def _async_messages(
        self,
        chat_log: conversation.ChatLog,
        history: History,
        tools: Sequence[ToolSpec],
        turn: Turn,
    ) -> list[ChatMessage]:
        """Return the messages to send, shortened until they fit the model's context."""
        # The user may hide an entity also while a turn runs.
        history.remove_hidden(chat_log, partial(is_exposed, self.hass))
        while True:
            contents = history.messages_to_send(chat_log.content)
            excess = excess_characters(contents)
            turn.excess_characters = max(turn.excess_characters, excess)
            messages = await async_messages(self.hass, contents, history.context_of)
            size = await async_prompt_size(
                self._role, self._request(messages, tools, None)
            )
            if size.fits:
                break
            turn.wanted_characters = max(turn.wanted_characters, size.characters)
            if not history.shorten(chat_log.content):
                break
            _LOGGER.debug(
                "Sending less of the conversation: the prompt has %d tokens, the"
                " context has room for %s",
                size.tokens,
                size.room,
            )
        history.freeze_context()
        return messages

    async def _call_llm(
        self,
        messages: list[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        keep_alive: str | int | None = None,
        turn: Turn | None = None,
        tool_choice: Literal["none"] | None = None,
    ) -> ChatAnswer:
        """Return the primary LLM's answer in one piece.

        keep_alive replaces the configured value. Without a turn the request is a turn
        of its own. tool_choice "none" forbids tool calls.
        """
        request = self._request(messages, tools, keep_alive, tool_choice)
        return await (turn or Turn(self._role)).chat(request)

    def _call_llm_streaming(
        self,
        messages: list[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        keep_alive: str | int | None = None,
        turn: Turn | None = None,
        tool_choice: Literal["none"] | None = None,
    ) -> AsyncGenerator[ChatDelta]:
        """Yield the primary LLM's answer as it is made.

        The arguments are those of _call_llm.
        """
        request = self._request(messages, tools, keep_alive, tool_choice)
        return (turn or Turn(self._role)).chat_stream(request)

    async def _call_llm_in_one_delta(
        self,
        messages: list[ChatMessage],
        *,
        tools: Sequence[ToolSpec],
        turn: Turn,
        tool_choice: Literal["none"] | None,
    ) -> AsyncGenerator[ChatDelta]:
        """Yield an answer that is not streamed as one delta."""
        answer = await self._call_llm(
            messages, tools=tools, turn=turn, tool_choice=tool_choice
        )
        yield ChatDelta(
            content=answer.content,
            thinking=answer.thinking,
            tool_calls=answer.tool_calls,
            finish_reason=answer.finish_reason,
            stats=answer.stats,
        )

    def _request(
        self,
        messages: list[ChatMessage],
        tools: Sequence[ToolSpec],
        keep_alive: str | int | None,
        tool_choice: Literal["none"] | None = None,
    ) -> ChatRequest:
        """Return a request with the keep_alive of this role."""
        return self._role.chat_request(
            messages,
            KeepAlive.for_role(CONF_LLM_KEEP_ALIVE, self._config, keep_alive),
            tools,
            tool_choice,
        )

    async def _deltas(
        self,
        chat_log: conversation.ChatLog,
        messages: list[ChatMessage],
        tools: list[ToolSpec],
        turn: Turn,
        *,
        may_call: bool,
    ) -> AsyncGenerator[ChatLogDelta]:
        """Yield one answer of the model as deltas of a chat log.

        An empty answer after successful tool calls is an empty response, or a short
        confirmation before Home Assistant 2026.11.
        """
        yield {"role": "assistant"}
        is_empty, finish_reason = True, None
        ask = self._call_llm_streaming if self._stream else self._call_llm_in_one_delta
        tool_choice: Literal["none"] | None = None if may_call else "none"
        answer = ask(messages, tools=tools, turn=turn, tool_choice=tool_choice)
        async with aclosing(answer):
            async for delta in answer:
                if delta.content or delta.thinking:
                    yield {
                        "content": delta.content or None,
                        "thinking_content": delta.thinking or None,
                    }
                if delta.stats:
                    chat_log.async_trace(
                        {"model": self._role.model, "stats": asdict(delta.stats)}
                    )
                if delta.tool_calls:
                    calls = tool_deltas(delta.tool_calls, tools, may_call=may_call)
                    for tool_delta in calls:
                        yield tool_delta
                if delta.content.strip() or delta.tool_calls:
                    is_empty = False
                finish_reason = delta.finish_reason or finish_reason
        if not is_empty:
            return
        if not all_tools_succeeded(chat_log):
            raise _no_answer_error(finish_reason)
        _LOGGER.debug("The model gave an empty answer after successful tool calls")
        yield {"content": await self._async_confirmation(chat_log)}

    async def _async_confirmation(self, chat_log: conversation.ChatLog) -> str:
        """Return what an empty answer to successful tools says: nothing, or "Done."."""
        if _HAS_SILENT_RESPONSE:
            return ""
        language = self.hass.config.language
        if chat_log.llm_api is not None:
            language = chat_log.llm_api.llm_context.language or language
        texts = await async_get_translations(
            self.hass, language, "exceptions", {DOMAIN}
        )
        return texts[_CONFIRMATION]


def needs_another_request(chat_log: conversation.ChatLog) -> bool:
    """Return whether the model must be asked again: the last item is a tool's result.

    Every answer that calls no tool ends the turn, an empty one too: asked again, the
    model might call its tools a second time.
    """
    return chat_log.unresponded_tool_results


def all_tools_succeeded(chat_log: conversation.ChatLog) -> bool:
    """Return whether the chat log ends with tool results, and none is an error."""
    results = []
    for item in reversed(chat_log.content):
        if not isinstance(item, conversation.ToolResultContent):
            break
        results.append(item.result)
    return bool(results) and not any(result.error for result in results)


def _no_answer_error(finish_reason: str | None = None) -> HomeAssistantError:
    """Return the error for a turn that ends without an answer.

    finish_reason "length" says that the model was cut off, by its maximum answer
    length or by the end of its context.
    """
    key = "answer_too_long" if finish_reason == "length" else "no_answer"
    return HomeAssistantError(translation_domain=DOMAIN, translation_key=key)

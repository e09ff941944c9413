"""The agent: one turn of conversation with the primary LLM."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
import logging
from typing import Any, Final, Literal

from homeassistant.components import conversation
from homeassistant.const import MAJOR_VERSION, MINOR_VERSION
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError

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
from .prompt.structured_output import StructuredOutput
from .prompt.tool_calls import ChatLogDelta, tool_deltas
from .servers.errors import ModelServerError
from .servers.messages import (
    MAX_TOP_LOGPROBS,
    ChatAnswer,
    ChatDelta,
    ChatMessage,
    ChatRequest,
    JsonObject,
    ToolSpec,
)
from .spoken import async_sentence

_LOGGER = logging.getLogger(__name__)

# How many requests of one turn let the model call tools. One more request follows at
# most, and forbids tool calls.
MAX_TOOL_ITERATIONS: Final = 9
# Since 2026.11 an empty answer is allowed: Home Assistant only plays a sound.
_HAS_SILENT_RESPONSE: Final = (MAJOR_VERSION, MINOR_VERSION) >= (2026, 11)


@dataclass(slots=True)
class _Exchange:
    """What the requests of one turn share; output is the structure of its answer."""

    chat_log: conversation.ChatLog
    agent_id: str
    history: History
    turn: Turn
    output: StructuredOutput | None
    sends_schema: bool = True

    def json_schema(self, *, may_call: bool) -> JsonObject | None:
        """Return the schema for a request, None if it must not have one."""
        if self.output is None or may_call or not self.sends_schema:
            return None
        return self.output.json_schema


class HomeAgent:
    """Answers with the primary LLM, which may use Home Assistant's tools."""

    def __init__(self, hass: HomeAssistant, config: Mapping[str, Any]) -> None:
        """Make an agent.

        config holds the data of the entry and of the agent's subentry in one mapping,
        whose keys begin with the role (see model/role.py).
        """
        self.hass = hass
        self._config = config
        self._role = ModelRole(hass, config, Role.LLM)
        self._stream: bool = config.get(CONF_LLM_STREAM, True)
        self._retrieval = Retrieval(hass, config)
        self._histories = Histories(
            int(config.get(CONF_MAX_HISTORY, DEFAULT_MAX_HISTORY))
        )

    async def async_answer(
        self,
        chat_log: conversation.ChatLog,
        agent_id: str,
        output: StructuredOutput | None = None,
    ) -> None:
        """Answer the last message of a chat log, and add the answer to it.

        output is the structure that the answer must have. If it does not fit, the
        model gets the reason and is asked once more; that answer may not fit either.
        Raise a ModelServerError if the server fails, a HomeAssistantError if the
        model gives no answer. What was added to the chat log before that stays.
        """
        history = self._histories.async_get(chat_log)
        with Turn(self._role) as turn:
            if isinstance(question := chat_log.content[-1], conversation.UserContent):
                context = await self._retrieval.async_context(
                    chat_log, question.content
                )
                context.output = output.instruction if output else ""
                history.begin_turn(question, context)
            exchange = _Exchange(chat_log, agent_id, history, turn, output)
            await self._async_exchange(exchange, MAX_TOOL_ITERATIONS)
            if output and (fault := output.fault(last_answer(chat_log))):
                _LOGGER.debug("The answer does not fit its structure; asking again")
                chat_log.async_add_user_content(
                    conversation.UserContent(output.repair_request(fault))
                )
                await self._async_exchange(exchange, 0)
        self._histories.async_keep(chat_log, history)

    async def async_first_tokens(
        self, prompts: Sequence[Sequence[conversation.Content]]
    ) -> list[Mapping[str, float]]:
        """Return the log probabilities of the first token of each prompt's answer.

        The requests belong to one turn, and the model does not think before it
        answers. Raise a ModelServerError if the server fails, a HomeAssistantError if
        an attachment cannot be sent.
        """
        answers: list[Mapping[str, float]] = []
        with Turn(self._role) as turn:
            for number, content in enumerate(prompts, start=1):
                messages = await async_messages(self.hass, content)
                request = self._request(messages, (), None)
                request = replace(
                    request,
                    max_tokens=1,
                    think=None if request.think is None else False,
                    top_logprobs=MAX_TOP_LOGPROBS,
                    more_may_follow=number < len(prompts),
                )
                answer = await turn.chat(request)
                answers.append(answer.first_token_logprobs)
        return answers

    async def _async_exchange(self, exchange: _Exchange, tool_iterations: int) -> None:
        """Send requests until the model answers without calling a tool.

        The model may call tools in so many requests; the next one forbids it. A
        server that refuses the schema of the answer is asked again without it: the
        prompt has the schema too. It is not remembered, since the server may support
        another schema.
        """
        chat_log = exchange.chat_log
        tools = tool_specs(chat_log.llm_api)
        left = tool_iterations + 1
        while left:
            left -= 1
            messages = await self._async_messages(exchange, tools)
            exchange.turn.prefix_key = prefix_key(messages, tools)
            deltas = self._deltas(exchange, messages, tools, may_call=left > 0)
            try:
                async with aclosing(deltas):
                    async for _ in chat_log.async_add_delta_content_stream(
                        exchange.agent_id, deltas
                    ):
                        pass
            except ModelServerError as err:
                server = await self._role.server()
                if not exchange.sends_schema or not server.is_schema_refusal(err):
                    raise
                _LOGGER.debug("The server refuses the schema: %s", err.log_text)
                exchange.sends_schema = False
                left += 1
                continue
            if not needs_another_request(chat_log):
                return
        raise _no_answer_error()

    async def _async_messages(
        self, exchange: _Exchange, tools: Sequence[ToolSpec]
    ) -> list[ChatMessage]:
        """Return the messages to send, shortened until they fit the model's context."""
        chat_log, history = exchange.chat_log, exchange.history
        turn = exchange.turn
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
        json_schema: JsonObject | None = None,
    ) -> ChatAnswer:
        """Return the primary LLM's answer in one piece.

        keep_alive replaces the configured value. Without a turn the request is a turn
        of its own. tool_choice "none" forbids tool calls. The server makes the answer
        fit json_schema, if it can.
        """
        request = self._request(messages, tools, keep_alive, tool_choice, json_schema)
        return await (turn or Turn(self._role)).chat(request)

    def _call_llm_streaming(
        self,
        messages: list[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        keep_alive: str | int | None = None,
        turn: Turn | None = None,
        tool_choice: Literal["none"] | None = None,
        json_schema: JsonObject | None = None,
    ) -> AsyncGenerator[ChatDelta]:
        """Yield the primary LLM's answer as it is made.

        The arguments are those of _call_llm.
        """
        request = self._request(messages, tools, keep_alive, tool_choice, json_schema)
        return (turn or Turn(self._role)).chat_stream(request)

    async def _call_llm_in_one_delta(
        self,
        messages: list[ChatMessage],
        *,
        tools: Sequence[ToolSpec],
        turn: Turn,
        tool_choice: Literal["none"] | None,
        json_schema: JsonObject | None,
    ) -> AsyncGenerator[ChatDelta]:
        """Yield an answer that is not streamed as one delta."""
        answer = await self._call_llm(
            messages,
            tools=tools,
            turn=turn,
            tool_choice=tool_choice,
            json_schema=json_schema,
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
        json_schema: JsonObject | None = None,
    ) -> ChatRequest:
        """Return a request with the keep_alive of this role."""
        return self._role.chat_request(
            messages,
            KeepAlive.for_role(CONF_LLM_KEEP_ALIVE, self._config, keep_alive),
            tools,
            tool_choice,
            json_schema,
        )

    async def _deltas(
        self,
        exchange: _Exchange,
        messages: list[ChatMessage],
        tools: list[ToolSpec],
        *,
        may_call: bool,
    ) -> AsyncGenerator[ChatLogDelta]:
        """Yield one answer of the model as deltas of a chat log.

        While the model may call tools, the server does not have to make its answer
        fit a schema: a call would not fit. An empty answer after successful tool calls
        is an empty response, or a short confirmation before Home Assistant 2026.11.
        """
        yield {"role": "assistant"}
        chat_log = exchange.chat_log
        is_empty, finish_reason = True, None
        ask = self._call_llm_streaming if self._stream else self._call_llm_in_one_delta
        tool_choice: Literal["none"] | None = None if may_call else "none"
        answer = ask(
            messages,
            tools=tools,
            turn=exchange.turn,
            tool_choice=tool_choice,
            json_schema=exchange.json_schema(may_call=bool(tools) and may_call),
        )
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
        """Return the text for an empty answer after successful tool calls.

        That is no text, or a translated "Done." before Home Assistant 2026.11.
        """
        if _HAS_SILENT_RESPONSE:
            return ""
        language = None
        if chat_log.llm_api is not None:
            language = chat_log.llm_api.llm_context.language
        return await async_sentence(self.hass, language, "done")


def needs_another_request(chat_log: conversation.ChatLog) -> bool:
    """Return whether the chat log ends with a tool's result, which the model must see.

    An answer without a tool call ends the turn, also if it is empty: if the model were
    asked again, it might call its tools a second time.
    """
    return chat_log.unresponded_tool_results


def last_answer(chat_log: conversation.ChatLog) -> str:
    """Return the text of the answer that a chat log ends with, "" if there is none."""
    item = chat_log.content[-1]
    if not isinstance(item, conversation.AssistantContent):
        return ""
    return item.content or ""


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

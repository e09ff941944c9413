"""What the tools share with which a model asks another model a question."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
import logging
import traceback
from typing import Any, Final, Self, override
import weakref

from homeassistant.components import conversation
from homeassistant.components.conversation.chat_log import current_chat_log
from homeassistant.core import HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import llm
import probatio as vol

from ..const import DOMAIN

_LOGGER = logging.getLogger(__name__)

# How often one turn may ask the same model. Each call may take minutes and
# cost money, and small models repeat a call whose answer they do not like.
MAX_CALLS_PER_TURN: Final = 3


class _PassedOn:
    """A question that an agent has passed on to an entity; is_open until it ends.

    The value of a context variable alone would not do: a timer that an integration
    starts while the entity answers inherits it, and may run until Home Assistant stops.
    """

    is_open = True


# The question that a task answers, also through other agents, scripts and actions:
# tasks inherit the value.
_passed_on: ContextVar[_PassedOn | None] = ContextVar("passed_on", default=None)


@contextmanager
def question_passed_on() -> Iterator[None]:
    """Let no tool pass on another question while an entity answers one."""
    question = _PassedOn()
    token = _passed_on.set(question)
    try:
        yield
    finally:
        question.is_open = False
        _passed_on.reset(token)


class _CallCounter:
    """Counts the calls of each turn, by the user message that began it."""

    def __init__(self) -> None:
        """Start without a turn."""
        self._calls: dict[int, int] = {}

    @callback
    def add_call(self, message: conversation.UserContent) -> int:
        """Count a call of a message's turn, and return how many that makes."""
        key = id(message)
        if key not in self._calls:
            # Home Assistant drops the message when the conversation is over.
            forget = weakref.finalize(message, self._calls.pop, key, None)
            forget.atexit = False
        self._calls[key] = self._calls.get(key, 0) + 1
        return self._calls[key]


class QuestionTool(llm.Tool):
    """A tool that passes a question on and returns the answer."""

    title = "Ask another language model"
    integration = DOMAIN
    annotations = llm.ToolAnnotations(
        read_only=True, destructive=False, idempotent=True, open_world=True
    )
    parameters = vol.Schema(
        {
            vol.Required(
                "prompt", description="The question, complete in itself"
            ): vol.All(str, vol.Length(min=1)),
            vol.Optional(
                "context",
                description="Facts from this home or conversation that it needs",
            ): str,
        }
    )

    def __init__(self, name: str) -> None:
        """Make a tool; all tools of an agent need different names."""
        self.name = name
        self._calls = _CallCounter()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the tool itself: Home Assistant copies the tools of its traces."""
        return self

    @abstractmethod
    async def _async_ask(
        self, llm_context: llm.LLMContext, prompt: str, context: str | None = None
    ) -> str:
        """Return the answer to a question, to which the primary LLM adds context.

        Raise HomeAssistantError if there is no answer.
        """

    @override
    async def async_call(
        self,
        hass: HomeAssistant,
        tool_input: llm.ToolInput,
        llm_context: llm.LLMContext,
    ) -> llm.ToolResult:
        """Ask the question, and return {"answer": text}.

        Every failure is raised as HomeAssistantError or vol.Invalid, which Home
        Assistant's chat log turns into a tool error that the primary LLM can explain.
        """
        arguments = self.parameters(tool_input.tool_args)
        self._check_nesting()
        self._check_call_limit()
        try:
            answer = await self._async_ask(llm_context, **arguments)
        except HomeAssistantError:
            raise
        except Exception as err:
            # The message of such an error may hold a part of the answer, so the log
            # gets only its type and, at DEBUG, the lines of code.
            _LOGGER.error("Asking the external LLM failed: %s", type(err).__name__)
            _LOGGER.debug("%s", "".join(traceback.format_tb(err.__traceback__)))
            raise HomeAssistantError(
                translation_domain=DOMAIN, translation_key="external_llm_failed"
            ) from err
        return llm.ToolResult(data={"answer": answer})

    @callback
    def _check_nesting(self) -> None:
        """Raise HomeAssistantError in an agent that answers another agent's question.

        Otherwise two agents that may ask each other could do so without end.
        """
        question = _passed_on.get()
        if question is None or not question.is_open:
            return
        _LOGGER.debug("Refusing %s: this agent answers another agent", self.name)
        raise HomeAssistantError(
            translation_domain=DOMAIN, translation_key="external_llm_nested"
        )

    @callback
    def _check_call_limit(self) -> None:
        """Raise HomeAssistantError if this turn has asked often enough.

        A call outside a conversation, such as by an MCP client, belongs to no turn.
        """
        chat_log = current_chat_log.get()
        messages = () if chat_log is None else reversed(chat_log.content)
        for message in messages:
            if isinstance(message, conversation.UserContent):
                break
        else:
            return
        calls = self._calls.add_call(message)
        if calls > MAX_CALLS_PER_TURN:
            _LOGGER.debug(
                "Refusing call %d of %s: one turn may make %d",
                calls,
                self.name,
                MAX_CALLS_PER_TURN,
            )
            raise HomeAssistantError(
                translation_domain=DOMAIN,
                translation_key="external_llm_call_limit",
                translation_placeholders={"limit": str(MAX_CALLS_PER_TURN)},
            )

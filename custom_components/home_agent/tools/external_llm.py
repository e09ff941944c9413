"""The tool by which the primary LLM asks another, usually bigger, model."""

from collections.abc import Mapping, Sequence
import logging
import traceback
from typing import Any, Final, Self, override
import weakref

from homeassistant.components import conversation
from homeassistant.components.conversation.chat_log import current_chat_log
from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.core import HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import llm
from homeassistant.util import slugify
import probatio as vol

from ..const import (
    CONF_EXTERNAL_LLM_CONVERSATION,
    CONF_EXTERNAL_LLM_KEEP_ALIVE,
    CONF_EXTERNAL_LLM_PROMPT,
    CONF_EXTERNAL_LLM_STREAM,
    CONF_EXTERNAL_LLM_TOOL_DESCRIPTION,
    CONF_EXTERNAL_LLMS,
    DOMAIN,
)
from ..keep_alive import KeepAlive
from ..model.reauth import async_start_role_reauth
from ..model.role import ModelRole, Role, merged_config
from ..model.turn import Turn
from ..servers.base import collect
from ..servers.errors import InvalidAuth, ModelServerError
from ..servers.messages import ChatAnswer, ChatMessage, ChatRequest

_LOGGER = logging.getLogger(__name__)

DEFAULT_TOOL_DESCRIPTION: Final = (
    "Ask a more capable language model. Use it for questions that need deep"
    " knowledge, careful reasoning or longer texts, and for nothing that Home"
    " Assistant can answer or do. It cannot control devices and sees nothing of"
    " this home but what you tell it."
)
DEFAULT_PROMPT: Final = (
    "A voice assistant asks you on behalf of a person. Answer truthfully and to"
    " the point, in plain text that can be read aloud, in the language of the"
    " question."
)

# How often one turn may ask the same external LLM. Each call may take minutes and
# cost money, and small models repeat a call whose answer they do not like.
MAX_CALLS_PER_TURN: Final = 3

# Which earlier messages of the conversation are sent with a question.
CONVERSATION_NOTHING: Final = "nothing"
CONVERSATION_LAST: Final = "last_message"
CONVERSATION_ALL: Final = "conversation"
CONVERSATION_OPTIONS: Final = (
    CONVERSATION_NOTHING,
    CONVERSATION_LAST,
    CONVERSATION_ALL,
)


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


class ExternalLLMTool(llm.Tool):
    """A tool that sends a question to the external LLM and returns its answer."""

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

    def __init__(
        self,
        hass: HomeAssistant,
        config: Mapping[str, Any],
        name: str = f"{DOMAIN}__ask_external_llm",
    ) -> None:
        """Make the tool from a flat configuration; connect to nothing yet.

        The tools of several external LLMs need different names.
        """
        self.hass = hass
        self.name = name
        self.description = (
            config.get(CONF_EXTERNAL_LLM_TOOL_DESCRIPTION) or DEFAULT_TOOL_DESCRIPTION
        )
        self._config = config
        self._role = ModelRole(hass, config, Role.EXTERNAL_LLM)
        self._calls = _CallCounter()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the tool itself: Home Assistant copies the tools of its traces."""
        return self

    @override
    async def async_call(
        self,
        hass: HomeAssistant,
        tool_input: llm.ToolInput,
        llm_context: llm.LLMContext,
    ) -> llm.ToolResult:
        """Ask the external LLM, and return {"answer": text}.

        Every failure is raised as HomeAssistantError or vol.Invalid, which Home
        Assistant's chat log turns into a tool error that the primary LLM can explain.
        """
        arguments = self.parameters(tool_input.tool_args)
        self._check_call_limit()
        try:
            answer = await self._execute(**arguments)
        except ModelServerError as err:
            _LOGGER.warning("The external LLM did not answer: %s", err.log_text)
            if isinstance(err, InvalidAuth):
                async_start_role_reauth(hass, self._config, Role.EXTERNAL_LLM)
            raise
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

    async def _execute(
        self,
        prompt: str,
        context: str | None = None,
        keep_alive: str | int | None = None,
    ) -> str:
        """Return the external LLM's answer to a question.

        context are facts that the primary LLM adds; keep_alive replaces the
        configured one. Raise a ModelServerError if the server fails and
        HomeAssistantError if the answer is empty.
        """
        question = f"{prompt}\n\n{context}" if context else prompt
        messages = [*self._preamble(), ChatMessage(role="user", content=question)]
        request = self._role.chat_request(
            _alternating(messages),
            KeepAlive.for_role(CONF_EXTERNAL_LLM_KEEP_ALIVE, self._config, keep_alive),
        )
        _LOGGER.debug(
            "Asking the external LLM %s: %d messages, %d characters in the question",
            request.model,
            len(request.messages),
            len(question),
        )
        answer = await self._answer(request)
        if not (text := answer.content.strip()):
            raise HomeAssistantError(
                translation_domain=DOMAIN, translation_key="external_llm_no_answer"
            )
        return text

    async def _answer(self, request: ChatRequest) -> ChatAnswer:
        """Send a request; stream the answer if the user lets it."""
        with Turn(self._role) as turn:
            if self._config.get(CONF_EXTERNAL_LLM_STREAM, True):
                # The idle timeout then limits each silence, not the whole answer.
                return await collect(turn.chat_stream(request))
            return await turn.chat(request)

    def _preamble(self) -> list[ChatMessage]:
        """Return the system prompt and the earlier messages that the user allows.

        Never the primary LLM's system prompt or its tools' results: they describe
        the home.
        """
        instructions = self._config.get(CONF_EXTERNAL_LLM_PROMPT) or DEFAULT_PROMPT
        system = ChatMessage(role="system", content=instructions)
        choice = self._config.get(CONF_EXTERNAL_LLM_CONVERSATION, CONVERSATION_NOTHING)
        chat_log = current_chat_log.get()
        if chat_log is None or choice == CONVERSATION_NOTHING:
            return [system]
        earlier = [
            message for item in chat_log.content if (message := _spoken_message(item))
        ]
        if choice == CONVERSATION_LAST:
            earlier = [item for item in earlier if item["role"] == "user"][-1:]
        return [system, *earlier]


def _spoken_message(content: conversation.Content) -> ChatMessage | None:
    """Return an entry of the chat log that a person said or heard as a message."""
    if isinstance(content, conversation.UserContent):
        return {"role": "user", "content": content.content}
    if isinstance(content, conversation.AssistantContent) and content.content:
        return {"role": "assistant", "content": content.content}
    return None


def _alternating(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return messages with successive ones of the same role merged into one.

    Some chat templates raise an error otherwise, for example those of Mistral and
    Gemma: "Conversation roles must alternate user/assistant/user/assistant/...".
    """
    result: list[ChatMessage] = []
    for message in messages:
        if result and result[-1]["role"] == message["role"]:
            content = f"{result[-1]['content']}\n\n{message['content']}"
            result[-1] = {"role": message["role"], "content": content}
        else:
            result.append(message)
    return result


def external_llm_tools(
    hass: HomeAssistant, entry: ConfigEntry[Any], subentry: ConfigSubentry
) -> list[ExternalLLMTool]:
    """Return one tool for each external LLM that a conversation agent may ask.

    The name of a single tool is fixed; of several, each name contains the title of
    its subentry.
    """
    chosen = [
        external
        for subentry_id in subentry.data.get(CONF_EXTERNAL_LLMS, ())
        if (external := entry.subentries.get(subentry_id))
    ]
    if len(chosen) == 1:
        return [ExternalLLMTool(hass, merged_config(entry, chosen[0]))]
    tools: dict[str, ExternalLLMTool] = {}
    for external in chosen:
        name = base = f"{DOMAIN}__ask_{slugify(external.title)}"[:60]
        number = 1
        while name in tools:
            number += 1
            name = f"{base}_{number}"
        config = merged_config(entry, external)
        tools[name] = ExternalLLMTool(hass, config, name=name)
    return list(tools.values())

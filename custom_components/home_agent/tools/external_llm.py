"""The tool by which the primary LLM asks another, usually bigger, model."""

from collections.abc import Iterable, Mapping, Sequence
import logging
from typing import Any, Final, override

from homeassistant.components import conversation
from homeassistant.components.conversation.chat_log import current_chat_log
from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.core import HomeAssistant, callback, split_entity_id
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import entity_registry as er, llm
from homeassistant.util import slugify

from ..const import (
    CONF_EXTERNAL_LLM_CONVERSATION,
    CONF_EXTERNAL_LLM_FOR_ALL_AGENTS,
    CONF_EXTERNAL_LLM_KEEP_ALIVE,
    CONF_EXTERNAL_LLM_PROMPT,
    CONF_EXTERNAL_LLM_STREAM,
    CONF_EXTERNAL_LLM_TOOL_DESCRIPTION,
    CONF_EXTERNAL_LLMS,
    CONF_LLM_IDLE_TIMEOUT,
    DEFAULT_IDLE_TIMEOUT,
    DOMAIN,
    SUBENTRY_EXTERNAL_LLM,
)
from ..keep_alive import KeepAlive
from ..model.reauth import async_start_role_reauth
from ..model.role import ModelRole, Role, merged_config
from ..model.turn import Turn
from ..servers.base import collect
from ..servers.errors import InvalidAuth, ModelServerError
from ..servers.messages import ChatAnswer, ChatMessage, ChatRequest
from .external_entity import ENTITY_DOMAINS, ExternalEntityTool
from .question import QuestionTool

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

_ONLY_NAME: Final = f"{DOMAIN}__ask_external_llm"
# OpenAI accepts 64 characters; Home Assistant may put the name of an API in front.
_MAX_NAME_LENGTH: Final = 50

# Which earlier messages of the conversation are sent with a question.
CONVERSATION_NOTHING: Final = "nothing"
CONVERSATION_LAST: Final = "last_message"
CONVERSATION_ALL: Final = "conversation"
CONVERSATION_OPTIONS: Final = (
    CONVERSATION_NOTHING,
    CONVERSATION_LAST,
    CONVERSATION_ALL,
)


class ExternalLLMTool(QuestionTool):
    """A tool that sends a question to the external LLM and returns its answer.

    subentry_id is None if the configuration has none, as in tests.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        config: Mapping[str, Any],
        name: str = _ONLY_NAME,
    ) -> None:
        """Make the tool from a flat configuration; connect to nothing yet."""
        super().__init__(name)
        self.hass = hass
        self.description = (
            config.get(CONF_EXTERNAL_LLM_TOOL_DESCRIPTION) or DEFAULT_TOOL_DESCRIPTION
        )
        self._config = config
        self._role = ModelRole(hass, config, Role.EXTERNAL_LLM)
        self.subentry_id = self._role.subentry_id

    @override
    async def _async_ask(
        self, llm_context: llm.LLMContext, prompt: str, context: str | None = None
    ) -> str:
        """Return the external LLM's answer to a question.

        Raise a ModelServerError if its server fails. If it refuses the key, ask the
        user for another one.
        """
        try:
            return await self._execute(prompt, context)
        except ModelServerError as err:
            _LOGGER.warning("The external LLM did not answer: %s", err.log_text)
            if isinstance(err, InvalidAuth):
                async_start_role_reauth(self.hass, self._config, Role.EXTERNAL_LLM)
            raise

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
) -> list[QuestionTool]:
    """Return one tool for each model that the user chose for a conversation agent.

    They are external LLMs of its entry, and AI task and conversation entities. The
    name of a single tool is fixed; of several, each name contains the title of its
    subentry, or the name in the entity id.
    """
    tools = [
        tool
        for choice in subentry.data.get(CONF_EXTERNAL_LLMS, ())
        if (tool := _chosen_tool(hass, entry, subentry, choice))
    ]
    if len(tools) == 1:
        tools[0].name = _ONLY_NAME
    _make_names_unique(tools)
    return tools


@callback
def tools_for_all_agents(
    hass: HomeAssistant, own: Sequence[llm.Tool] = ()
) -> list[QuestionTool]:
    """Return one tool for each external LLM that is offered to all agents.

    External LLMs of all loaded entries count, but not those of which an agent has a
    tool of its own.
    """
    taken = {tool.subentry_id for tool in own if isinstance(tool, ExternalLLMTool)}
    tools: list[QuestionTool] = [
        _subentry_tool(hass, entry, external)
        for entry in hass.config_entries.async_loaded_entries(DOMAIN)
        for external in entry.get_subentries_of_type(SUBENTRY_EXTERNAL_LLM)
        if external.data.get(CONF_EXTERNAL_LLM_FOR_ALL_AGENTS)
        and external.subentry_id not in taken
    ]
    _make_names_unique(tools, [tool.name for tool in own])
    return tools


def _chosen_tool(
    hass: HomeAssistant, entry: ConfigEntry[Any], subentry: ConfigSubentry, choice: str
) -> QuestionTool | None:
    """Return the tool for one choice of an agent, None if what it names is gone.

    An agent cannot choose itself.
    """
    if external := entry.subentries.get(choice):
        return _subentry_tool(hass, entry, external)
    registry = er.async_get(hass)
    entity_id = er.async_resolve_entity_id(registry, choice)
    if entity_id is None or split_entity_id(entity_id)[0] not in ENTITY_DOMAINS:
        return None
    if entity_id == registry.async_get_entity_id(
        conversation.DOMAIN, DOMAIN, subentry.subentry_id
    ):
        return None
    timeout = subentry.data.get(CONF_LLM_IDLE_TIMEOUT) or DEFAULT_IDLE_TIMEOUT
    return ExternalEntityTool(hass, entity_id, choice, timeout)


def _subentry_tool(
    hass: HomeAssistant, entry: ConfigEntry[Any], external: ConfigSubentry
) -> ExternalLLMTool:
    """Return the tool of an external LLM, named after its title."""
    name = f"{DOMAIN}__ask_{slugify(external.title)}"
    return ExternalLLMTool(hass, merged_config(entry, external), name)


def _make_names_unique(
    tools: Iterable[QuestionTool], taken: Iterable[str] = ()
) -> None:
    """Shorten the names of tools, and number those that are taken."""
    names = set(taken)
    for tool in tools:
        tool.name = base = tool.name[:_MAX_NAME_LENGTH]
        number = 1
        while tool.name in names:
            number += 1
            tool.name = f"{base}_{number}"
        names.add(tool.name)

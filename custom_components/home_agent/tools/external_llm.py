"""Ask another, usually bigger, model: a tool of the primary LLM."""

from collections.abc import Mapping
import logging
from typing import Any, Final, Self, override

from homeassistant.components import conversation
from homeassistant.components.conversation.chat_log import current_chat_log
from homeassistant.config_entries import ConfigEntry, ConfigSubentry
from homeassistant.core import HomeAssistant
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
from ..model.role import ModelRole, Role, merged_config
from ..model.turn import Turn
from ..servers.base import collect
from ..servers.errors import ModelServerError
from ..servers.messages import ChatMessage

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

# What of the conversation goes along with a question.
CONVERSATION_NOTHING: Final = "nothing"
CONVERSATION_LAST: Final = "last_message"
CONVERSATION_ALL: Final = "conversation"
CONVERSATION_OPTIONS: Final = (
    CONVERSATION_NOTHING,
    CONVERSATION_LAST,
    CONVERSATION_ALL,
)


class ExternalLLMTool(llm.Tool):
    """A tool that hands a question to the external LLM."""

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
        """Make the tool from a flat configuration.

        name tells the tools of several external LLMs apart.
        """
        self.hass = hass
        self.name = name
        self.description = (
            config.get(CONF_EXTERNAL_LLM_TOOL_DESCRIPTION) or DEFAULT_TOOL_DESCRIPTION
        )
        self._config = config
        self._role = ModelRole(hass, config, Role.EXTERNAL_LLM)

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
        """Ask, and return {"answer": text}.

        A failure is raised as HomeAssistantError or vol.Invalid, which the chat
        log turns into a result that the primary LLM can explain.
        """
        arguments = self.parameters(tool_input.tool_args)
        try:
            answer = await self._execute(**arguments)
        except ModelServerError as err:
            _LOGGER.warning("The external LLM did not answer: %s", err.log_text)
            raise
        return llm.ToolResult(data={"answer": answer})

    async def _execute(
        self,
        prompt: str,
        context: str | None = None,
        keep_alive: str | int | None = None,
    ) -> str:
        """Return the external LLM's answer to a question.

        context are facts that the primary adds. keep_alive takes the place of
        the configured one. Raise a ModelServerError if the server fails,
        HomeAssistantError if it answers nothing.
        """
        question = f"{prompt}\n\n{context}" if context else prompt
        request = self._role.chat_request(
            [*self._preamble(), {"role": "user", "content": question}],
            KeepAlive.for_role(CONF_EXTERNAL_LLM_KEEP_ALIVE, self._config, keep_alive),
        )
        with Turn(self._role) as turn:
            if self._config.get(CONF_EXTERNAL_LLM_STREAM, True):
                # Streamed, since the idle timeout then limits each silence and
                # not the whole answer.
                answer = await collect(turn.chat_stream(request))
            else:
                answer = await turn.chat(request)
        if not (text := answer.content.strip()):
            raise HomeAssistantError(
                translation_domain=DOMAIN, translation_key="external_llm_no_answer"
            )
        return text

    def _preamble(self) -> list[ChatMessage]:
        """Return the instructions and what the user lets go along.

        Never the primary's system prompt or its tools' results: they describe
        the home.
        """
        instructions = self._config.get(CONF_EXTERNAL_LLM_PROMPT) or DEFAULT_PROMPT
        messages: list[ChatMessage] = [{"role": "system", "content": instructions}]
        choice = self._config.get(CONF_EXTERNAL_LLM_CONVERSATION, CONVERSATION_NOTHING)
        chat_log = current_chat_log.get()
        if chat_log is None or choice == CONVERSATION_NOTHING:
            return messages
        spoken = [said for item in chat_log.content if (said := _what_was_said(item))]
        if choice == CONVERSATION_LAST:
            spoken = [said for said in spoken if said["role"] == "user"][-1:]
        return messages + spoken


def _what_was_said(content: conversation.Content) -> ChatMessage | None:
    """Return an entry of the chat log if a person heard or said it."""
    if isinstance(content, conversation.UserContent):
        return {"role": "user", "content": content.content}
    if isinstance(content, conversation.AssistantContent) and content.content:
        return {"role": "assistant", "content": content.content}
    return None


def external_llm_tools(
    hass: HomeAssistant, entry: ConfigEntry[Any], subentry: ConfigSubentry
) -> list[ExternalLLMTool]:
    """Return the tools for the external LLMs that a conversation agent may ask.

    Where there are several, each tool's name tells its subentry's title.
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

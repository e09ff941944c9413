"""The prefix of an agent's prompt: what every conversation begins with."""

from collections.abc import Sequence
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import llm
from homeassistant.util.ulid import ulid_now

from ..const import DOMAIN
from ..servers.messages import ChatMessage, ToolSpec
from .messages import async_messages, tool_specs

# Some chat templates need a user message; this is the shortest.
_ANY_QUESTION: Final[ChatMessage] = {"role": "user", "content": "."}


def prefix_key(messages: Sequence[ChatMessage], tools: Sequence[ToolSpec]) -> int:
    """Return a key that differs for prefixes that differ."""
    system = messages[0]["content"] if messages else ""
    return hash((system, repr(tools)))


class Prefix:
    """The system prompt and the tools that the next conversation will begin with.

    They depend on the user and the device that ask: the prompt names the area of
    the satellite, and some tools are offered on some satellites only. So they are
    made for the last ones that asked.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        llm_api: llm.API | None,
        prompt: str | None,
    ) -> None:
        """Take the API and the instructions of a conversation agent."""
        self._hass = hass
        self._llm_api = llm_api
        self._prompt = prompt
        self._last: dict[str, str | None] = {}
        self.agent_id: str | None = None

    def remember(self, user_input: conversation.ConversationInput) -> None:
        """Remember the user and the device that ask."""
        self._last = {
            "language": user_input.language,
            "device_id": user_input.device_id,
            "user_id": user_input.context.user_id,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the last user and device, as JSON."""
        return dict(self._last)

    def restore(self, data: dict[str, Any]) -> None:
        """Restore what as_dict returned before a restart."""
        self._last = data

    async def async_make(
        self, language: str | None = None
    ) -> tuple[list[ChatMessage], list[ToolSpec]]:
        """Return the messages and tools of a conversation with an empty question.

        language is that of the question, None for that of the last one.

        Raise ConverseError if an LLM API of the agent is gone, and
        HomeAssistantError if a template fails.
        """
        user_input = conversation.ConversationInput(
            text="",
            context=Context(user_id=self._last.get("user_id")),
            conversation_id=None,
            device_id=self._last.get("device_id"),
            satellite_id=None,
            language=language
            or self._last.get("language")
            or self._hass.config.language,
            agent_id=self.agent_id or DOMAIN,
        )
        chat_log = conversation.ChatLog(self._hass, ulid_now())
        await chat_log.async_provide_llm_data(
            user_input.as_llm_context(DOMAIN), self._llm_api, self._prompt, None
        )
        messages = await async_messages(self._hass, chat_log.content)
        return [*messages, _ANY_QUESTION], tool_specs(chat_log.llm_api)

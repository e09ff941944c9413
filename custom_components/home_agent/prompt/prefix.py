"""The prefix of an agent's prompt, made without a question."""

from collections.abc import Sequence
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import llm
from homeassistant.util.ulid import ulid_now

from ..const import DOMAIN
from ..servers.messages import ChatMessage, ToolSpec
from .messages import async_messages, tool_specs

# Some models' templates want a message of the user; nothing is shorter.
_ANY_QUESTION: Final[ChatMessage] = {"role": "user", "content": "."}


def prefix_key(messages: Sequence[ChatMessage], tools: Sequence[ToolSpec]) -> int:
    """Return what tells one prefix from another."""
    system = messages[0]["content"] if messages else ""
    return hash((system, tuple((tool["name"], tool["description"]) for tool in tools)))


class Prefix:
    """The system prompt and the tools that the next conversation will begin with.

    They depend on who asks: the room of the satellite stands in the prompt, and
    some tools are there for some satellites only. So they are made for the one
    who asked last.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        llm_api: llm.API | None,
        prompt: str | None,
    ) -> None:
        """Take what a conversation agent begins its conversations with."""
        self._hass = hass
        self._llm_api = llm_api
        self._prompt = prompt
        self._asked: dict[str, str | None] = {}
        self.agent_id: str | None = None

    def remember(self, user_input: conversation.ConversationInput) -> None:
        """Remember who asked."""
        self._asked = {
            "language": user_input.language,
            "device_id": user_input.device_id,
            "user_id": user_input.context.user_id,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return who asked last."""
        return dict(self._asked)

    def restore(self, asked: dict[str, Any]) -> None:
        """Take over who asked last, from before a restart."""
        self._asked = asked

    async def async_make(
        self, language: str | None = None
    ) -> tuple[list[ChatMessage], list[ToolSpec]]:
        """Return the messages and tools of a question that asks nothing.

        Raise ConverseError if an LLM API of the agent is gone, and
        HomeAssistantError if a template fails.
        """
        asked = conversation.ConversationInput(
            text="",
            context=Context(user_id=self._asked.get("user_id")),
            conversation_id=None,
            device_id=self._asked.get("device_id"),
            satellite_id=None,
            language=language
            or self._asked.get("language")
            or self._hass.config.language,
            agent_id=self.agent_id or DOMAIN,
        )
        chat_log = conversation.ChatLog(self._hass, ulid_now())
        await chat_log.async_provide_llm_data(
            asked.as_llm_context(DOMAIN), self._llm_api, self._prompt, None
        )
        messages = await async_messages(self._hass, chat_log.content)
        return [*messages, _ANY_QUESTION], tool_specs(chat_log.llm_api)

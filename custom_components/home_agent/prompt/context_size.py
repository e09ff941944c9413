"""Whether a prompt fits the context of its model, known before it is sent."""

from collections.abc import Iterable
from dataclasses import dataclass
import logging
from typing import Final

from homeassistant.components import conversation

from ..model.role import ModelRole
from ..servers.errors import ModelServerError
from ..servers.messages import ChatRequest, text_length

_LOGGER = logging.getLogger(__name__)

# Tokens left free for the answer; in a small context a quarter of it.
ROOM_FOR_AN_ANSWER: Final = 512
# Below this share of the room an estimate is enough, and the server need not count.
CLEARLY_FITS: Final = 0.7
# The length of a message of the user that an agent must have room for: people speak, or
# write some sentences.
USUAL_CHARACTERS: Final = 1000


def prompt_room(context_size: int) -> int:
    """Return how many tokens of a context are there for the prompt."""
    return context_size - min(ROOM_FOR_AN_ANSWER, context_size // 4)


def excess_characters(contents: Iterable[conversation.Content]) -> int:
    """Return by how many characters messages of the user are longer than usual.

    One pasted text is no reason to change the settings of an agent.
    """
    return sum(
        max(len(content.content) - USUAL_CHARACTERS, 0)
        for content in contents
        if isinstance(content, conversation.UserContent)
    )


@dataclass(frozen=True, slots=True)
class PromptSize:
    """The size of a prompt and, in tokens, the room for it, None if not known."""

    characters: int
    tokens: int
    room: int | None

    @property
    def fits(self) -> bool:
        """Return whether the prompt fits, as far as is known."""
        return self.room is None or self.tokens <= self.room


async def async_prompt_size(role: ModelRole, request: ChatRequest) -> PromptSize:
    """Return the size of a prompt, counted by the server if it nearly fills the room.

    Otherwise, and if the server cannot count, it is estimated from the prompts that
    the server has counted before. Raise a ModelServerError if the kind of the server
    cannot be found out.
    """
    estimate = role.use.token_estimate
    characters = text_length(request.messages, request.tools)
    tokens = estimate.tokens(characters)
    server = await role.server()
    await role.async_read_max_context()
    if (context_size := role.context_size(server.kind)) is None:
        return PromptSize(characters, tokens, None)
    room = prompt_room(context_size)
    if tokens > CLEARLY_FITS * room:
        try:
            counted = await server.count_tokens(request)
        except ModelServerError as err:
            _LOGGER.debug("The server cannot count the prompt: %s", err.log_text)
        else:
            if counted is not None:
                estimate.learn(characters, counted, context_size)
                tokens = counted
    return PromptSize(characters, tokens, room)

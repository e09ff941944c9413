"""Whether a prompt fits its model's context, known before it is sent."""

from dataclasses import dataclass
import logging
from typing import Final

from ..model.role import ModelRole
from ..servers.errors import ModelServerError
from ..servers.messages import ChatRequest, text_length

_LOGGER = logging.getLogger(__name__)

# Tokens kept free for the answer; of a small context no more than a quarter.
ROOM_FOR_AN_ANSWER: Final = 512
# An estimate below this share of the room is good enough: no need to count.
CLEARLY_FITS: Final = 0.7


def prompt_room(context_size: int) -> int:
    """Return the tokens that a context of so many has for the prompt."""
    return context_size - min(ROOM_FOR_AN_ANSWER, context_size // 4)


@dataclass(frozen=True, slots=True)
class PromptSize:
    """The tokens of a prompt, and of the room for it; None where that is unknown."""

    tokens: int
    room: int | None

    @property
    def fits(self) -> bool:
        """Return whether the prompt fits, as far as can be known."""
        return self.room is None or self.tokens <= self.room


async def async_prompt_size(role: ModelRole, request: ChatRequest) -> PromptSize:
    """Return the size of a prompt: counted by the server where that may matter.

    Else, and where the server cannot count, estimated by what it has reported of
    earlier prompts. Raise a ModelServerError if it is not found out what kind of
    server it is.
    """
    history = role.use.history
    characters = text_length(request.messages, request.tools)
    tokens = history.tokens(characters)
    server = await role.server()
    if (context_size := role.context_size(server.kind)) is None:
        return PromptSize(tokens, None)
    room = prompt_room(context_size)
    if tokens > CLEARLY_FITS * room:
        try:
            counted = await server.count_tokens(request)
        except ModelServerError as err:
            _LOGGER.debug("Cannot count the prompt: %s", err.log_text)
        else:
            if counted is not None:
                history.calibrate(characters, counted, context_size)
                tokens = counted
    return PromptSize(tokens, room)

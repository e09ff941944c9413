"""How many tokens a text is, estimated from the prompts that a server has counted."""

from dataclasses import dataclass
from typing import Final

# A typical value for prompts with many tools, used until a server has counted one.
DEFAULT_CHARACTERS_PER_TOKEN: Final = 4.0
# The plausible range: one character of Chinese may be two tokens, and a long word one.
_MIN_CHARACTERS: Final = 0.3
_MAX_CHARACTERS: Final = 20.0
# A prompt that fills more of the context than this may have been cut by the server.
_POSSIBLY_CUT: Final = 0.9


@dataclass(slots=True)
class TokenEstimate:
    """The length of a token of one model, in characters, learned from its server."""

    characters_per_token: float = DEFAULT_CHARACTERS_PER_TOKEN

    def __post_init__(self) -> None:
        """Replace an implausible value, as an odd storage file may have it."""
        value: object = self.characters_per_token
        if not isinstance(value, int | float) or not (
            _MIN_CHARACTERS <= value <= _MAX_CHARACTERS
        ):
            self.characters_per_token = DEFAULT_CHARACTERS_PER_TOKEN

    def tokens(self, characters: int) -> int:
        """Return the estimated number of tokens of a text of so many characters."""
        return round(characters / self.characters_per_token)

    def learn(self, characters: int, tokens: int | None, context_size: int) -> None:
        """Learn from a prompt of which the server has reported the tokens.

        tokens is None if the server does not report it. A prompt that nearly fills
        the context (context_size, in tokens) may have been cut, so it is ignored, and
        so is a number that no tokenizer makes.
        """
        if not characters or not tokens or tokens >= _POSSIBLY_CUT * context_size:
            return
        seen = characters / tokens
        if _MIN_CHARACTERS <= seen <= _MAX_CHARACTERS:
            self.characters_per_token += (seen - self.characters_per_token) / 2

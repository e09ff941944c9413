"""Texts from registries and states, made safe for one line of a prompt."""

import re
from typing import Final

# Longer names are cut: Home Assistant limits none of them, and a device can
# suggest the name of its area.
MAX_NAME_LENGTH: Final = 100
# Longer states and attributes are cut: most are a word or two.
MAX_STATE_LENGTH: Final = 80
# White space, control characters (Unicode category Cc), and lone surrogates, which
# no JSON encoder accepts.
_SEPARATORS: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def one_line(text: str, limit: int) -> str:
    """Return a text as one line of at most limit characters.

    Each run of white space, control characters and lone surrogates becomes one
    space; a text that is cut ends in an ellipsis. A name with a line break could
    otherwise add lines of its own to a system prompt.
    """
    line = _SEPARATORS.sub(" ", text).strip()
    return line if len(line) <= limit else f"{line[: limit - 1]}…"

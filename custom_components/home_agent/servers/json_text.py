"""JSON texts of servers, which may hold invalid Unicode, or NaN and Infinity."""

import json
import re
from typing import Final

from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads

# An escape sequence in a JSON text: a surrogate pair, half of a pair (the only group
# that is captured), or any other.
_HALF_OF_PAIR: Final = r"u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR: Final = r"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE: Final = re.compile(rf"\\(?:{_PAIR}|({_HALF_OF_PAIR})|.)", re.DOTALL)
# Python's own json module writes these numbers, which JSON does not have.
_NOT_FINITE: Final = re.compile(r"\b(?:NaN|Infinity)\b")


def parse_json(data: bytes) -> object:
    """Return the value of a JSON text; raise ValueError if data is no JSON text.

    Invalid Unicode is replaced by U+FFFD: a model may generate half of a surrogate
    pair, or a server may cut a character in two. NaN and Infinity inside an object or
    a list are accepted as such numbers: one odd figure must not make the whole answer
    unreadable.
    """
    try:
        return json_loads(data)
    except JSON_DECODE_EXCEPTIONS:
        text = data.decode(errors="replace")
        repaired = _ESCAPE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
        if text.lstrip()[:1] in ("{", "[") and _NOT_FINITE.search(text):
            return _parse_with_odd_numbers(repaired)
        if repaired.encode() == data:
            raise
    return json_loads(repaired)


def _parse_with_odd_numbers(text: str) -> object:
    """Return the value of a JSON text with NaN or Infinity; raise ValueError."""
    try:
        return json.loads(text)
    except RecursionError as err:
        raise ValueError("the recursion of the text is too deep") from err

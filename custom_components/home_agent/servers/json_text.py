"""JSON texts of servers, which may hold invalid Unicode."""

import re
from typing import Final

from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads

# An escape sequence of a JSON text: a surrogate pair, half of one, or any other.
_HALF_OF_PAIR: Final = r"u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR: Final = r"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE: Final = re.compile(rf"\\(?:{_PAIR}|({_HALF_OF_PAIR})|.)", re.DOTALL)


def parse_json(data: bytes) -> object:
    """Return the value of a JSON text; raise ValueError if it is none.

    Text that is no valid Unicode becomes U+FFFD: a model may generate half of a
    surrogate pair, or a server may cut a character in two.
    """
    try:
        return json_loads(data)
    except JSON_DECODE_EXCEPTIONS:
        text = data.decode(errors="replace")
        mended = _ESCAPE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
        if mended.encode() == data:
            raise
    return json_loads(mended)

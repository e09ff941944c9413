"""keep_alive as Ollama reads it: Go's durations, and numbers of seconds.

See api/types.go, Duration.UnmarshalJSON, and Go's time.ParseDuration.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

_LARGEST: Final = 2**63 - 1
FOREVER_SECONDS: Final = _LARGEST / 1e9
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_GO_TYPES: Final = {
    bool: "bool",
    list: "[]interface {}",
    dict: "map[string]interface {}",
}


def keep_alive_seconds(value: Any) -> float | None:
    """Return the seconds of a request's keep_alive, infinite for ever.

    None stands for null and for no keep_alive at all. A number that is too large
    for Go's nanoseconds comes out as a negative one, which unloads the model right
    after the request. Raise ValueError with Ollama's own text.
    """
    if value is None:
        return None
    if type(value) in _GO_TYPES:
        raise ValueError(f"Unsupported type: '{_GO_TYPES[type(value)]}'")
    if isinstance(value, str):
        seconds = parse_duration(value)
        return math.inf if seconds < 0 else seconds
    if value < 0:
        return math.inf
    return -FOREVER_SECONDS if value * 1e9 > _LARGEST else int(value * 1e9) / 1e9


def parse_duration(text: str) -> float:
    """Return the seconds of a duration. Raise ValueError with Go's own text."""
    quoted = f'"{text}"'
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"time: invalid duration {quoted}")
    total = 0
    while rest:
        number = re.match(r"([0-9]*)(?:\.([0-9]*))?", rest)
        assert number is not None
        whole, part = number[1], number[2] or ""
        if not whole and not part:
            raise ValueError(f"time: invalid duration {quoted}")
        rest = rest[number.end() :]
        unit = re.match(r"[^.0-9]*", rest)
        assert unit is not None
        if not unit[0]:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit[0] not in _NANOSECONDS:
            raise ValueError(f'time: unknown unit "{unit[0]}" in duration {quoted}')
        scale = _NANOSECONDS[unit[0]]
        total += int(whole or 0) * scale + int(part or 0) * scale // 10 ** len(part)
        rest = rest[unit.end() :]
    # One more than the largest is only right with a minus.
    if total > _LARGEST + (text[0] == "-"):
        raise ValueError(f"time: invalid duration {quoted}")
    return (-total if text[0] == "-" else total) / 1e9

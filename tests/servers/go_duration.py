"""Durations as Go reads them: what Ollama's keep_alive is parsed with."""

from fractions import Fraction
import math
import re
from typing import Any

FOREVER = math.inf
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def keep_alive_seconds(value: Any) -> float:
    """Return the seconds of a keep_alive in a request, FOREVER if it never ends.

    Raise ValueError with Ollama's own text (api/types.go, Duration.UnmarshalJSON;
    time.ParseDuration).
    """
    if isinstance(value, bool):
        raise ValueError("Unsupported type: 'bool'")  # noqa: TRY004
    if isinstance(value, int | float):
        if value < 0:
            return FOREVER
        # Too large a number wraps around to a negative one: unloaded at once.
        return value if value * 1e9 < 2**63 else -1.0
    if isinstance(value, str):
        nanoseconds = _parse(value)
        return FOREVER if nanoseconds < 0 else nanoseconds / 1e9
    kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
    raise ValueError(f"Unsupported type: '{kind}'")


def _parse(text: str) -> int:
    """Return the nanoseconds of a duration."""
    quoted = _quote(text)
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"time: invalid duration {quoted}")
    total = Fraction(0)
    while rest:
        number = re.match(r"[0-9]*\.?[0-9]*", rest)
        assert number is not None
        if not re.search(r"[0-9]", number[0]):
            raise ValueError(f"time: invalid duration {quoted}")
        rest = rest[number.end() :]
        unit = re.match(r"[^.0-9]*", rest)
        assert unit is not None
        if not unit[0]:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit[0] not in _UNITS:
            raise ValueError(
                f"time: unknown unit {_quote(unit[0])} in duration {quoted}"
            )
        rest = rest[unit.end() :]
        total += Fraction(f"0{number[0]}".rstrip(".")) * _UNITS[unit[0]]
    if total >= 2**63:
        raise ValueError(f"time: invalid duration {quoted}")
    return -int(total) if text.startswith("-") else int(total)


def _quote(text: str) -> str:
    """Return a text in quotation marks as Go's package time shows it."""
    shown = "".join(
        "\\" + char
        if char in '"\\'
        else "".join(f"\\x{byte:02x}" for byte in char.encode())
        if char < " " or char > "~"
        else char
        for char in text
    )
    return f'"{shown}"'

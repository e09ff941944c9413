"""Vectors made of words: alike for texts that share words or their kin."""

import hashlib
import math
import re

_KIN = (
    {"light", "lamp", "illumination", "bulb", "lighting", "bright", "dark"},
    {"heat", "heating", "thermostat", "climate", "warm", "cold", "temperature"},
    {"door", "entrance", "gate"},
    {"cover", "blind", "shutter", "curtain", "shade"},
    {"music", "speaker", "radio", "sound", "media_player"},
    {"read", "reading", "book", "desk"},
)


def embed(text: str, dimension: int) -> list[float]:
    """Return a vector of length 1 for a text, the same each time."""
    vector = [0.0] * dimension
    for word in re.findall(r"\w+", text.lower()):
        _add(vector, word, 1.0)
        for index, kin in enumerate(_KIN):
            if word in kin:
                _add(vector, f"kin {index}", 1.0)
        for start in range(len(word) - 2):
            _add(vector, f"part {word[start : start + 3]}", 0.3)
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def _add(vector: list[float], feature: str, weight: float) -> None:
    """Add a feature at the place that its hash gives it."""
    digest = hashlib.blake2b(feature.encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    vector[number % len(vector)] += weight if number & 1 << 40 else -weight

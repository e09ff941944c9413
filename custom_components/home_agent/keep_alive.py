"""keep_alive: how long a server keeps a model in memory after its last request."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
import logging
import os
import re
from typing import Any, Final, Self

from homeassistant.exceptions import HomeAssistantError

from .const import (
    CONF_EMBEDDING_KEEP_ALIVE,
    CONF_EXTERNAL_LLM_KEEP_ALIVE,
    CONF_LLM_KEEP_ALIVE,
    DEFAULT_EMBEDDING_KEEP_ALIVE,
    DEFAULT_EXTERNAL_LLM_KEEP_ALIVE,
    DEFAULT_LLM_KEEP_ALIVE,
    DOMAIN,
)

_LOGGER = logging.getLogger(__name__)

HOW_TO_WRITE: Final = (
    "Write a number with a unit, such as 30s, 5m or 1h30m; "
    "-1 to never unload the model; or 0 to unload it right after the answer"
)

# By the configuration key of each role: the environment variable that replaces the
# default, and the default.
_DEFAULTS: Final = {
    CONF_LLM_KEEP_ALIVE: ("HOME_AGENT_LLM_KEEP_ALIVE", DEFAULT_LLM_KEEP_ALIVE),
    CONF_EXTERNAL_LLM_KEEP_ALIVE: (
        "HOME_AGENT_EXTERNAL_LLM_KEEP_ALIVE",
        DEFAULT_EXTERNAL_LLM_KEEP_ALIVE,
    ),
    CONF_EMBEDDING_KEEP_ALIVE: (
        "HOME_AGENT_EMBEDDING_KEEP_ALIVE",
        DEFAULT_EMBEDDING_KEEP_ALIVE,
    ),
}

_NANOSECONDS: Final = {
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART: Final = r"(\d+\.?\d*|\.\d+)(ms|s|m|h)"
_DURATION: Final = re.compile(rf"[+-]?({_PART})+", re.ASCII)
# Ollama counts in signed 64-bit nanoseconds (Go's time.Duration). A longer duration
# overflows there, and the model is unloaded at once.
_MAX_NANOSECONDS: Final = 2**63 - 1
# In characters: no valid duration needs more, and Python refuses to convert a number
# of more than 4,300 digits.
_MAX_LENGTH: Final = 100


class InvalidKeepAlive(HomeAssistantError, ValueError):
    """A value that is not a valid keep_alive.

    It is a HomeAssistantError so that a stored invalid value ends a turn with this
    message, like any other error of a turn.
    """

    def __init__(self, value: object) -> None:
        """Name the invalid value and explain what to write instead."""
        super().__init__(
            f"{value!r} is not a valid keep_alive. {HOW_TO_WRITE}",
            translation_domain=DOMAIN,
            translation_key="invalid_keep_alive",
            translation_placeholders={"value": str(value)},
        )


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """A keep_alive, parsed once and rendered for each kind of server.

    text is what the user wrote. nanoseconds is how long the model stays loaded after
    the last request: 0 unloads it right after the answer, None never unloads it.
    """

    text: str
    nanoseconds: int | None

    @classmethod
    def parse(cls, value: str | int) -> Self:
        """Parse a Go duration in ms, s, m and h ("1h30m", "0.5h"), -1 or 0.

        A negative duration, such as -5m, means the same as -1: the model is never
        unloaded. This is Ollama's own rule (0.33, api/types.go,
        Duration.UnmarshalJSON). Raise InvalidKeepAlive for anything else: a number
        without a unit other than 0 and -1, a blank, another unit, or a duration that
        does not fit into signed 64-bit nanoseconds.
        """
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InvalidKeepAlive(value)
        text = str(value)
        if text == "-1":
            return cls(text, None)
        if text == "0":
            return cls(text, 0)
        if len(text) > _MAX_LENGTH or not _DURATION.fullmatch(text):
            raise InvalidKeepAlive(value)
        nanoseconds = int(
            sum(
                Fraction(number.rstrip(".")) * _NANOSECONDS[unit]
                for number, unit in re.findall(_PART, text)
            )
        )
        if nanoseconds > _MAX_NANOSECONDS:
            raise InvalidKeepAlive(value)
        if text.startswith("-") and nanoseconds:
            return cls(text, None)
        return cls(text, nanoseconds)

    @classmethod
    def for_role(
        cls, key: str, config: Mapping[str, Any], override: str | int | None = None
    ) -> Self:
        """Return the keep_alive of one role.

        key is the role's configuration key, such as "llm_keep_alive". The first
        of these that is set counts: override (from the caller), the configured
        value, the environment variable of the role, "5m". Raise InvalidKeepAlive if
        the override or the configured value is invalid.
        """
        for value in (override, config.get(key)):
            if value is not None:
                return cls.parse(value)
        return cls.parse(default_keep_alive(key))

    @property
    def is_indefinite(self) -> bool:
        """Return whether the model is never unloaded."""
        return self.nanoseconds is None

    @property
    def seconds(self) -> float | None:
        """Return how many seconds the model stays loaded, None if indefinitely."""
        return None if self.nanoseconds is None else self.nanoseconds / 10**9

    @property
    def length(self) -> float:
        """Return seconds by which to compare, infinite if the model never unloads."""
        return float("inf") if self.seconds is None else self.seconds

    @property
    def ollama(self) -> str | int:
        """Return the value for the top-level field keep_alive of Ollama's requests.

        -1 and 0 are sent as numbers: Ollama refuses the string "-1" with "missing
        unit in duration".
        """
        if self.nanoseconds is None:
            return -1
        return self.text if self.nanoseconds else 0

    @property
    def ttl(self) -> int | None:
        """Return the whole seconds for LM Studio's field ttl, rounded up.

        None for "never unload" and "unload at once": the field cannot express them,
        and LM Studio has separate requests to load and unload a model
        (lmstudio-ai/docs, ttl-and-auto-evict.md).
        """
        if not self.nanoseconds:
            return None
        return -(-self.nanoseconds // 10**9)


def default_keep_alive(key: str) -> str:
    """Return the default keep_alive of the role that key belongs to.

    It is "5m", unless the environment variable of the role has another value, which
    is meant for container deployments.
    """
    variable, default = _DEFAULTS[key]
    if (value := os.environ.get(variable)) is None:
        return default
    try:
        return KeepAlive.parse(value).text
    except InvalidKeepAlive as err:
        _LOGGER.warning("Ignoring %s: %s", variable, err)
        return default

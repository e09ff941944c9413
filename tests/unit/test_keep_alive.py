"""The value of a keep_alive, and what requests to each server carry for it."""

from typing import Any

import pytest

from custom_components.home_agent.const import (
    CONF_EMBEDDING_KEEP_ALIVE,
    CONF_EXTERNAL_LLM_KEEP_ALIVE,
    CONF_LLM_KEEP_ALIVE,
    DEFAULT_EMBEDDING_KEEP_ALIVE,
    DEFAULT_EXTERNAL_LLM_KEEP_ALIVE,
    DEFAULT_LLM_KEEP_ALIVE,
)
from custom_components.home_agent.keep_alive import InvalidKeepAlive, KeepAlive
from tests.servers.go_duration import FOREVER, keep_alive_seconds

KEYS = {
    CONF_LLM_KEEP_ALIVE: "HOME_AGENT_LLM_KEEP_ALIVE",
    CONF_EXTERNAL_LLM_KEEP_ALIVE: "HOME_AGENT_EXTERNAL_LLM_KEEP_ALIVE",
    CONF_EMBEDDING_KEEP_ALIVE: "HOME_AGENT_EMBEDDING_KEEP_ALIVE",
}
# What is written: Ollama's field, LM Studio's ttl, seconds (None: never unloaded).
VALID = [
    ("5m", "5m", 300, 300),
    ("1h30m", "1h30m", 5400, 5400),
    ("30m", "30m", 1800, 1800),
    ("1800s", "1800s", 1800, 1800),
    ("0.5h", "0.5h", 1800, 1800),
    (".5h", ".5h", 1800, 1800),
    ("500ms", "500ms", 1, 0.5),
    ("1m0.5s", "1m0.5s", 61, 60.5),
    ("+5m", "+5m", 300, 300),
    ("5.m", "5.m", 300, 300),
    ("2562047h", "2562047h", 2562047 * 3600, 2562047 * 3600),
    ("-1", -1, None, None),
    (-1, -1, None, None),
    ("-5m", -1, None, None),
    ("-1m", -1, None, None),
    ("-0.5h", -1, None, None),
    ("0", 0, None, 0),
    (0, 0, None, 0),
    ("0s", 0, None, 0),
    ("-0s", 0, None, 0),
    ("0h0m", 0, None, 0),
    # Ollama rounds less than a nanosecond down to 0, too.
    ("0.0000001ms", 0, None, 0),
]
INVALID: list[object] = [
    *("5", "300", "-5", "+0", "-0", "1.5", "1e3"),
    *("5x", "5M", "5H", "1d", "1w", "5min", "5us", "5ns"),
    *("", " ", " 5m", "5m ", "5 m", "1h 30m", "m", "-", "+", ".", ".s", "--5m"),
    *("invalid", "forever", "inf", "5m-1s", "\u0665m"),
    *("2562048h", "9223372036854775808ms", "9" * 5000 + "h"),
    *(5, 300, True, False, 0.5, None, [], {}),
]


@pytest.mark.parametrize(("written", "ollama", "ttl", "seconds"), VALID)
def test_valid(
    written: str | int, ollama: str | int, ttl: int | None, seconds: float | None
) -> None:
    """Each server gets the value that has this meaning there."""
    keep_alive = KeepAlive.parse(written)
    assert keep_alive.ollama == ollama
    assert type(keep_alive.ollama) is type(ollama)
    assert keep_alive.ttl == ttl
    assert keep_alive.seconds == seconds
    assert keep_alive.is_indefinite is (seconds is None)
    # Ollama's own parser agrees.
    understood = keep_alive_seconds(keep_alive.ollama)
    assert understood == (FOREVER if seconds is None else seconds)


@pytest.mark.parametrize("written", INVALID)
def test_invalid(written: Any) -> None:
    """Anything else is refused with a message that says what to write instead."""
    with pytest.raises(InvalidKeepAlive, match="30s, 5m or 1h30m"):
        KeepAlive.parse(written)


@pytest.mark.parametrize(("key", "variable"), KEYS.items())
def test_the_first_that_is_set_wins(
    key: str,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The order is caller, configuration, environment, 5m; each role has its own."""
    assert KeepAlive.for_role(key, {}).text == "5m"
    assert KeepAlive.for_role(key, {key: None}).text == "5m"
    for other in KEYS.values():
        monkeypatch.setenv(other, "7h")
    monkeypatch.setenv(variable, "1h")
    assert KeepAlive.for_role(key, {}).text == "1h"
    assert KeepAlive.for_role(key, {key: "2h"}).text == "2h"
    assert KeepAlive.for_role(key, {key: "2h"}, "3h").text == "3h"
    assert KeepAlive.for_role(key, {key: "2h"}, 0).nanoseconds == 0
    monkeypatch.setenv(variable, "1 hour")
    assert KeepAlive.for_role(key, {}).text == "5m"
    assert f"Ignoring {variable}: '1 hour' is not a valid keep_alive" in caplog.text
    with pytest.raises(InvalidKeepAlive):
        KeepAlive.for_role(key, {key: "5x"})


def test_names_and_defaults() -> None:
    """The configuration keys and the default have the documented values."""
    assert CONF_LLM_KEEP_ALIVE == "llm_keep_alive"
    assert CONF_EXTERNAL_LLM_KEEP_ALIVE == "external_llm_keep_alive"
    assert CONF_EMBEDDING_KEEP_ALIVE == "embedding_keep_alive"
    defaults = (
        DEFAULT_LLM_KEEP_ALIVE,
        DEFAULT_EXTERNAL_LLM_KEEP_ALIVE,
        DEFAULT_EMBEDDING_KEEP_ALIVE,
    )
    assert set(defaults) == {"5m"}

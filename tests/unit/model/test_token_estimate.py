"""Tests of the estimate of tokens."""

from typing import Any

import pytest

from custom_components.home_agent.model.token_estimate import TokenEstimate


@pytest.mark.parametrize("stored", [0.0, -3.0, 1e300, float("nan"), "x", None])
def test_an_odd_stored_value_is_replaced(stored: Any) -> None:
    """Else each turn would fail, also after a restart."""
    assert TokenEstimate(stored).tokens(4000) == 1000


@pytest.mark.parametrize("tokens", [-1000, 0, 1, 10**9])
def test_an_odd_count_is_ignored(tokens: int) -> None:
    """A server that counts wrongly must not break the estimate."""
    estimate = TokenEstimate()
    for _ in range(5):
        estimate.learn(4000, tokens, 10**12)
    assert estimate.tokens(4000) == 1000


def test_tokens() -> None:
    """Learned from what the server counted, but not from what it cut."""
    estimate = TokenEstimate()
    assert estimate.tokens(4000) == 1000
    for _ in range(10):
        estimate.learn(3000, 1000, 8192)
    assert estimate.tokens(3000) == pytest.approx(1000, abs=2)
    estimate.learn(90000, 8190, 8192)
    estimate.learn(100, None, 8192)
    assert estimate.tokens(3000) == pytest.approx(1000, abs=2)

"""Tests of the estimate of tokens."""

import pytest

from custom_components.home_agent.model.token_estimate import TokenEstimate


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

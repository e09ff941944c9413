"""Tests of the lists of callbacks."""

import pytest

from custom_components.home_agent.listeners import Listeners


def test_a_listener_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The others are called, the caller goes on, and the log has the reason."""
    listeners = Listeners[int]()
    seen: list[int] = []

    def fail(_: int) -> None:
        raise ValueError("inf is no state")

    listeners.add(fail)
    remove = listeners.add(seen.append)
    listeners.notify(1)
    remove()
    listeners.notify(2)
    assert seen == [1]
    assert "inf is no state" in caplog.text

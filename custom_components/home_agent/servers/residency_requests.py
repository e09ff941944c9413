"""Requests that a keep_alive needs before and after another request."""

import asyncio
from collections.abc import Awaitable
import logging

from .errors import ModelServerError

_LOGGER = logging.getLogger(__name__)


class ResidencyRequests:
    """Sends the requests by which one server applies a keep_alive.

    A failure of theirs is logged and costs no answer.
    """

    def __init__(self) -> None:
        """Start without requests."""
        self._failed_steps: set[str] = set()
        # The event loop itself keeps no strong reference to a task.
        self._running: set[asyncio.Task[None]] = set()

    async def send_before(self, request: Awaitable[None]) -> None:
        """Await a request."""
        await self._try("before a request", request)

    def send_after(self, request: Awaitable[None]) -> None:
        """Send a request in a background task.

        The turn may be cancelled, and its user waits for nothing that comes after the
        answer.
        """
        task = asyncio.create_task(
            self._try("after a request", request), name="home_agent keep_alive"
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def wait(self) -> None:
        """Wait until the background tasks have ended.

        A model that is being unloaded would not answer the next request.
        """
        if self._running:
            await asyncio.wait(self._running)

    async def _try(self, step: str, request: Awaitable[None]) -> None:
        """Await a request, and log if it fails: a warning the first time."""
        try:
            await request
        except ModelServerError as err:
            level = logging.DEBUG if step in self._failed_steps else logging.WARNING
            self._failed_steps.add(step)
            _LOGGER.log(level, "Cannot apply the keep_alive %s: %s", step, err.log_text)
        else:
            self._failed_steps.discard(step)

"""Extra requests that make a server apply a keep_alive, around a model request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
import logging

from .errors import ModelServerError

_LOGGER = logging.getLogger(__name__)


class KeepAliveRequests:
    """Sends the extra requests that make one server apply a keep_alive.

    If one fails, it is logged, and the model request is not affected.
    """

    def __init__(self) -> None:
        """Start without requests."""
        self._failed_steps: set[str] = set()
        # The event loop itself keeps no strong reference to a task.
        self._running: set[asyncio.Task[None]] = set()

    async def send_before(self, request: Awaitable[None]) -> None:
        """Send a request and wait for its end; return also if it fails."""
        await self._try("before a model request", request)

    def send_after(self, request: Awaitable[None]) -> None:
        """Send a request in a background task.

        The task goes on if the turn is cancelled, and the user does not wait for it.
        """
        task = asyncio.create_task(
            self._try("after a model request", request), name="home_agent keep_alive"
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    @asynccontextmanager
    async def sent_during(
        self, send: Callable[[], Awaitable[None]], delay: float
    ) -> AsyncIterator[None]:
        """Context of a model request: call send delay seconds after its begin.

        Do not call it if the model request has ended before.
        """

        async def send_later() -> None:
            """Send the request, or be cancelled while waiting."""
            await asyncio.sleep(delay)
            await self._try("during a model request", send())

        task = asyncio.create_task(send_later(), name="home_agent keep_alive")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            yield
        finally:
            task.cancel()

    async def wait_for_background(self) -> None:
        """Wait until the requests of send_after have ended.

        A model that is being unloaded would not answer the next request.
        """
        if self._running:
            await asyncio.wait(self._running)

    async def _try(self, step: str, request: Awaitable[None]) -> None:
        """Send a request, and log if it fails.

        A failure is logged as a warning if the same step succeeded before it or is
        done for the first time, otherwise at debug level.
        """
        try:
            await request
        except ModelServerError as err:
            level = logging.DEBUG if step in self._failed_steps else logging.WARNING
            self._failed_steps.add(step)
            _LOGGER.log(
                level,
                "A request to apply the keep_alive failed (%s): %s",
                step,
                err.log_text,
            )
        else:
            self._failed_steps.discard(step)

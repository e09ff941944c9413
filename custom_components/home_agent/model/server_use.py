"""State shared by all models on the same server: running turns and priming."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
import logging

from homeassistant.core import callback

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class ServerUse:
    """One server, shared by all models that run on it.

    running_turns counts the turns of all its models, and idle is set while there is
    none. At most one model of the server is primed at a time.
    """

    running_turns: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _priming: asyncio.Lock = field(default_factory=asyncio.Lock)
    _request: asyncio.Timeout | None = None

    def __post_init__(self) -> None:
        """Start without a running turn."""
        self.idle.set()

    @callback
    def begin_turn(self) -> None:
        """Count a turn as running."""
        self.running_turns += 1
        self.idle.clear()

    @callback
    def end_turn(self) -> None:
        """Count a turn as ended."""
        self.running_turns -= 1
        if not self.running_turns:
            self.idle.set()

    @asynccontextmanager
    async def priming(self) -> AsyncIterator[None]:
        """Prime one model: wait until no other one of the server is being primed.

        Code in this context must not wait for a turn to end: a turn may wait for
        an index, which waits for the priming. Raise TimeoutError if
        interrupt_priming has cancelled the code in this context.
        """
        async with self._priming:
            try:
                async with asyncio.timeout(None) as self._request:
                    yield
            finally:
                self._request = None

    @callback
    def interrupt_priming(self) -> None:
        """Cancel the priming that runs, which closes the connection of its request."""
        if self._request is not None:
            _LOGGER.debug("Priming is interrupted")
            self._request.reschedule(asyncio.get_running_loop().time())

    async def async_wait_until_primed(self) -> None:
        """Wait until no model of the server is being primed."""
        async with self._priming:
            pass

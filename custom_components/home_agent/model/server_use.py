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
    """State of one server, shared by the ModelUse objects of its models.

    running_turns counts the running turns of all its models; idle is set while there
    is none. At most one model of the server is primed at a time.
    """

    running_turns: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _priming_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _priming_timeout: asyncio.Timeout | None = None

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
        """Context for the priming of one model; wait until another priming has ended.

        The code inside must not wait for a turn to end: a turn may wait for the index,
        and indexing waits for the priming. Raise TimeoutError if interrupt_priming
        cancels the code inside.
        """
        async with self._priming_lock:
            try:
                async with asyncio.timeout(None) as self._priming_timeout:
                    yield
            finally:
                self._priming_timeout = None

    @callback
    def interrupt_priming(self) -> None:
        """Cancel the running priming, if any, which closes its connection."""
        if self._priming_timeout is not None:
            _LOGGER.debug("Priming is interrupted")
            self._priming_timeout.reschedule(asyncio.get_running_loop().time())

    async def async_wait_for_priming(self) -> None:
        """Wait until no model of the server is being primed."""
        async with self._priming_lock:
            pass

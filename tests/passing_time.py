"""Time that passes for Home Assistant and for a stand-in together."""

from datetime import datetime

from freezegun.api import FrozenDateTimeFactory
from homeassistant.core import HomeAssistant
from homeassistant.util import dt as dt_util
from pytest_homeassistant_custom_component.common import async_fire_time_changed

from .servers import ManualClock, OllamaStandIn


class PassingTime:
    """A home and a server with one time."""

    def __init__(
        self,
        hass: HomeAssistant,
        server: OllamaStandIn,
        clock: ManualClock,
        freezer: FrozenDateTimeFactory,
    ) -> None:
        """Start at the server's time."""
        self.hass = hass
        self.server = server
        self._clock = clock
        self._freezer = freezer
        freezer.move_to(datetime.fromtimestamp(clock.now(), dt_util.UTC))

    def now(self) -> float:
        """Return the time."""
        return self._clock.now()

    def tick(self, seconds: float) -> None:
        """Let time pass, and nothing more."""
        self._clock.advance(seconds)
        self._freezer.tick(seconds)

    async def settle(self) -> None:
        """Wait for everything in the background."""
        await self.hass.async_block_till_done(wait_background_tasks=True)

    async def advance(self, seconds: float) -> None:
        """Let time pass, with all that is due then."""
        self.tick(seconds)
        async_fire_time_changed(self.hass)
        await self.settle()

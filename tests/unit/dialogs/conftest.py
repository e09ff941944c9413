"""What the tests of the dialogs share."""

from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from tests.unit.test_config_flow import Dialogs


@pytest.fixture
async def browser(home: HomeAssistant, hass_client: ClientSessionGenerator) -> Dialogs:
    """Return what fills in dialogs."""
    assert await async_setup_component(home, "config", {})
    return Dialogs(await hass_client())


@pytest.fixture
async def second_browser(
    browser: Dialogs, hass_client: ClientSessionGenerator
) -> Dialogs:
    """Return a second page, on which another dialog can be open."""
    return Dialogs(await hass_client())

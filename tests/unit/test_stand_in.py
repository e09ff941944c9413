"""What all stand-in servers share."""

import aiohttp
from aiohttp import web
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from tests.servers.stand_in import StandIn


async def test_a_client_that_hangs_up_before_the_answer_is_written(
    hass: HomeAssistant, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as a hang-up, and is no error of the stand-in."""

    async def hung_up(_: web.Request, __: object) -> web.StreamResponse:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    async with StandIn() as server:
        server.routes[("POST", "/api/chat")] = hung_up
        with pytest.raises(aiohttp.ClientError):
            await async_get_clientsession(hass).post(f"{server.url}/api/chat", json={})
        assert server.hang_ups == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]

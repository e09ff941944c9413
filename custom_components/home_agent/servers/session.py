"""The HTTP session for all requests to model servers."""

from typing import Final, override

import aiohttp
from aiohttp.connector import Connection
from homeassistant.const import EVENT_HOMEASSISTANT_CLOSE
from homeassistant.core import Event, HomeAssistant, callback
from homeassistant.helpers.aiohttp_client import async_create_clientsession
from homeassistant.helpers.singleton import singleton
from homeassistant.util.hass_dict import HassKey

_DATA_SESSION: Final[HassKey[aiohttp.ClientSession]] = HassKey("home_agent_session")


class ConnectionNotClean(Exception):
    """A kept connection cannot be used: it holds bytes that answer no request."""


class CheckedRequest(aiohttp.ClientRequest):
    """A request that is never sent on a connection with unread bytes.

    A kept connection may receive bytes while it is idle: a second answer to an earlier
    request. aiohttp (3.14, connector.py, _get) checks only that it is open, and would
    read those bytes as the answer to the next request.
    """

    @override
    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send the request; raise ConnectionNotClean if the connection is not clean.

        aiohttp closes the connection after any exception.
        """
        if conn.protocol is None or conn.protocol.should_close:
            raise ConnectionNotClean
        return await super().send(conn)


@singleton(_DATA_SESSION)
@callback
def async_get_session(hass: HomeAssistant) -> aiohttp.ClientSession:
    """Return the session, which shares Home Assistant's connections and resolver."""
    session = async_create_clientsession(
        hass,
        auto_cleanup=False,
        request_class=CheckedRequest,
        # All servers share the session: cookies of one (a cookie has no port) would be
        # sent to another. No model server needs them.
        cookie_jar=aiohttp.DummyCookieJar(),
    )

    @callback
    def detach(_: Event) -> None:
        session.detach()

    hass.bus.async_listen_once(EVENT_HOMEASSISTANT_CLOSE, detach)
    return session

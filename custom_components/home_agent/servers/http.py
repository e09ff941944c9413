"""HTTP with a model server: bounds on every wait, and one translator of failures."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
import logging
from typing import Any, Final

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError
from homeassistant.helpers.aiohttp_client import SSRFRedirectError
from homeassistant.helpers.json import json_bytes

from .address import server_path, shown_host, split_credentials
from .errors import (
    CannotConnect,
    ConnectionLost,
    ConnectionRefused,
    MalformedAnswer,
    ModelServerError,
    PromptTooLong,
    ServerTimedOut,
    UnknownServer,
    WrongScheme,
    is_prompt_too_long,
)
from .json_text import parse_json
from .lines import LineSplitter, LineTooLong
from .redaction import Redactor
from .refusals import refusal, seconds_until_ready
from .session import ConnectionNotClean

_LOGGER = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 10.0
# For requests that need no model: lists, versions.
SHORT_TIMEOUT: Final = 10.0
# A server may send signs of life for hours, such as pings or blank lines, and no
# answer. They prolong a wait to so many idle timeouts at most.
SIGNS_OF_LIFE: Final = 3
# Seconds that the end of an answer may take after its last line. It usually comes
# along with it, and the connection can then be used for the next request.
_END_TIMEOUT: Final = 0.1
# How often to look for a connection on which the server has sent nothing yet.
_MAX_CONNECTIONS: Final = 10
_MAX_LINE: Final = 32 * 2**20
# What OpenSSL, from 1.1 to 3.5, calls an answer that is no TLS.
_NO_TLS: Final = (
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "WRONG_VERSION_NUMBER",
)
# Some servers send a whole page, or the request, back with an error.
_MAX_ERROR_BODY: Final = 64 * 2**10
_MAX_DETAIL: Final = 4000


class HttpClient:
    """Sends requests to one server. Only a ModelServerError leaves it."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        idle_timeout: float,
    ) -> None:
        """Talk to the server at url.

        headers go with every request. Their secrets, a password in url, and the path
        of url, which may be a secret too, are removed from every error.
        idle_timeout is in seconds, and holds for each wait of a request: until its
        body is written and the answer begins, and from one byte of the answer to
        the next.
        """
        self._session = session
        self._headers = headers
        _, credentials = split_credentials(url)
        self._redactor = Redactor(credentials, headers, path=server_path(url))
        self._idle_timeout = idle_timeout
        self.host = shown_host(url)

    async def get(self, url: str, timeout: float = SHORT_TIMEOUT) -> Any:
        """Return the JSON at url, None if the answer is empty."""
        async with self.request("GET", url, timeout=timeout) as response:
            return await self.read_json(response)

    async def post(
        self,
        url: str,
        body: Mapping[str, Any],
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send JSON and return the JSON of the answer, None if that is empty."""
        async with self.request(
            "POST", url, body, timeout=timeout, headers=headers
        ) as response:
            return await self.read_json(response)

    async def post_lines(
        self, url: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[bytes]:
        """Send JSON and yield the lines of the answer that are not blank.

        Comments of server-sent events (":ping") are yielded, but they are no
        progress: an answer of nothing else ends with a ServerTimedOut. Closing the
        generator closes the connection, which ends the work on the server.
        """
        idle = self._idle_timeout
        splitter = LineSplitter(_MAX_LINE)
        async with self._exchange("POST", url, body, idle, {}) as response:
            clock = asyncio.get_running_loop().time
            deadline = clock() + SIGNS_OF_LIFE * idle
            try:
                # The bound is set around each wait, not around the whole: it must
                # not strike while the caller works on a line.
                while chunk := await self._read(response, deadline):
                    for line in splitter.feed(chunk):
                        if not line.startswith(b":"):
                            deadline = clock() + SIGNS_OF_LIFE * idle
                        yield line
                if line := splitter.finish():
                    yield line
            except LineTooLong:
                detail = f"a line has more than {_MAX_LINE} bytes"
                raise MalformedAnswer(self.host, detail) from None
            except GeneratorExit:
                await self._finish(response)
                raise

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; raise a ModelServerError for every way it can fail.

        timeout, in seconds, takes the place of the idle timeout; headers go with
        this request in addition to those of the client. The whole takes SIGNS_OF_LIFE
        timeouts at most. A POST request that the server is not ready for (status
        503) is sent again until timeout is over; after any other failure it is not.
        """
        idle = self._idle_timeout if timeout is None else timeout
        with self._translated(idle):
            async with (
                asyncio.timeout(SIGNS_OF_LIFE * idle),
                self._exchange(method, url, body, idle, headers or {}) as response,
            ):
                yield response

    async def read_json(self, response: aiohttp.ClientResponse) -> Any:
        """Return the whole answer as JSON, None if it is empty."""
        with self._translated(self._idle_timeout):
            body = await response.content.read()
        try:
            return parse_json(body) if body.strip() else None
        except ValueError:
            raise MalformedAnswer(
                self.host, "the answer is not JSON", status=response.status
            ) from None

    def error(self, detail: str) -> ModelServerError:
        """Return the error that a server reported inside an answer."""
        kind = PromptTooLong if is_prompt_too_long(detail) else ModelServerError
        return kind(self.host, self._redacted(detail))

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None,
        idle: float,
        headers: Mapping[str, str],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and again while the server is not ready for it."""
        headers = {"Content-Type": "application/json", **self._headers, **headers}
        data = None if body is None else _json_body(body)
        clock = asyncio.get_running_loop().time
        patience = clock() + idle
        while True:
            response = await self._send(method, url, data, idle, headers)
            async with response:
                if response.status < 300:
                    yield response
                    return
                text = await self._error_body(response)
            error = refusal(self.host, url, response, text, self._redacted)
            pause = seconds_until_ready(response, error)
            if method != "POST" or pause is None or clock() + pause > patience:
                raise error
            _LOGGER.debug("Sending again in %.1f s: %s", pause, error.log_text)
            await asyncio.sleep(pause)

    async def _send(
        self,
        method: str,
        url: str,
        data: bytes | None,
        idle: float,
        headers: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        """Return the head of an answer.

        A kept connection that the server has closed must not be used: the request
        would be lost, and a POST request is not sent twice. llama.cpp closes after
        each stream. The event loop learns of it before its second turn from here. Nor
        is one used on which the server has sent bytes in the meantime.
        """
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(_MAX_CONNECTIONS):
            try:
                return await self._send_once(method, url, data, idle, headers)
            except ConnectionNotClean:
                _LOGGER.debug("%s sent bytes that belong to no request", self.host)
        raise UnknownServer(self.host, "the server sends bytes before any request")

    async def _send_once(
        self,
        method: str,
        url: str,
        data: bytes | None,
        idle: float,
        headers: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        """Return the head of an answer; raise ConnectionNotClean if it was not sent."""
        try:
            # aiohttp itself does not bound the time to write a body.
            with self._translated(idle):
                async with asyncio.timeout(CONNECT_TIMEOUT + idle):
                    return await self._session.request(
                        method,
                        url,
                        data=data,
                        headers=headers,
                        timeout=aiohttp.ClientTimeout(
                            total=None, connect=CONNECT_TIMEOUT, sock_read=idle
                        ),
                        # A redirect would take the key to another server.
                        allow_redirects=False,
                    )
        except ValueError as err:
            # A line break in a header, for example.
            raise CannotConnect(self.host, self._text_of(err)) from None

    async def _read(self, response: aiohttp.ClientResponse, deadline: float) -> bytes:
        """Return the next bytes of an answer, b"" at its end.

        deadline is a time of the event loop.
        """
        with self._translated(self._idle_timeout):
            async with asyncio.timeout_at(deadline):
                return await response.content.readany()

    async def _finish(self, response: aiohttp.ClientResponse) -> None:
        """Keep the connection for the next request if the answer is at its end.

        Otherwise the connection is closed with the response.
        """
        with suppress(ModelServerError):
            clock = asyncio.get_running_loop().time
            deadline = clock() + _END_TIMEOUT
            while chunk := await self._read(response, deadline):
                if chunk.strip():
                    return

    async def _error_body(self, response: aiohttp.ClientResponse) -> str:
        """Return the text of an error, as much of it as came."""
        body = bytearray()
        deadline = asyncio.get_running_loop().time() + SHORT_TIMEOUT
        with suppress(ModelServerError):
            while len(body) < _MAX_ERROR_BODY:
                if not (chunk := await self._read(response, deadline)):
                    break
                body += chunk
        if len(body) >= _MAX_ERROR_BODY:
            # The cut may have left the beginning of a secret.
            del body[max(0, _MAX_ERROR_BODY - self._redactor.longest) :]
        # Not with the charset of the header, which can be one that fails.
        return body.decode(errors="replace")

    def _redacted(self, text: str) -> str:
        """Return a text of the server without secrets, short, in one line."""
        return self._redactor.redact(text)[:_MAX_DETAIL]

    @contextmanager
    def _translated(self, idle: float) -> Iterator[None]:
        """Raise a ModelServerError in place of every exception of a request.

        idle is the timeout that may have passed, in seconds. The exceptions of aiohttp
        are not chained ("from None"): Home Assistant logs a chain with its texts, which
        have the whole address and what the server sent, and so may have a secret.
        """
        try:
            yield
        except (aiohttp.ClientError, HttpProcessingError, OSError) as err:
            raise self._error_of(err, idle) from None
        except RuntimeError:
            if not self._session.closed:
                raise
            raise CannotConnect(self.host, "Home Assistant is stopping") from None

    def _error_of(self, err: Exception, idle: float) -> ModelServerError:
        """Return the error that an exception of aiohttp stands for."""
        kind: type[ModelServerError] = ConnectionLost
        detail = self._text_of(err)
        match err:
            case _ if _is_bad_encoding(err):
                kind = MalformedAnswer
            case aiohttp.ClientSSLError():
                reason = getattr(err.os_error, "reason", None)
                kind = WrongScheme if reason in _NO_TLS else CannotConnect
            case aiohttp.ClientConnectorError(os_error=ConnectionError()):
                kind = ConnectionRefused
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                kind = CannotConnect
            case TimeoutError():
                kind, detail = ServerTimedOut, f"no answer for {idle:g} s"
            case SSRFRedirectError():
                kind, detail = CannotConnect, "redirects to this machine"
            case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
                kind, detail = CannotConnect, "not an address"
            case aiohttp.ClientResponseError():
                kind, detail = UnknownServer, f"no HTTP: {detail}"
        return kind(self.host, detail)

    def _text_of(self, err: Exception) -> str:
        """Return the type and the text of an exception, without secrets."""
        # str() of a ClientResponseError has the whole address in addition.
        text = err.message if isinstance(err, aiohttp.ClientResponseError) else err
        return self._redacted(f"{type(err).__name__}: {text}")


def _is_bad_encoding(err: BaseException) -> bool:
    """Return whether an answer does not have the Content-Encoding that it states."""
    return isinstance(err, ContentEncodingError) or (
        err.__cause__ is not None and _is_bad_encoding(err.__cause__)
    )


def _json_body(body: Mapping[str, Any]) -> bytes:
    """Return a body as JSON.

    A lone surrogate, half of a character, cannot be sent and becomes "?".
    """
    try:
        return json_bytes(body)
    except TypeError:
        return json_bytes(_without_surrogates(body))


def _without_surrogates(value: Any) -> Any:
    """Return a value with "?" for each lone surrogate in its texts."""
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case Mapping():
            return {
                _without_surrogates(key): _without_surrogates(item)
                for key, item in value.items()
            }
        case list() | tuple():
            return [_without_surrogates(item) for item in value]
        case _:
            return value

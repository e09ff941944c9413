"""HTTP with a model server: timeouts, lines of a stream, one error translator."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from homeassistant.helpers.json import json_bytes
from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads

from .address import shown_host
from .errors import (
    CannotConnect,
    ConnectionLost,
    HostRefused,
    InvalidAuth,
    ModelNotFound,
    ModelServerError,
    PromptTooLong,
    RequestRefused,
    ServerTimedOut,
    is_prompt_too_long,
)

CONNECT_TIMEOUT: Final = 10.0
# For requests that need no model: lists, versions.
SHORT_TIMEOUT: Final = 10.0
# Some servers send a whole page, or the request, back with an error.
_MAX_DETAIL: Final = 4000
_SHORTEST_SECRET: Final = 3


class HttpClient:
    """Sends requests to one server and turns every failure into one of ours."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        idle_timeout: float,
    ) -> None:
        """Talk to the server at url.

        headers go with every request and are kept out of every error.
        idle_timeout is in seconds: to the first byte of an answer, and from one
        byte to the next. There is no limit on the whole.
        """
        self._session = session
        self._headers = headers
        self._secrets = [
            secret
            for value in headers.values()
            for secret in (value, value.removeprefix("Bearer "))
            # A header such as "X-Version: 1" would blot out every 1.
            if len(secret) > _SHORTEST_SECRET
        ]
        self._idle_timeout = idle_timeout
        self.host = shown_host(url)

    async def get(self, url: str, timeout: float = SHORT_TIMEOUT) -> Any:
        """Return the JSON at url."""
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
        """Send JSON and return the JSON of the answer."""
        async with self.request(
            "POST", url, body, timeout=timeout, headers=headers
        ) as response:
            return await self.read_json(response)

    async def post_lines(
        self, url: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[bytes]:
        """Send JSON and yield the lines of the answer as they come in.

        Closing the generator hangs up, which ends the work on the server.
        """
        async with self.request("POST", url, body) as response:
            async for line in _lines(response.content):
                yield line

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

        timeout, in seconds, takes the place of the idle timeout; headers go
        with this request beside those of all.
        """
        idle = self._idle_timeout if timeout is None else timeout
        more = headers or {}
        try:
            async with await self._send(method, url, body, idle, more) as response:
                if response.status >= 300:
                    raise await self._refusal(response)
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as err:
            raise CannotConnect(self.host, self._redact(str(err))) from err
        except TimeoutError as err:
            raise ServerTimedOut(self.host, f"no answer for {idle:g} s") from err
        except aiohttp.InvalidURL as err:
            raise CannotConnect(self.host, "not an address") from err
        except ValueError as err:
            # A password in the address and a key: both want the same header.
            raise CannotConnect(self.host, self._redact(str(err))) from err
        except (aiohttp.ClientError, OSError) as err:
            detail = self._redact(str(err) or type(err).__name__)
            raise ConnectionLost(self.host, detail) from err

    async def _send(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None,
        idle: float,
        headers: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        """Return the head of an answer.

        A connection that was kept may be closed by the server in the moment it is
        used again: llama.cpp does so after each stream. Such a request was not
        read, and is sent once more.
        """

        async def send() -> aiohttp.ClientResponse:
            return await self._session.request(
                method,
                url,
                data=None if body is None else json_bytes(body),
                headers={
                    "Content-Type": "application/json",
                    **self._headers,
                    **headers,
                },
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT, sock_read=idle
                ),
                # A redirect would take the key to another server.
                allow_redirects=False,
            )

        try:
            return await send()
        except aiohttp.ServerDisconnectedError:
            return await send()

    def error(self, detail: str) -> ModelServerError:
        """Return the error that a server reported inside an answer."""
        kind = PromptTooLong if is_prompt_too_long(detail) else ModelServerError
        return kind(self.host, self._redact(detail))

    async def read_json(self, response: aiohttp.ClientResponse) -> Any:
        """Return the whole answer as JSON, None where it is empty."""
        try:
            body = await response.read()
            return json_loads(body) if body.strip() else None
        except JSON_DECODE_EXCEPTIONS as err:
            raise ModelServerError(
                self.host, "the answer is not JSON", status=response.status
            ) from err

    async def _refusal(self, response: aiohttp.ClientResponse) -> ModelServerError:
        """Return the error for an answer with an error status."""
        status = response.status
        detail = self._redact(error_text(await response.text(errors="replace")))
        if status < 400:
            location = response.headers.get("Location", "")
            return CannotConnect(
                self.host, f"redirects to {self._redact(location)}", status=status
            )
        if status == 403 and not detail:
            return HostRefused(self.host, "an empty answer", status=status)
        if status in (401, 403):
            return InvalidAuth(self.host, detail, status=status)
        if status == 404 and "model" in detail.lower():
            return ModelNotFound(self.host, detail, status=status)
        kind = RequestRefused if status < 500 else ModelServerError
        if is_prompt_too_long(detail):
            kind = PromptTooLong
        return kind(self.host, detail, status=status)

    def _redact(self, text: str) -> str:
        """Return a text of the server without our secrets, short, in one line."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:_MAX_DETAIL]


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
    """Yield the lines that are not blank.

    StreamReader's own lines end at 512 KiB with an error that is no ClientError
    (aiohttp 3.14, LineTooLong).
    """
    pieces: list[bytes] = []
    async for chunk in content.iter_any():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            if line := b"".join((*pieces, end)).strip():
                yield line
            pieces.clear()
        pieces.append(rest)
    if line := b"".join(pieces).strip():
        yield line


def error_text(body: str) -> str:
    """Return the message in the body of an error.

    {"error": "text"} is Ollama's form, {"error": {"message": "text"}} OpenAI's;
    Gemini puts the latter into a list. Anything else is returned whole.
    """
    try:
        data: Any = json_loads(body)
    except JSON_DECODE_EXCEPTIONS:
        return body
    if isinstance(data, list) and data:
        data = data[0]
    if isinstance(data, dict):
        error = data.get("error")
        if isinstance(error, dict):
            field = error.get("param")
            error = error.get("message")
            if isinstance(error, str) and isinstance(field, str) and field not in error:
                error = f"{error} ({field})"
        if isinstance(error, str):
            return error
    return body

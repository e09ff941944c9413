"""Requests over real sockets, to servers that do it right and wrong."""

import asyncio
import base64
from collections.abc import Callable
from contextlib import aclosing
import html
import json
import logging
import socket
import time
import traceback
from typing import Any
from urllib.parse import quote, quote_plus

import aiohttp
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_create_clientsession
import pytest
from yarl import URL

from custom_components.home_agent.servers import http as http_module, retry
from custom_components.home_agent.servers.errors import (
    CannotConnect,
    ConnectionLost,
    ConnectionRefused,
    HostRefused,
    InvalidAuth,
    MalformedAnswer,
    ModelNotFound,
    ModelServerError,
    PromptTooLong,
    RequestRefused,
    ServerBusy,
    ServerTimedOut,
    UnknownServer,
    WrongScheme,
)
from custom_components.home_agent.servers.http import HttpClient
from custom_components.home_agent.servers.session import (
    CheckedRequest,
    async_get_session,
)
from tests.servers.raw import RawServer, chunk, chunked_head, http_answer

BODY: dict[str, Any] = {"model": "m"}


@pytest.fixture
def client(hass: HomeAssistant) -> Callable[..., HttpClient]:
    """Return a function that makes a client of a server."""

    def make(
        url: str, *, idle: float = 20.0, headers: dict[str, str] | None = None
    ) -> HttpClient:
        return HttpClient(async_get_session(hass), url, headers or {}, idle)

    return make


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses of the client, which do not take their time."""
    taken: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(delay: float) -> None:
        if delay:
            taken.append(delay)
        await real_sleep(0)

    monkeypatch.setattr("asyncio.sleep", sleep)
    return taken


async def lines_of(http: HttpClient, url: str) -> list[bytes]:
    """Return the lines of a stream."""
    async with aclosing(http.post_lines(url, BODY)) as lines:
        return [line async for line in lines]


# --- How often a request is sent --------------------------------------------------


@pytest.mark.parametrize("streams", [False, True])
async def test_a_post_request_is_sent_once(
    client: Callable[..., HttpClient], *, streams: bool
) -> None:
    """A server that reads it and hangs up may have done the work."""
    server = RawServer.of(b"", close=True)
    async with server.serve() as url:
        http = client(url)
        with pytest.raises(ConnectionLost) as caught:
            await (lines_of(http, url) if streams else http.post(url, BODY))
    assert len(server.requests) == 1
    assert caught.value.is_transient


async def test_a_kept_connection_that_was_closed_is_not_used(
    client: Callable[..., HttpClient],
) -> None:
    """The server closed it after an answer, and the event loop was busy until now."""
    server = RawServer.of(http_answer(b"{}"), close=True)
    async with server.serve() as url:
        http = client(url)
        await http.post(url, BODY)
        for _ in range(5):
            # The end of the connection arrives while nobody looks at sockets.
            time.sleep(0.02)  # noqa: ASYNC251 - this is what is tested
            await http.post(url, BODY)
    assert len(server.requests) == server.connections == 6


async def test_a_connection_is_kept_after_a_stream(
    client: Callable[..., HttpClient],
) -> None:
    """The end of a stream often comes a moment after its last line."""

    async def answer(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head() + chunk(b'{"done": true}\n'))
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(chunk(b""))

    server = RawServer(answer)
    async with server.serve() as url:
        http = client(url)
        for _ in range(3):
            async with aclosing(http.post_lines(url, BODY)) as lines:
                assert await anext(lines) == b'{"done": true}'
    assert len(server.requests) == 3
    assert server.connections == 1


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["at once", "later"])
@pytest.mark.parametrize("streams", [False, True])
async def test_a_second_answer_is_not_that_to_the_next_request(
    client: Callable[..., HttpClient], pause: float, *, streams: bool
) -> None:
    """A connection that the server used without a request is closed."""

    async def answer(server: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer(b"%d\n" % len(server.requests)))
        await asyncio.sleep(pause)
        writer.write(http_answer(b"666\n"))

    server = RawServer(answer)
    async with server.serve() as url:
        http = client(url)
        for number in (1, 2, 3):
            if streams:
                assert await lines_of(http, url) == [b"%d" % number]
            else:
                assert await http.post(url, BODY) == number
            await asyncio.sleep(0.05)
    assert server.connections == 3


async def test_a_server_that_speaks_first(hass: HomeAssistant) -> None:
    """It is no HTTP server, and gets no request."""
    connections = 0

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(http_answer(b"1"))

    async def wait(*_: object) -> None:
        await asyncio.sleep(0.01)

    traces = aiohttp.TraceConfig()
    traces.on_connection_create_end.append(wait)
    session = async_create_clientsession(
        hass, request_class=CheckedRequest, trace_configs=[traces]
    )
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(UnknownServer):
            await HttpClient(session, url, {}, 5).post(url, BODY)
        server.close_clients()
    assert connections == 10


async def test_closing_a_stream_hangs_up(client: Callable[..., HttpClient]) -> None:
    """So that the server stops generating."""
    gone = asyncio.Event()

    async def answer(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head())
        try:
            while True:
                writer.write(chunk(b"token\n"))
                await writer.drain()
                await asyncio.sleep(0.001)
        except ConnectionError:
            gone.set()
            raise

    async with RawServer(answer).serve() as url:
        async with aclosing(client(url).post_lines(url, BODY)) as lines:
            await anext(lines)
        await asyncio.wait_for(gone.wait(), 5)


async def test_one_retry_after_a_pause(
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the server may be restarting, and nowhere else."""
    caplog.set_level(logging.DEBUG)
    # The other tests do without the pause.
    monkeypatch.setattr(retry, "RETRY_PAUSE", 1.5)
    for error in (ConnectionRefused("host", "why"), ConnectionLost("host", "why")):
        assert await retry.async_may_retry(error)
    assert pauses == [retry.RETRY_PAUSE] * 2
    assert caplog.text.count("Sending the request again in 1.5 s") == 2
    for kind in (CannotConnect, InvalidAuth, ServerTimedOut, ServerBusy, WrongScheme):
        assert not await retry.async_may_retry(kind("host"))
    assert len(pauses) == 2


async def test_a_server_that_does_not_listen(
    client: Callable[..., HttpClient],
) -> None:
    """The connection is refused: the server may be restarting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(ConnectionRefused):
        await client(url).post(url, BODY)


# --- Waiting for a server ---------------------------------------------------------

LOADING = http_answer(
    b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
    status="503 Service Unavailable",
)
BUSY = http_answer(
    b'{"error":"server busy, please try again.  maximum pending requests exceeded"}',
    status="503 Service Unavailable",
)
GOOD = http_answer(b'{"good": true}')


def later(value: str) -> bytes:
    """Return an answer with a header Retry-After."""
    header = f"Retry-After: {value}"
    return http_answer(b"", header, status="503 Service Unavailable")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((LOADING, LOADING, GOOD), [1, 1]),
        ((BUSY, GOOD), [1]),
        ((later("3"), GOOD), [3]),
        ((later("0"), GOOD), [1]),
        ((later("soon"), GOOD), [1]),
        ((later("-5"), GOOD), [1]),
        ((later("Wed, 21 Oct 2015 07:28:00 GMT"), GOOD), [1]),
    ],
)
async def test_waiting_for_a_server_that_is_not_ready(
    client: Callable[..., HttpClient],
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
    answers: tuple[bytes, ...],
    expected: list[float],
) -> None:
    """It says so, and is asked again within the patience of the turn."""
    caplog.set_level(logging.DEBUG)
    async with RawServer.of(*answers).serve() as url:
        assert await client(url).post(url, BODY) == {"good": True}
    assert pauses == expected
    assert "Sending again in" in caplog.text


@pytest.mark.parametrize("answer", [later("30"), later("9" * 400)])
async def test_no_wait_longer_than_the_patience(
    client: Callable[..., HttpClient], pauses: list[float], answer: bytes
) -> None:
    """A server that will not be ready in time is not waited for."""
    async with RawServer.of(answer).serve() as url:
        with pytest.raises(ServerBusy):
            await client(url).post(url, BODY)
    assert not pauses


async def test_the_patience_ends(
    client: Callable[..., HttpClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is never ready fails the turn."""
    monkeypatch.setattr(
        "custom_components.home_agent.servers.refusals.READY_PAUSE", 0.02
    )
    server = RawServer.of(LOADING)
    async with server.serve() as url:
        with pytest.raises(ServerBusy) as caught:
            await lines_of(client(url, idle=0.2), url)
    assert 2 <= len(server.requests) <= 11
    assert "Loading model" in caught.value.detail


async def test_only_post_requests_wait(
    client: Callable[..., HttpClient], pauses: list[float]
) -> None:
    """A poll says what is, and another failure of a server is not waited for."""
    async with RawServer.of(LOADING).serve() as url:
        with pytest.raises(ServerBusy):
            await client(url).get(url)
    failure = http_answer(b"no upstream", status="503 Service Unavailable")
    async with RawServer.of(failure).serve() as url:
        with pytest.raises(ModelServerError) as caught:
            await client(url).post(url, BODY)
    assert not isinstance(caught.value, ServerBusy)
    assert not pauses


# --- Bounds -----------------------------------------------------------------------


async def test_a_body_that_is_not_read(
    client: Callable[..., HttpClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time to write it is bounded."""
    over = asyncio.Event()

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    monkeypatch.setattr(http_module, "CONNECT_TIMEOUT", 0.1)
    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(ServerTimedOut):
        await client(url, idle=0.2).post(url, {"text": "x" * 50_000_000})
    over.set()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("sign", [b": ping\n\n", b"\n", b" ", b"x"])
async def test_signs_of_life_are_no_answer(
    client: Callable[..., HttpClient], sign: bytes
) -> None:
    """Pings and blank lines prolong a wait, but not indefinitely."""

    async def answer(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head())
        while True:
            writer.write(chunk(sign))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with RawServer(answer).serve() as url:
        http = client(url, idle=0.1)
        for call in (lines_of(http, url), http.post(url, BODY), http.get(url, 0.1)):
            started = time.monotonic()
            with pytest.raises(ServerTimedOut):
                await call
            assert 0.2 < time.monotonic() - started < 2


async def test_lines_prolong_a_stream(client: Callable[..., HttpClient]) -> None:
    """A stream may take any time as long as lines come."""

    async def answer(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head())
        for _number in range(30):
            writer.write(chunk(b": ping\n\ndata: x\n\n"))
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(chunk(b""))

    async with RawServer(answer).serve() as url:
        lines = await lines_of(client(url, idle=0.1), url)
    assert lines == [b": ping", b"data: x"] * 30


async def test_a_slow_reader_is_not_timed_out(
    client: Callable[..., HttpClient],
) -> None:
    """The bound is on the server, not on what the caller does with a line."""
    answer = chunked_head() + chunk(b"a\n") + chunk(b"b\n") + chunk(b"")
    async with RawServer.of(answer).serve() as url:
        found = []
        async with aclosing(client(url, idle=0.05).post_lines(url, BODY)) as lines:
            async for line in lines:
                found.append(line)
                await asyncio.sleep(0.2)
    assert found == [b"a", b"b"]


async def test_a_line_without_an_end(
    client: Callable[..., HttpClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length is bounded."""
    monkeypatch.setattr(http_module, "_MAX_LINE", 1000)
    answer = chunked_head() + chunk(b"x" * 2000) + chunk(b"")
    async with RawServer.of(answer).serve() as url:
        with pytest.raises(MalformedAnswer):
            await lines_of(client(url), url)


async def test_an_error_without_an_end(
    client: Callable[..., HttpClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came of it is enough."""
    monkeypatch.setattr(http_module, "SHORT_TIMEOUT", 0.1)
    head = http_answer(b"wrong key", status="401 Unauthorized", length=10**9)
    async with RawServer.of(head).serve() as url:
        with pytest.raises(InvalidAuth) as caught:
            await client(url).post(url, BODY)
    assert caught.value.detail == "wrong key"


# --- One translator ---------------------------------------------------------------

MALFORMED: dict[str, tuple[bytes, type[ModelServerError]]] = {
    "nothing": (b"", ConnectionLost),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", UnknownServer),
    "HTTP/0.9": (b"<html>hello</html>", UnknownServer),
    "a bad status": (b"HTTP/1.1 abc OK\r\n\r\n", UnknownServer),
    "a cut head": (b"HTTP/1.1 200 OK\r\nContent-Le", ConnectionLost),
    "too long a header": (
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        UnknownServer,
    ),
    "too many headers": (
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        UnknownServer,
    ),
    "a bad length": (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", UnknownServer),
    "too short a body": (http_answer(b"{}", length=10), ConnectionLost),
    "a bad chunk": (chunked_head() + b"zz\r\n{}\r\n0\r\n\r\n", UnknownServer),
    "a cut chunk": (chunked_head() + b"ff\r\n{}", ConnectionLost),
    "no last chunk": (chunked_head() + chunk(b"{}"), ConnectionLost),
    "bad gzip": (http_answer(b"{}", "Content-Encoding: gzip"), MalformedAnswer),
    "bad zstd": (http_answer(b"{}", "Content-Encoding: zstd"), MalformedAnswer),
    "bad deflate": (http_answer(b"{}", "Content-Encoding: deflate"), MalformedAnswer),
    "not JSON": (http_answer(b"<html>"), MalformedAnswer),
    "cut JSON": (http_answer(b'{"a": '), MalformedAnswer),
    "deep JSON": (http_answer(b"[" * 100_000), MalformedAnswer),
    "an error of no charset": (
        http_answer(
            b"\xff", "Content-Type: text/plain; charset=base64", status="400 Bad"
        ),
        RequestRefused,
    ),
    "a redirect": (
        http_answer(b"", "Location: http://[", status="307 Moved"),
        CannotConnect,
    ),
    "a redirect in Latin-1": (
        b"HTTP/1.1 307 Moved\r\nContent-Length: 0\r\nLocation: /\xe9\r\n\r\n",
        CannotConnect,
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_answers(
    client: Callable[..., HttpClient], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only our own errors leave the client, with a text that can be logged."""
    answer, kind = MALFORMED[name]
    async with RawServer.of(answer, close=True).serve() as url:
        http = client(url)
        for call in (http.post(url, BODY), http.get(url)):
            with pytest.raises(ModelServerError) as caught:
                await call
            assert type(caught.value) is kind, caught.value.log_text
            caught.value.log_text.encode()
        if kind is not MalformedAnswer:
            with pytest.raises(kind):
                await lines_of(http, url)


@pytest.mark.parametrize("body", [b"", b" \r\n", b"null"])
async def test_empty_answers(client: Callable[..., HttpClient], body: bytes) -> None:
    """There is no value: the caller decides whether it needs one."""
    async with RawServer.of(http_answer(body)).serve() as url:
        assert await client(url).post(url, BODY) is None


async def test_https_to_an_http_port(client: Callable[..., HttpClient]) -> None:
    """It is told apart from a server that does not answer."""
    bad_request = http_answer(b"", status="400 Bad Request")

    async def connected(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(100)
        writer.write(bad_request)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(WrongScheme):
        await client(url).get(url)
    server.close()


async def test_http_to_an_https_port(client: Callable[..., HttpClient]) -> None:
    """Go and nginx say so."""
    for text in (
        b"Client sent an HTTP request to an HTTPS server.",
        b"<center>The plain HTTP request was sent to HTTPS port</center>",
    ):
        async with RawServer.of(http_answer(text, status="400 Bad")).serve() as url:
            with pytest.raises(WrongScheme):
                await client(url).get(url)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "ftp://h/"])
async def test_no_address(client: Callable[..., HttpClient], url: str) -> None:
    """An address that is none is one of our errors too."""
    with pytest.raises(CannotConnect):
        await client("http://h").get(url)


async def test_a_header_that_cannot_be_sent(client: Callable[..., HttpClient]) -> None:
    """Neither the header nor its value is shown."""
    http = client("http://127.0.0.1", headers={"X-Key": "secret\nvalue"})
    with pytest.raises(CannotConnect) as caught:
        await http.get("http://127.0.0.1:1")
    assert "secret" not in caught.value.log_text


async def test_lone_surrogates_in_a_request(
    client: Callable[..., HttpClient],
) -> None:
    """Half of a character cannot be sent; the rest is."""
    server = RawServer.of(GOOD)
    async with server.serve() as url:
        await client(url).post(url, {"a\udc80": ["x\ud800y", {"b": ("ü",)}], "n": 1})
    assert server.requests[0][1] == '{"a?":["x?y",{"b":["ü"]}],"n":1}'.encode()


# --- Secrets ----------------------------------------------------------------------

KEY = "sk-proj-a+b/c=d&e<f>0123456789"


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        f"Bearer {KEY}",
        f"bearer {KEY.upper()}",
        quote(KEY, safe=""),
        quote(KEY, safe="").lower(),
        quote_plus(KEY),
        html.escape(KEY),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
        "sk-proj-****6789",
        "sk-proj-a+b/",
        "secret-header",
        base64.b64encode(b"user:pass word").decode(),
        "user:pass word",
        "pass word",
        "pass%20word",
        "pass+word",
        "zq",
    ],
)
async def test_no_secret_comes_back(
    client: Callable[..., HttpClient], echo: str
) -> None:
    """Neither keys nor passwords nor headers, however the server writes them."""
    headers = {
        "Authorization": f"Bearer {KEY}",
        "Proxy-Authorization": "Basic dXNlcjpwYXNzIHdvcmQ=",
        "X-Proxy": "secret-header",
        "X-Version": "1",
        "api-key": "zq",
    }
    said = f"version 1 of a table: ({echo})"
    body = json.dumps({"error": said}).encode()
    for status in (307, 400, 401, 500):
        answer = http_answer(body, f"Location: /{echo}", status=f"{status} X")
        async with RawServer.of(answer).serve() as url:
            http = client(url, headers=headers)
            with pytest.raises(ModelServerError) as caught:
                await http.post(url, BODY)
        assert echo.lower() not in caught.value.log_text.lower()
        assert "***" in caught.value.detail
    # Nothing else is removed.
    left = http.error(said).detail.lower().replace("bearer ", "")
    assert left.startswith("version 1 of a table: (***")


async def test_no_secret_is_in_the_traceback_of_an_error(
    client: Callable[..., HttpClient],
) -> None:
    """Home Assistant logs the causes of an error, with their own texts."""
    headers = {"Authorization": f"Bearer {KEY}"}
    head = f"HTTP/1.1 200 OK\r\nX-Echo Authorization Bearer {KEY}\r\n\r\n".encode()
    for answer in (head, http_answer(KEY.encode()), head.replace(b"200", KEY.encode())):
        async with RawServer.of(answer).serve() as url:
            address = f"{url}/path-secret"
            http = client(address, headers=headers)
            for call in (http.get(address), http.post(address, BODY)):
                with pytest.raises(ModelServerError) as caught:
                    await call
                shown = "".join(traceback.format_exception(caught.value))
                assert KEY not in shown + caught.value.log_text
                assert "path-secret" not in shown + caught.value.log_text


async def test_the_log_names_the_kind_of_a_failure(
    client: Callable[..., HttpClient],
) -> None:
    """Without its cause in the traceback, the type must be in the text."""
    async with RawServer.of(b"HTTP/1.1 abc OK\r\n\r\n", close=True).serve() as url:
        with pytest.raises(UnknownServer) as caught:
            await client(url).get(url)
    assert "ClientResponseError: " in caught.value.detail
    assert "abc" in caught.value.detail
    assert url not in caught.value.detail


@pytest.mark.parametrize("path", ["s3cret", "s3cr%65t-path/x", "a/long-s3cret", "x"])
async def test_the_path_of_an_address_is_secret(
    client: Callable[..., HttpClient], path: str
) -> None:
    """Some proxies let in whoever knows it; servers repeat it in their errors."""
    said = f"Cannot POST /{path}/v1/chat: no table in v1"
    answer = http_answer(said.encode(), status="404 Not Found")
    async with RawServer.of(answer).serve() as url:
        with pytest.raises(ModelServerError) as caught:
            await client(f"{url}/{path}/v1").post(f"{url}/{path}/v1/chat", BODY)
    detail = caught.value.detail
    assert detail.startswith("Cannot POST ***")
    assert detail.endswith("/v1/chat: no table in v1")
    assert not set(path.split("/")[:2]) & set(detail.split("/"))


async def test_no_server_gets_the_cookies_of_another(hass: HomeAssistant) -> None:
    """A cookie is for all ports of a host, and the session is one for all servers."""
    jar = async_get_session(hass).cookie_jar
    jar.update_cookies({"session": "secret"}, URL("http://localhost:1"))
    assert not jar.filter_cookies(URL("http://localhost:2"))


# --- Refusals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (401, "", InvalidAuth),
        (401, "whatever", InvalidAuth),
        (403, "", HostRefused),
        (400, '{"error":{"message":"No connected db.","code":"400"}}', InvalidAuth),
        (403, '{"error":{"message":"Invalid API key"}}', InvalidAuth),
        (403, '{"detail":"Not authenticated"}', InvalidAuth),
        (403, '{"error":{"status":"PERMISSION_DENIED"}}', InvalidAuth),
        (403, "Forbidden", InvalidAuth),
        (403, "unauthorized", InvalidAuth),
        (403, '{"error":{"message":"invalid token"}}', InvalidAuth),
        (403, "Your chosen model requires moderation; it was flagged", RequestRefused),
        (403, "Key limit exceeded (total limit)", RequestRefused),
        (403, "insufficient_quota for this API key", RequestRefused),
        (403, "Billing hard limit has been reached", RequestRefused),
        (403, "Country, region, or territory not supported", RequestRefused),
        (403, "this model requires a subscription, upgrade", RequestRefused),
        (403, "Ask the author of the page", RequestRefused),
        (404, '{"error":"model \\"x\\" not found"}', ModelNotFound),
        (404, "404 page not found", RequestRefused),
        (400, "this model's maximum context length is 8192 tokens", PromptTooLong),
        (422, "[]", RequestRefused),
        (500, '{"error":"boom"}', ModelServerError),
        (502, "<html>", ModelServerError),
    ],
)
async def test_refusals(
    client: Callable[..., HttpClient],
    status: int,
    text: str,
    kind: type[ModelServerError],
) -> None:
    """A wrong key is asked for again only if the key is wrong."""
    answer = http_answer(text.encode(), status=f"{status} X")
    async with RawServer.of(answer).serve() as url:
        with pytest.raises(ModelServerError) as caught:
            await client(url).post(url, BODY)
    assert type(caught.value) is kind
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ('{"error":"text"}', "text"),
        ('{\n  "error": {\n    "message": "two\\nlines"\n  }\n}', "two lines"),
        ('[{"error":{"message":"Gemini"}}]', "Gemini"),
        ('{"detail":"FastAPI"}', "FastAPI"),
        ('{"message":"Mistral"}', "Mistral"),
        (
            '{"error":{"message":"Unknown field","param":"keep_alive"}}',
            "Unknown field (keep_alive)",
        ),
        ('{"error":{"message":"no x","param":"x"}}', "no x"),
        ('{"error":{"param":5}}', ""),
        ('{"detail":[{"loc":["x"]}]}', "x"),
        ("null", ""),
        ("[]", ""),
        ('"text"', "text"),
        ('{"error":"\\ud800"}', '{"error":"\\ud800"}'),
    ],
)
async def test_texts_of_errors(
    client: Callable[..., HttpClient], body: str, detail: str
) -> None:
    """The reason in each form, also over several lines."""
    answer = http_answer(body.encode(), status="400 Bad")
    async with RawServer.of(answer).serve() as url:
        with pytest.raises(RequestRefused) as caught:
            await client(url).post(url, BODY)
    assert caught.value.detail == detail

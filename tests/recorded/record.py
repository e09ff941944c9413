"""Record what goes between a client and a model server.

    python -m tests.recorded.record --server http://127.0.0.1:11434 --port 11500 \
        --to recordings

It listens on a port, passes each request on to the server and each byte of the
answer back, and writes every exchange to a file. Headers that may hold secrets are
not written, and what was in them is removed wherever it comes up again.
"""

import argparse
import asyncio
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
import re
from typing import Self

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from .exchange import (
    End,
    Exchange,
    clean,
    cleaned,
    kept_headers,
    request_body,
    secrets_of,
    shown_path,
)

# These belong to one connection; and a compressed answer cannot be read in a file.
_NOT_PASSED_ON = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_MAX_REQUEST = 256 * 2**20


class Chunks:
    """Puts the pieces of an answer together to the chunks that the server sent."""

    def __init__(self) -> None:
        """Start without any."""
        self._chunks: list[bytes] = []
        self._pieces: list[bytes] = []

    def add(self, piece: bytes, is_end_of_chunk: bool) -> None:
        """Add what has come; a chunk may come in several pieces."""
        if piece:
            self._pieces.append(piece)
        # The end of the last chunk may come again, with nothing in it.
        if is_end_of_chunk and self._pieces:
            self._chunks.append(b"".join(self._pieces))
            self._pieces.clear()

    def all(self) -> list[bytes]:
        """Return the chunks; an answer without a chunked encoding is one."""
        return [*self._chunks, *([b"".join(self._pieces)] if self._pieces else [])]


class Recorder:
    """A proxy of one server that writes exchanges to a folder."""

    def __init__(self, server: str, folder: Path) -> None:
        """Pass requests on to the address server."""
        address = URL(server.rstrip("/"))
        # A name and password in the address go to the server, and nowhere else.
        self.shown_server = str(address.with_user(None)).rstrip("/")
        self._secrets: list[str] = []
        self._login = ""
        if address.password:
            login = f"{address.user}:{address.password}".encode()
            self._login = f"Basic {b64encode(login).decode()}"
            self._secrets = [address.password, self._login]
        self._folder = folder
        self._count = 0
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> Self:
        """Listen on a port; 0 takes any that is free."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._count = len(list(self._folder.glob("*.json")))
        # A model may think for long: only the client decides when it is too long.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(
            # llama.cpp closes a kept connection after each stream.
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=["User-Agent"],
        )
        app = web.Application(client_max_size=_MAX_REQUEST)
        app.router.add_route("*", "/{tail:.*}", self._pass_on)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        """Start."""
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, and its answer back."""
        assert self._session is not None
        body = await request.read()
        headers = CIMultiDict(
            (name, value)
            for name, value in request.headers.items()
            if name.lower() not in _NOT_PASSED_ON
        )
        headers[hdrs.ACCEPT_ENCODING] = "identity"
        if self._login:
            # A key of the client takes the place of the password.
            headers.setdefault(hdrs.AUTHORIZATION, self._login)
        try:
            answer = await self._session.request(
                request.method,
                URL(self.shown_server + request.raw_path, encoded=True),
                data=body or None,
                headers=headers,
                allow_redirects=False,
            )
        except aiohttp.ClientError as err:
            reason = f"{self.shown_server} does not answer: {type(err).__name__}"
            print(reason, flush=True)
            return web.Response(status=502, text=reason)
        async with answer:
            return await self._pass_back(request, body, answer)

    async def _pass_back(
        self, request: web.Request, body: bytes, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Pass an answer back as it comes, and write the exchange to a file."""
        response = web.StreamResponse(status=answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _NOT_PASSED_ON:
                response.headers.add(name, value)
        response.content_length = answer.content_length
        chunks = Chunks()
        end: End = "client closed"
        try:
            await response.prepare(request)
            try:
                async for piece, is_end_of_chunk in answer.content.iter_chunks():
                    chunks.add(piece, is_end_of_chunk)
                    await response.write(piece)
            except aiohttp.ClientPayloadError:
                end = "server closed"
                _hang_up(request)
            else:
                await response.write_eof()
                end = "complete"
        except ConnectionError:
            # The client hung up: that is worth recording, and no fault of ours.
            pass
        finally:
            self._save(request, body, answer, chunks.all(), end)
        return response

    def _save(
        self,
        request: web.Request,
        body: bytes,
        answer: aiohttp.ClientResponse,
        chunks: list[bytes],
        end: End,
    ) -> None:
        """Write an exchange to the next file, without secrets."""
        self._count += 1
        endpoint = "_".join(request.path.split("/")[-2:])
        endpoint = re.sub(r"\W+", "_", endpoint).strip("_") or "start"
        name = f"{self._count:03}_{request.method.lower()}_{endpoint}.json"
        exchange = make_exchange(
            request.method,
            request.path_qs,
            request.headers,
            body,
            answer,
            chunks,
            end=end,
            more_secrets=self._secrets,
        )
        exchange.save(self._folder / name)
        print(f"{name}: {answer.status}, {len(exchange.raw)} bytes, {end}", flush=True)


def make_exchange(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    answer: aiohttp.ClientResponse,
    chunks: list[bytes],
    *,
    end: End = "complete",
    more_secrets: Sequence[str] = (),
) -> Exchange:
    """Return an exchange without the secrets of its request and of its answer."""
    cookies = answer.headers.getall(hdrs.SET_COOKIE, [])
    values = [cookie.partition(";")[0].partition("=")[2] for cookie in cookies]
    secrets = secrets_of(headers, path, (*more_secrets, *values))
    return Exchange(
        method=method,
        path=shown_path(path),
        request_headers=kept_headers(headers),
        body=request_body(clean(body, secrets)),
        status=answer.status,
        headers=kept_headers(answer.headers),
        end=end,
        chunks=cleaned(chunks, secrets),
    )


def _hang_up(request: web.Request) -> None:
    """Close a client's connection in the middle of an answer."""
    if request.transport is not None:
        request.transport.abort()


async def serve(server: str, folder: Path, host: str, port: int) -> None:
    """Record until interrupted."""
    recorder = Recorder(server, folder)
    await recorder.start(port, host)
    where = f"{recorder.url}, files in {folder}"
    print(f"recording what goes to {recorder.shown_server} at {where}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await recorder.stop()


def main() -> None:
    """Read the command line and record."""
    parser = argparse.ArgumentParser(
        description="Record what goes between a client and a model server"
    )
    parser.add_argument("--server", required=True, help="address of the real server")
    parser.add_argument("--to", type=Path, required=True, help="folder for the files")
    parser.add_argument("--port", type=int, default=11500)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other machines connect",
    )
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(options.server, options.to, options.host, options.port))


if __name__ == "__main__":
    main()

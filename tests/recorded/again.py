"""Send recorded requests again, to another version of a server.

    python -m tests.recorded.again --server http://127.0.0.1:11434 \
        tests/recorded/ollama

Each file of the folder keeps its request and gets the new answer. A new exchange
begins as a file with a request only. In place of a folder it may be a table of
requests that the server refuses (ollama_refusals.json).
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from .exchange import Exchange
from .record import Chunks, make_exchange

# Real vectors and lists of tensors are long; their other items teach nothing more.
_MOST_ITEMS = 8


async def send(
    session: aiohttp.ClientSession, server: str, request: dict[str, Any]
) -> Exchange:
    """Return the exchange of a request, its long lists shortened.

    A body that is a text is sent as it is, any other as JSON.
    """
    body = request.get("body")
    raw = body.encode() if isinstance(body, str) else b""
    if body is not None and not isinstance(body, str):
        raw = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **request.get("headers", {})}
    method, path = request["method"], request["path"]
    async with session.request(
        method, server + path, data=raw or None, headers=headers, allow_redirects=False
    ) as answer:
        chunks = Chunks()
        async for piece, is_end_of_chunk in answer.content.iter_chunks():
            chunks.add(piece, is_end_of_chunk)
        return make_exchange(method, path, headers, raw, answer, _short(chunks.all()))


async def send_all(server: str, paths: list[Path]) -> None:
    """Send the requests of some files again, and write the answers to them."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=600)
    # llama.cpp closes a kept connection after each stream.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        for path in paths:
            content = await asyncio.to_thread(_read, path)
            if isinstance(content, list):
                rows = [await _refused(session, server, row) for row in content]
                lines = [json.dumps(row, ensure_ascii=False) for row in rows]
                text = "[\n" + ",\n".join(lines) + "\n]\n"
                await asyncio.to_thread(path.write_text, text, encoding="utf-8")
                continue
            exchange = await send(session, server, content["request"])
            exchange.save(path)
            print(f"{path.name}: {exchange.status}, {len(exchange.raw)} bytes")


async def _refused(
    session: aiohttp.ClientSession, server: str, row: dict[str, Any]
) -> dict[str, Any]:
    """Return a row of the table of refusals with the new answer."""
    method, path = row["request"].split(" ", 1)
    request = {**row, "method": method, "path": path}
    exchange = await send(session, server, request)
    try:
        answer = exchange.json
    except ValueError:
        answer = exchange.raw.decode()
    return row | {"status": exchange.status, "answer": answer}


def _read(path: Path) -> Any:
    """Return the JSON of a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _short(chunks: list[bytes]) -> list[bytes]:
    """Return an answer with no more than the first items of each list in it."""
    try:
        value = json.loads(b"".join(chunks))
    except ValueError:
        return chunks
    short = _shortened(value)
    if short == value:
        return chunks
    return [json.dumps(short, ensure_ascii=False, separators=(",", ":")).encode()]


def _shortened(value: Any) -> Any:
    """Return a JSON value with no more than the first items of each list in it."""
    if isinstance(value, list):
        return [_shortened(item) for item in value[:_MOST_ITEMS]]
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    return value


def main() -> None:
    """Read the command line and send."""
    parser = argparse.ArgumentParser(description="Send recorded requests again")
    parser.add_argument("--server", required=True, help="address of the real server")
    parser.add_argument("path", type=Path, help="a folder of exchanges, or a table")
    options = parser.parse_args()
    path: Path = options.path
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
    asyncio.run(send_all(options.server.rstrip("/"), paths))


if __name__ == "__main__":
    main()

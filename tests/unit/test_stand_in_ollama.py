"""The stand-in Ollama is held to what a real one answers.

The same table runs against a real server: set HOME_AGENT_TEST_OLLAMA to its address
and HOME_AGENT_TEST_MODEL to a small chat model without tools.
"""

from collections.abc import AsyncIterator
from datetime import datetime
import json
import os
from typing import Any

import aiohttp
import pytest

from tests.servers import ManualClock, OllamaStandIn, StandInModel

REAL = os.environ.get("HOME_AGENT_TEST_OLLAMA")
MODEL = os.environ.get("HOME_AGENT_TEST_MODEL", "smol")
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "x", "parameters": {}}}
FOREVER_YEARS = range(2310, 2330)


class Server:
    """Sends requests to the stand-in or to the real server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """Talk to the server at url."""
        self.session = session
        self.url = url

    async def ask(
        self, path: str, body: dict[str, Any] | None = None, method: str = "POST"
    ) -> tuple[int, Any]:
        """Return the status and the JSON, lines or text of an answer."""
        async with self.session.request(method, self.url + path, json=body) as response:
            text = await response.text()
            if "ndjson" in response.content_type:
                return response.status, [json.loads(line) for line in text.splitlines()]
            try:
                return response.status, json.loads(text)
            except ValueError:
                return response.status, text

    async def chat(self, **fields: Any) -> tuple[int, Any]:
        """Return the answer to a short chat in one piece."""
        body = {"model": MODEL, "messages": HELLO, "stream": False}
        options = {"num_predict": 2, **fields.pop("options", {})}
        return await self.ask("/api/chat", body | {"options": options} | fields)

    async def loaded(self) -> dict[str, Any] | None:
        """Return what /api/ps says of the model."""
        _, answer = await self.ask("/api/ps", method="GET")
        return next((m for m in answer["models"] if m["name"].startswith(MODEL)), None)

    async def unload(self) -> None:
        """Unload the model and wait until it is gone."""
        await self.ask("/api/generate", {"model": MODEL, "keep_alive": 0})
        for _ in range(1000):
            if await self.loaded() is None:
                return
        pytest.fail("the model does not leave")


@pytest.fixture
async def server(socket_enabled: None) -> AsyncIterator[Server]:
    """Return the server, with the model not loaded."""
    capabilities = ("completion",)
    stand_in = OllamaStandIn(
        [StandInModel(f"{MODEL}:latest", capabilities)], clock=ManualClock()
    )
    async with stand_in, aiohttp.ClientSession() as session:
        result = Server(session, REAL or stand_in.url)
        await result.unload()
        yield result


MISSING_UNIT = 'time: missing unit in duration "{}"'
INVALID = 'time: invalid duration "{}"'
UNKNOWN_UNIT = 'time: unknown unit "{}" in duration "{}"'


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("-1", MISSING_UNIT.format("-1")),
        ("300", MISSING_UNIT.format("300")),
        ("5", MISSING_UNIT.format("5")),
        ("", INVALID.format("")),
        (" 5m", INVALID.format(" 5m")),
        ("forever", INVALID.format("forever")),
        ("1d", UNKNOWN_UNIT.format("d", "1d")),
        ("5M", UNKNOWN_UNIT.format("M", "5M")),
        ("5min", UNKNOWN_UNIT.format("min", "5min")),
        ("5 m", UNKNOWN_UNIT.format(" m", "5 m")),
        ("1h 30m", UNKNOWN_UNIT.format("h ", "1h 30m")),
        ("2562048h", INVALID.format("2562048h")),
        (True, "Unsupported type: 'bool'"),
    ],
)
async def test_refused_keep_alive(server: Server, value: Any, error: str) -> None:
    """What is no duration is refused with Go's own words."""
    assert await server.chat(keep_alive=value) == (400, {"error": error})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("0.5h", 1800),
        (".5h", 1800),
        ("+5m", 300),
        ("1800s", 1800),
        ("30m", 1800),
        ("90000ms", 90),
        (300, 300),
        (90.5, 90.5),
        (None, 300),
    ],
)
async def test_accepted_keep_alive(server: Server, value: Any, seconds: float) -> None:
    """Durations and numbers of seconds; null leaves it to the server."""
    status, _ = await server.chat(keep_alive=value)
    assert status == 200
    await assert_stays(server, seconds)


async def assert_stays(server: Server, seconds: float) -> None:
    """Compare the time left by asking for the same with a known duration."""
    before = await server.loaded()
    assert before is not None
    await server.ask("/api/generate", {"model": MODEL, "keep_alive": "1000h"})
    after = await server.loaded()
    assert after is not None
    left = 3_600_000 - (stamp(after) - stamp(before))
    assert left == pytest.approx(seconds, abs=5 if REAL else 0.1)


def stamp(model: dict[str, Any]) -> float:
    """Return when a model expires, in Unix seconds."""
    return datetime.fromisoformat(model["expires_at"]).timestamp()


@pytest.mark.parametrize("value", [-1, -0.5, "-1m", "-1s"])
async def test_forever(server: Server, value: Any) -> None:
    """Anything negative never expires: some 292 years from now."""
    assert (await server.chat(keep_alive=value))[0] == 200
    model = await server.loaded()
    assert model is not None
    assert int(model["expires_at"][:4]) in FOREVER_YEARS


@pytest.mark.parametrize("value", [0, "0", "0s", "-0", 9999999999])
async def test_unload_after_the_answer(server: Server, value: Any) -> None:
    """Zero, and what wraps around to less, unloads the model."""
    status, answer = await server.chat(keep_alive=value)
    assert (status, answer["done"]) == (200, True)
    for _ in range(1000):
        if await server.loaded() is None:
            return
    pytest.fail("the model does not leave")


async def test_ignored_places(server: Server) -> None:
    """Ollama reads keep_alive neither in options nor over /v1."""
    assert (await server.chat(options={"keep_alive": "1h"}))[0] == 200
    await assert_stays(server, 300)
    await server.chat(keep_alive=-1)
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2, "keep_alive": "1m"}
    assert (await server.ask("/v1/chat/completions", body))[0] == 200
    model = await server.loaded()
    assert model is not None
    assert int(model["expires_at"][:4]) in FOREVER_YEARS


async def test_a_request_without_keep_alive_keeps_it(server: Server) -> None:
    """Only a request that carries one changes a loaded model's."""
    await server.chat(keep_alive="1h")
    await server.chat()
    await assert_stays(server, 3600)


async def test_another_num_ctx_reloads_and_forgets(server: Server) -> None:
    """The new model has the server's default keep_alive."""
    await server.chat(keep_alive="1h", options={"num_ctx": 1024})
    model = await server.loaded()
    assert model is not None
    assert model["context_length"] == 1024
    await server.chat(options={"num_ctx": 2048})
    model = await server.loaded()
    assert model is not None
    assert model["context_length"] == 2048
    await assert_stays(server, 300)


async def test_v1_reloads_what_was_loaded_with_a_num_ctx(server: Server) -> None:
    """It sends none, so the server's own default differs, and "for ever" is lost."""
    await server.ask(
        "/api/generate",
        {"model": MODEL, "keep_alive": -1, "options": {"num_ctx": 1024}},
    )
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2}
    await server.ask("/v1/chat/completions", body)
    model = await server.loaded()
    assert model is not None
    assert model["context_length"] != 1024
    await assert_stays(server, 300)


async def test_load_and_unload(server: Server) -> None:
    """A request without messages or prompt only loads, or unloads with 0."""
    status, answer = await server.ask("/api/chat", {"model": MODEL, "messages": []})
    assert (status, answer["done_reason"]) == (200, "load")
    assert answer["message"] == {"role": "assistant", "content": ""}
    body = {"model": MODEL, "messages": [], "keep_alive": 0}
    status, answer = await server.ask("/api/chat", body)
    assert (status, answer["done_reason"]) == (200, "unload")
    status, answer = await server.ask("/api/generate", {"model": MODEL})
    assert (status, answer["done_reason"], answer["response"]) == (200, "load", "")
    status, answer = await server.ask("/api/embed", {"model": MODEL, "keep_alive": -1})
    assert (status, answer["embeddings"]) == (200, [])


async def test_stream(server: Server) -> None:
    """Streaming is the default; the last line has the figures."""
    body = {"model": MODEL, "messages": HELLO, "options": {"num_predict": 3}}
    status, lines = await server.ask("/api/chat", body)
    assert status == 200
    assert [line["done"] for line in lines[:-1]] == [False] * (len(lines) - 1)
    assert lines[-1]["done"]
    figures = {
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    }
    assert figures <= lines[-1].keys()
    assert lines[-1]["message"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/chat", {"model": "gone"}, 404, "model 'gone' not found"),
        ("/api/generate", {"model": "gone"}, 404, "model 'gone' not found"),
        (
            "/api/embed",
            {"model": "gone", "input": "x"},
            404,
            'model "gone" not found, try pulling it first',
        ),
        ("/api/show", {"model": "gone"}, 404, "model 'gone' not found"),
        ("/api/chat", {"model": ""}, 400, "model is required"),
        (
            "/api/chat",
            {"model": MODEL, "messages": HELLO, "think": True},
            400,
            f'"{MODEL}" does not support thinking',
        ),
        (
            "/api/chat",
            {"model": f"{MODEL}:latest", "messages": HELLO, "tools": [TOOL]},
            400,
            f"registry.ollama.ai/library/{MODEL}:latest does not support tools",
        ),
    ],
)
async def test_errors(
    server: Server, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    """Each fault has its status and its text."""
    assert await server.ask(path, body) == (status, {"error": error})


async def test_lists(server: Server) -> None:
    """Versions, models and greetings have the shapes that detection relies on."""
    assert await server.ask("/", method="GET") == (200, "Ollama is running")
    status, answer = await server.ask("/api/version", method="GET")
    assert (status, list(answer)) == (200, ["version"])
    _, answer = await server.ask("/api/tags", method="GET")
    assert len(answer["models"][0]["digest"]) == 64
    assert answer["models"][0]["size"] > 0
    _, answer = await server.ask("/v1/models", method="GET")
    assert answer["data"][0]["owned_by"] == "library"
    assert (await server.ask("/api/chat", method="GET"))[0] == 405
    assert (await server.ask("/api/extra/version", method="GET"))[0] == 404
    _, answer = await server.ask("/api/show", {"model": MODEL})
    assert "completion" in answer["capabilities"]

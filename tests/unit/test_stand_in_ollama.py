"""The stand-in Ollama is held to what a real one answers.

The same table runs against a real server: set HOME_AGENT_TEST_OLLAMA to its address
and HOME_AGENT_TEST_MODEL to a small chat model without tools. Other models may be
loaded there. What a wrong request gets is in test_stand_in_recorded.py.
"""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
import json
import os
from typing import Any

import aiohttp
import pytest

from tests.servers import ManualClock, OllamaStandIn, StandInModel

REAL = os.environ.get("HOME_AGENT_TEST_OLLAMA")
NAME = os.environ.get("HOME_AGENT_TEST_MODEL", "smol")
MODEL = NAME if ":" in NAME else f"{NAME}:latest"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "x", "parameters": {}}}
INDEFINITE_YEARS = range(2310, 2330)
# Looks at a real server until it has done something: it needs some milliseconds.
LOOKS = 2000

type Entry = dict[str, Any]


class Server:
    """Sends requests to the stand-in or to the real server."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        clock: ManualClock | None = None,
    ) -> None:
        """Talk to the server at url; clock is that of the stand-in."""
        self.session = session
        self.url = url
        self.clock = clock

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

    async def loaded(self) -> Entry | None:
        """Return what /api/ps has of the model."""
        _, answer = await self.ask("/api/ps", method="GET")
        return next((m for m in answer["models"] if m["name"] == MODEL), None)

    async def now(self) -> float:
        """Return the time of the server in Unix seconds."""
        if self.clock is not None:
            return self.clock.now()
        async with self.session.get(f"{self.url}/api/version") as response:
            return parsedate_to_datetime(response.headers["Date"]).timestamp()

    async def until(self, is_so: Callable[[Entry | None], bool]) -> None:
        """Look at /api/ps until it shows something.

        A real server shows the old entry for some milliseconds after an answer.
        """
        model = None
        for _ in range(LOOKS if REAL else 1):
            model = await self.loaded()
            if is_so(model):
                return
        pytest.fail(f"/api/ps keeps showing {model}")

    async def unload(self) -> None:
        """Unload the model and wait until it is gone."""
        await self.ask("/api/generate", {"model": MODEL, "keep_alive": 0})
        await self.until(lambda model: model is None)


@pytest.fixture
async def server(socket_enabled: None) -> AsyncIterator[Server]:
    """Return the server, with the model not loaded."""
    clock = ManualClock()
    models = [StandInModel(MODEL, ("completion",), context_length=8192)]
    async with (
        OllamaStandIn(models, clock=clock) as stand_in,
        aiohttp.ClientSession() as session,
    ):
        result = Server(session, REAL or stand_in.url, None if REAL else clock)
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
    """Wait until the server shows that it holds the model for so long."""
    expected = await server.now() + seconds

    def is_so(model: Entry | None) -> bool:
        return model is not None and stamp(model) == pytest.approx(
            expected, abs=5 if REAL else 0.1
        )

    await server.until(is_so)


def stamp(model: Entry) -> float:
    """Return when a model expires, in Unix seconds."""
    return datetime.fromisoformat(model["expires_at"]).timestamp()


def is_indefinite(model: Entry | None) -> bool:
    """Return whether a model is loaded until somebody unloads it."""
    return model is not None and int(model["expires_at"][:4]) in INDEFINITE_YEARS


@pytest.mark.parametrize("value", [-1, -0.5, "-1m", "-1s"])
async def test_indefinite(server: Server, value: Any) -> None:
    """Anything negative never expires: some 292 years from now."""
    assert (await server.chat(keep_alive=value))[0] == 200
    await server.until(is_indefinite)


@pytest.mark.parametrize("value", [0, "0", "0s", "-0", 9999999999])
async def test_unload_after_the_answer(server: Server, value: Any) -> None:
    """Zero, and what wraps around to less, unloads the model."""
    status, answer = await server.chat(keep_alive=value)
    assert (status, answer["done"]) == (200, True)
    await server.until(lambda model: model is None)


async def test_ignored_places(server: Server) -> None:
    """Ollama reads keep_alive neither in options nor over /v1."""
    assert (await server.chat(options={"keep_alive": "1h"}))[0] == 200
    await assert_stays(server, 300)
    await server.chat(keep_alive=-1)
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2, "keep_alive": "1m"}
    assert (await server.ask("/v1/chat/completions", body))[0] == 200
    await server.until(is_indefinite)


async def test_a_request_without_keep_alive_keeps_it(server: Server) -> None:
    """Only a request that carries one changes a loaded model's."""
    await server.chat(keep_alive="1h")
    await server.chat()
    await assert_stays(server, 3600)


def has_context(num_ctx: int) -> Callable[[Entry | None], bool]:
    """Return what tells whether the model is loaded with a context."""
    return lambda model: model is not None and model["context_length"] == num_ctx


async def test_another_num_ctx_reloads_and_forgets(server: Server) -> None:
    """The new model has the server's default keep_alive."""
    await server.chat(keep_alive="1h", options={"num_ctx": 1024})
    await server.until(has_context(1024))
    await server.chat(options={"num_ctx": 2048})
    await server.until(has_context(2048))
    await assert_stays(server, 300)


async def test_num_ctx_is_limited(server: Server) -> None:
    """From 4 tokens to as many as the model was trained with."""
    _, shown = await server.ask("/api/show", {"model": MODEL})
    (trained,) = (
        value
        for name, value in shown["model_info"].items()
        if name.endswith(".context_length")
    )
    for wanted, loaded in ((9999999, trained), (0, 4), (-5, 4), (5.9, 5), (1e30, 4)):
        body = {"model": MODEL, "messages": [], "options": {"num_ctx": wanted}}
        assert (await server.ask("/api/chat", body))[0] == 200
        await server.until(has_context(loaded))


async def test_a_prompt_that_is_too_long(server: Server) -> None:
    """It is cut without a word, or refused where the request says so."""
    messages = [{"role": "user", "content": "one two three four " * 20}]
    options = {"num_ctx": 16}
    status, answer = await server.chat(messages=messages, options=options)
    assert (status, answer["prompt_eval_count"]) == (200, 16)
    refused = await server.chat(messages=messages, options=options, truncate=False)
    error = "the input length exceeds the context length"
    assert refused == (400, {"error": error})


@pytest.mark.parametrize(
    "name",
    [
        MODEL.upper(),
        f" {MODEL} ",
        f"library/{MODEL}",
        f"registry.ollama.ai/library/{MODEL}",
        f"Registry.Ollama.ai/Library/{MODEL}",
    ],
)
async def test_names(server: Server, name: str) -> None:
    """Case, registry and namespace do not matter; /api/ps has the short name."""
    status, answer = await server.ask("/api/chat", {"model": name, "messages": []})
    assert (status, answer["model"]) == (200, name)
    assert (await server.ask("/api/show", {"model": name}))[0] == 200
    await server.until(lambda model: model is not None)


async def test_v1_reloads_what_was_loaded_with_a_num_ctx(server: Server) -> None:
    """It sends none, so the server's own default differs, and the -1 is lost."""
    await server.ask(
        "/api/generate",
        {"model": MODEL, "keep_alive": -1, "options": {"num_ctx": 1024}},
    )
    await server.until(has_context(1024))
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2}
    await server.ask("/v1/chat/completions", body)
    await server.until(lambda model: model is not None and not has_context(1024)(model))
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
            {"model": MODEL, "messages": HELLO, "tools": [TOOL]},
            400,
            f"registry.ollama.ai/library/{MODEL} does not support tools",
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
    for path in ("/", "/api/version", "/api/tags"):
        assert await server.ask(path, method="HEAD") == (200, "")
    _, answer = await server.ask("/v1/models", method="GET")
    assert answer["data"][0]["owned_by"] == "library"
    assert (await server.ask("/api/chat", method="GET"))[0] == 405
    assert (await server.ask("/api/extra/version", method="GET"))[0] == 404
    _, answer = await server.ask("/api/show", {"model": MODEL})
    assert "completion" in answer["capabilities"]

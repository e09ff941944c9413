"""Whatever a server sends: a translated error, or an answer that is right."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
import json
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.servers.answers import Answer
from custom_components.home_agent.servers.base import (
    Connection,
    ModelServer,
    ServerKind,
    collect,
)
from custom_components.home_agent.servers.errors import (
    MalformedAnswer,
    ModelServerError,
    PromptTooLong,
    RequestRefused,
)
from custom_components.home_agent.servers.factory import connect
from custom_components.home_agent.servers.json_text import parse_json
from custom_components.home_agent.servers.messages import ChatRequest, LoadRequest
from tests.servers import OllamaStandIn, OpenAIStandIn
from tests.servers.stand_in import Fault

from .test_servers import raw_server

FIVE_MINUTES = KeepAlive.parse("5m")
HELLO = ChatRequest(model="m", messages=[{"role": "user", "content": "Hello"}])
COMPATIBLE = ServerKind.OPENAI_COMPATIBLE

type Serve = Callable[[ServerKind, Any], Awaitable[ModelServer]]


@pytest.fixture
async def serve(hass: HomeAssistant) -> AsyncIterator[Serve]:
    """Return a function that makes a server which gives one answer to everything."""
    async with AsyncExitStack() as stack:

        async def run(kind: ServerKind, body: Any) -> ModelServer:
            text = body if isinstance(body, str) else json.dumps(body)
            url = await stack.enter_async_context(raw_server("application/json", text))
            return await connect(
                async_get_clientsession(hass), Connection(url, kind=kind)
            )

        yield run


# --- Shapes ---------------------------------------------------------------------


def values(*each: Any) -> tuple[Any, ...]:
    """Return values of any types, which a list of them would have to name."""
    return each


SHAPES: list[Any] = [
    "",
    "null",
    "[]",
    "{}",
    "5",
    '"text"',
    "[null]",
    {"error": {"message": "boom"}},
    {"error": "boom"},
    *({"choices": value} for value in values(None, [], {}, "x", [None], [{}], [5])),
    *({"choices": [{"message": value}]} for value in values(None, [], "x", {})),
    *({"choices": [{"delta": value}]} for value in values([], "x")),
    *({"message": value, "done": True} for value in values(None, [], "x", {})),
    {"message": {"content": 5}, "done": True},
    {"message": {"content": "x"}, "done": "yes"},
    {"choices": [{"message": {"content": 5}}]},
    {"choices": [{"message": {"content": [None]}}]},
    {"choices": [{"message": {"content": "x"}, "finish_reason": 5}]},
    {"choices": [{"message": {"content": "x", "tool_calls": {}}}]},
    *(
        {"data": value}
        for value in values(None, {}, "x", [None], [{}], [5], [{"id": 5}])
    ),
    *({"models": value} for value in values({}, "x", [None], [{}], [{"name": 5}])),
    {"models": [{"name": "m", "model": "m", "expires_at": "tomorrow"}]},
    {"models": [{"name": "m", "expires_at": "2026-01-01T00:00:00"}]},
    {"models": [{"key": "m", "loaded_instances": [None]}]},
    {"running": [{"state": 5}]},
    {"loaded_models": [{}]},
    {"all_models_loaded": [{"model_name": None}]},
    [{"model_name": 5}],
    {"prompt": 5},
    {"prompt": "x", "tokens": 5},
    {"count": "many"},
]


@pytest.mark.parametrize("kind", list(ServerKind))
async def test_no_shape_raises_anything_but_our_errors(
    serve: Serve, kind: ServerKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request of every server, and every shape as its answer."""
    module = "custom_components.home_agent.servers.llama_cpp"
    monkeypatch.setattr(f"{module}._POLL_SECONDS", 0)
    for shape in SHAPES:
        server = await serve(kind, shape)

        async def pull(server: ModelServer = server) -> None:
            async for _ in server.pull("m"):
                pass

        for request in (
            server.chat(HELLO),
            collect(server.chat_stream(HELLO)),
            server.embed("m", ["x"], FIVE_MINUTES),
            server.check(),
            server.list_models(),
            server.loaded_models({"m"}),
            server.count_tokens(HELLO),
            server.load(LoadRequest(model="m", keep_alive=FIVE_MINUTES)),
            server.unload("m"),
            pull(),
        ):
            with suppress(ModelServerError):
                await request


@pytest.mark.parametrize(
    ("kind", "body", "detail"),
    [
        (ServerKind.OLLAMA, {"message": [], "done": True}, "message is a list"),
        (ServerKind.OLLAMA, "null", "the answer is absent or null"),
        (
            COMPATIBLE,
            {"choices": [{"message": {"content": 5}}]},
            "choices[0].message.content is a number, not a text",
        ),
        (COMPATIBLE, {"choices": []}, "choices is a list"),
    ],
)
async def test_the_error_names_the_field(
    serve: Serve, kind: ServerKind, body: Any, detail: str
) -> None:
    """So that a log is enough to mend it."""
    server = await serve(kind, body)
    with pytest.raises(MalformedAnswer) as caught:
        await server.chat(HELLO)
    assert detail in caught.value.detail


@pytest.mark.parametrize("kind", [ServerKind.OLLAMA, COMPATIBLE])
@pytest.mark.parametrize(
    "function", [None, {}, {"name": None}, {"name": ""}, {"arguments": "{}"}]
)
async def test_a_call_without_a_name(
    serve: Serve, kind: ServerKind, function: Any
) -> None:
    """It cannot be made, whole or streamed."""
    message = {"content": "", "tool_calls": [{"id": "x", "function": function}]}
    choice = {"message": message, "finish_reason": "tool_calls"}
    server = await serve(kind, {"message": message, "done": True, "choices": [choice]})
    for request in (server.chat(HELLO), collect(server.chat_stream(HELLO))):
        with pytest.raises(MalformedAnswer) as caught:
            await request
        assert "no name" in caught.value.detail


async def test_an_error_with_status_200(serve: Serve) -> None:
    """It is the server's error, with the server's words."""
    for kind in (ServerKind.OLLAMA, COMPATIBLE):
        for error in ("boom", {"message": "boom"}, {"code": "boom"}):
            server = await serve(kind, {"error": error})
            for request in (
                server.chat(HELLO),
                collect(server.chat_stream(HELLO)),
                server.embed("m", ["x"]),
            ):
                with pytest.raises(ModelServerError) as caught:
                    await request
                assert "boom" in caught.value.detail


async def test_figures_cost_no_answer(serve: Serve) -> None:
    """A figure that is no number counts as not reported."""
    odd = {"eval_count": "12", "load_duration": True, "prompt_eval_count": 1e308}
    server = await serve(
        ServerKind.OLLAMA, {"message": {"content": "Hi"}, "done": True} | odd
    )
    stats = (await server.chat(HELLO)).stats
    assert stats.completion_tokens is stats.load_seconds is stats.prompt_tokens is None
    answer = Answer("host", {"a": 12.0, "b": 12.5, "c": -1})
    assert [answer.integer(key) for key in "abcd"] == [12, None, -1, None]


async def test_a_list_of_models_without_an_object(serve: Serve) -> None:
    """As Together AI sends it."""
    server = await serve(COMPATIBLE, [{"id": "a"}, {"id": "b"}])
    assert [model.name for model in await server.list_models()] == ["a", "b"]


def test_text_that_is_no_valid_unicode() -> None:
    """Half a surrogate pair and cut characters are replaced, and nothing else."""
    assert parse_json(rb'"a\ud83d b"') == "a\ufffd b"
    assert parse_json(rb'"a\ude00\ud83d\ude00"') == "a\ufffd\U0001f600"
    assert parse_json(rb'"\\ud83d \ud83d"') == "\\ud83d \ufffd"
    assert parse_json(b'"a\xf0\x9f b"') == "a\ufffd b"
    for text in (b"", b"NaN", b'{"a"', b'{"a": "\\ud83d', b"[" * 100_000):
        with pytest.raises(ValueError, match=r"line|unexpected|recursion"):
            parse_json(text)


def test_numbers_that_are_not_finite() -> None:
    """They are no figures, and no reason to lose what stands next to them."""
    text = b'{"text": "NaN \\" NaN", "a": NaN, "b": [-Infinity, Infinity], "c": 1}'
    parsed = parse_json(text)
    assert isinstance(parsed, dict)
    assert parsed["text"] == 'NaN " NaN'
    answer = Answer("host", parsed)
    assert [answer.number(key) for key in "abc"] == [None, None, 1]
    assert parse_json(b'{"text": "\\ud83d", "a": NaN}')
    for bad in (b"NaN", b'{"a": NaN', b'{"NaN"}', b'{"a": NaN, "b": ' + b"[" * 100_000):
        with pytest.raises(ValueError, match=r"line|unexpected|recursion"):
            parse_json(bad)


@pytest.mark.parametrize("kind", [ServerKind.OLLAMA, COMPATIBLE])
@pytest.mark.parametrize("streaming", [True, False])
async def test_figures_that_are_not_finite_cost_no_answer(
    serve: Serve, kind: ServerKind, *, streaming: bool
) -> None:
    """A call with such an argument is not made."""
    odd = float("nan")
    calls = [
        {"id": "a", "function": {"name": "on", "arguments": {"n": odd}}},
        {"id": "b", "function": {"name": "off", "arguments": '{"n": Infinity}'}},
        {"id": "c", "function": {"name": "up", "arguments": {"n": 1}}},
    ]
    message = {"content": "Hi", "tool_calls": calls}
    choice = {"message": message, "finish_reason": "stop"}
    body = {"message": message, "done": True, "choices": [choice]}
    figures = {
        "usage": {"prompt_tokens": odd},
        "eval_count": odd,
        "timings": {"x": odd},
    }
    server = await serve(kind, json.dumps(body | figures))
    request = collect(server.chat_stream(HELLO)) if streaming else server.chat(HELLO)
    answer = await request
    assert answer.content == "Hi"
    assert [call.arguments for call in answer.tool_calls] == [None, None, {"n": 1}]
    assert answer.stats.prompt_tokens is answer.stats.completion_tokens is None


async def test_half_a_pair_is_spoken_as_one_odd_character(serve: Serve) -> None:
    """A model may generate it, and the server may pass it on."""
    choice = r'{"delta": {"content": "a\ud83d"}, "finish_reason": "stop"}'
    server = await serve(COMPATIBLE, f'data: {{"choices": [{choice}]}}')
    answer = await collect(server.chat_stream(HELLO))
    assert answer.content == "a\ufffd"


# --- Vectors --------------------------------------------------------------------


@pytest.mark.parametrize(
    "vectors",
    [
        None,
        [],
        [[1.0]],
        [[1.0], [1.0], [1.0]],
        [[1.0], None],
        [[1.0], []],
        [[1.0], [1.0, 2.0]],
        [[1.0], [0.0]],
        [[1.0], ["1"]],
        [[1.0], [None]],
        [[1.0], "1"],
        [[1.0], [[1.0]]],
        {"a": [1.0]},
    ],
)
async def test_vectors_that_cannot_be_compared(serve: Serve, vectors: Any) -> None:
    """They are refused, before they spoil an index."""
    data = vectors
    if isinstance(vectors, list):
        data = [{"index": i, "embedding": v} for i, v in enumerate(vectors)]
    for kind in (ServerKind.OLLAMA, COMPATIBLE):
        server = await serve(kind, {"embeddings": vectors, "data": data})
        with pytest.raises(MalformedAnswer):
            await server.embed("m", ["a", "b"])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_vectors_that_are_not_finite(serve: Serve, value: str) -> None:
    """Python's own servers write such numbers."""
    text = f'{{"embeddings": [[{value}]], "data": [{{"embedding": [{value}]}}]}}'
    for kind in (ServerKind.OLLAMA, COMPATIBLE):
        with pytest.raises(ModelServerError):
            await (await serve(kind, text)).embed("m", ["a"])


@pytest.mark.parametrize(
    ("indexes", "order"),
    [
        ((1, 0), [2.0, 1.0]),
        ((None, None), [1.0, 2.0]),
        ((0, 0), None),
        ((1, 2), None),
        ((0, None), None),
    ],
)
async def test_the_order_of_vectors(
    serve: Serve, indexes: tuple[int | None, int | None], order: list[float] | None
) -> None:
    """By their index, or as they came if none has one."""
    data = [
        {"embedding": [1.0], "index": indexes[0]},
        {"embedding": [2.0], "index": indexes[1]},
    ]
    server = await serve(COMPATIBLE, {"data": data})
    if order is None:
        with pytest.raises(MalformedAnswer):
            await server.embed("m", ["a", "b"])
    else:
        assert await server.embed("m", ["a", "b"]) == [[order[0]], [order[1]]]


# --- Prompts that are too long --------------------------------------------------


async def test_ollama_cuts_no_prompt(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """Truncate is false, so that a long prompt is an error that can be spoken."""
    connection = Connection(ollama.url, kind=ServerKind.OLLAMA)
    server = await connect(async_get_clientsession(hass), connection)
    request = ChatRequest(model="llama3.2:3b", messages=HELLO.messages)
    await server.chat(request)
    await server.embed("nomic-embed-text", ["x"])
    bodies = ollama.sent("/api/chat", "/api/embed")
    assert [body["truncate"] for body in bodies] == [False, False]
    text = "the input length exceeds the context length"
    for call in (server.chat(request), server.embed("nomic-embed-text", ["x"])):
        ollama.faults.append(Fault(status=400, body={"error": text}))
        with pytest.raises(PromptTooLong) as caught:
            await call
        assert caught.value.translation_key == "prompt_too_long"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "the request exceeds the available context size, try increasing it"),
        (400, "This model's maximum context length is 8192 tokens."),
        (500, "input is too large to process. increase the physical batch size"),
        (400, "The input token count (9) exceeds the maximum number of tokens allowed"),
    ],
)
async def test_how_others_say_that_a_prompt_is_too_long(
    hass: HomeAssistant, openai: OpenAIStandIn, status: int, text: str
) -> None:
    """With an error status, or in the stream."""
    connection = Connection(openai.url, kind=COMPATIBLE)
    server = await connect(async_get_clientsession(hass), connection)
    openai.faults.append(Fault(status=status, body={"error": {"message": text}}))
    openai.faults.append(Fault(error_after_lines=1, error_text=text))
    for call in (server.chat(HELLO), collect(server.chat_stream(HELLO))):
        with pytest.raises(PromptTooLong):
            await call
    openai.faults.append(Fault(status=400, body={"error": {"message": "too hot"}}))
    with pytest.raises(RequestRefused) as caught:
        await server.chat(HELLO)
    assert type(caught.value) is RequestRefused

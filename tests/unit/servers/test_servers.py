"""The servers: what goes over the wire and what comes back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
import json
from typing import Any

from aiohttp import web
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from homeassistant.util import dt as dt_util
import pytest

from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.servers.base import (
    Connection,
    ModelCapability,
    ModelServer,
    ServerCapability,
    ServerKind,
    collect,
)
from custom_components.home_agent.servers.detect import Detected, detect
from custom_components.home_agent.servers.errors import (
    CannotConnect,
    ConnectionLost,
    HostRefused,
    ModelNotFound,
    ModelServerError,
    NotSupported,
    RequestRefused,
    UnknownServer,
)
from custom_components.home_agent.servers.factory import connect
from custom_components.home_agent.servers.messages import (
    ChatMessage,
    ChatRequest,
    LoadRequest,
    ToolCall,
)
from tests.servers import (
    ManualClock,
    OllamaStandIn,
    OpenAIStandIn,
    Reply,
    StandInModel,
    ToolUse,
)
from tests.servers.stand_in import Fault, StandIn

HELLO: list[ChatMessage] = [{"role": "user", "content": "Hello"}]
FIVE_MINUTES = KeepAlive.parse("5m")


async def server_of(
    hass: HomeAssistant, stand_in: StandIn, **connection: Any
) -> ModelServer:
    """Return our side of a stand-in."""
    session = async_get_clientsession(hass)
    return await connect(session, Connection(stand_in.url, **connection))


def request(model: str = "llama3.2:3b", **more: Any) -> ChatRequest:
    """Return a short request."""
    return ChatRequest(model=model, messages=HELLO, **more)


# --- Answers --------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_ollama_answers(
    hass: HomeAssistant, ollama: OllamaStandIn, *, streaming: bool
) -> None:
    """Text, thinking, tool calls and figures, streamed and whole."""
    server = await server_of(hass, ollama)
    ollama.brain.replies.append(
        Reply("So be it.", "Let me see.", (ToolUse("a", {"x": 1}), ToolUse("b")))
    )
    asked = request("qwen3:8b", think=True)
    answer = (
        await collect(server.chat_stream(asked))
        if streaming
        else await server.chat(asked)
    )
    assert (answer.content, answer.thinking) == ("So be it.", "Let me see.")
    assert [(c.name, c.arguments) for c in answer.tool_calls] == [
        ("a", {"x": 1}),
        ("b", {}),
    ]
    assert len({call.id for call in answer.tool_calls}) == 2
    assert answer.finish_reason == "stop"
    assert answer.stats.prompt_tokens
    assert answer.stats.completion_tokens
    assert answer.stats.load_seconds is not None
    assert answer.stats.prompt_seconds
    assert answer.stats.cached_tokens is None


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("fragments", [1, 3, 1000])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("done", [True, False])
async def test_openai_answers(
    hass: HomeAssistant,
    fragments: int,
    field: str,
    *,
    streaming: bool,
    done: bool,
) -> None:
    """The same, with arguments in pieces, pings, and with or without [DONE]."""
    async with OpenAIStandIn(
        fragments=fragments, reasoning_field=field, done=done
    ) as stand_in:
        server = await server_of(hass, stand_in)
        stand_in.brain.replies.append(
            Reply(
                "So be it.",
                "Let me see.",
                (ToolUse("a", {"x": "ü"}), ToolUse("b", ""), ToolUse("c", "[1]")),
            )
        )
        answer = (
            await collect(server.chat_stream(request("local-model")))
            if streaming
            else await server.chat(request("local-model"))
        )
    assert (answer.content, answer.thinking) == ("So be it.", "Let me see.")
    assert answer.tool_calls == (
        ToolCall("a", {"x": "ü"}, "call_0"),
        ToolCall("b", {}, "call_1"),
        ToolCall("c", None, "call_2"),
    )
    assert answer.finish_reason == "tool_calls"
    assert answer.stats.prompt_tokens == 20
    assert answer.stats.cached_tokens == 12
    assert answer.stats.completion_tokens == 5


async def test_tools_and_results_in_each_form(
    hass: HomeAssistant, ollama: OllamaStandIn, openai: OpenAIStandIn
) -> None:
    """A round with a tool, as each API wants it."""
    messages: list[ChatMessage] = [
        {"role": "system", "content": "Be brief."},
        *HELLO,
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [ToolCall("a", {"x": 1}, "id1")],
        },
        {"role": "tool", "content": "{}", "tool_call_id": "id1", "tool_name": "a"},
    ]
    tool: Any = {"name": "a", "description": "does", "parameters": {"type": "object"}}
    asked = ChatRequest(model="llama3.2:3b", messages=messages, tools=[tool])
    await (await server_of(hass, ollama)).chat(asked)
    await (await server_of(hass, openai)).chat(asked)
    native = ollama.sent("/api/chat")[0]
    assert native["tools"] == [{"type": "function", "function": tool}]
    assert native["messages"][2:] == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [{"function": {"name": "a", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "content": "{}", "tool_name": "a"},
    ]
    compatible = openai.sent("/v1/chat/completions")[0]
    assert compatible["tools"] == [{"type": "function", "function": tool}]
    assert compatible["messages"][2:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "id1",
                    "type": "function",
                    "function": {"name": "a", "arguments": '{"x":1}'},
                }
            ],
        },
        {"role": "tool", "content": "{}", "tool_call_id": "id1"},
    ]


async def test_very_long_lines(hass: HomeAssistant, ollama: OllamaStandIn) -> None:
    """A line may be longer than aiohttp's own limit of half a mebibyte."""
    server = await server_of(hass, ollama)
    text = "x" * 3_000_000
    ollama.brain.replies.append(Reply(chunks=(text,)))
    answer = await collect(server.chat_stream(request()))
    assert answer.content == text


async def test_llama_cpp_timings(hass: HomeAssistant) -> None:
    """Its own figures say what came from the prompt cache."""
    event = {
        "choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}],
        "timings": {
            "cache_n": 90,
            "prompt_n": 10,
            "prompt_ms": 50,
            "predicted_ms": 200,
        },
    }
    async with raw_server("text/event-stream", f"data: {json.dumps(event)}") as url:
        session = async_get_clientsession(hass)
        kind = ServerKind.OPENAI_COMPATIBLE
        server = await connect(session, Connection(url, kind=kind))
        answer = await collect(server.chat_stream(request()))
    assert answer.content == "Hi"
    assert answer.stats.cached_tokens == 90
    assert answer.stats.prompt_seconds == 0.05
    assert answer.stats.completion_seconds == 0.2


class raw_server:  # noqa: N801 - used like a function
    """A server that gives one answer to everything."""

    def __init__(
        self,
        content_type: str,
        body: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Give this answer."""
        self._answer = (content_type, body, status, headers)

    async def __aenter__(self) -> str:
        """Serve; return the address."""

        async def answer(_: web.Request) -> web.Response:
            content_type, body, status, headers = self._answer
            return web.Response(
                text=body, status=status, content_type=content_type, headers=headers
            )

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self._runner.cleanup()


@pytest.mark.parametrize(
    ("kind", "body", "error", "detail"),
    [
        ("ollama", '{"message": {"content": "Hi"}}', ConnectionLost, "end mark"),
        ("ollama", '{"message": {"con', ConnectionLost, "inside"),
        ("ollama", '{"error": "boom"}', ModelServerError, "boom"),
        ("openai_compatible", 'data: {"choices": []}', ConnectionLost, "no [DONE]"),
        ("openai_compatible", 'data: {"choi', ConnectionLost, "inside"),
        ("openai_compatible", '{"error": "boom"}', ModelServerError, "boom"),
        ("openai_compatible", 'error: {"message": "boom"}', ModelServerError, "boom"),
        (
            "openai_compatible",
            'data: {"error": {"message": "boom"}}',
            ModelServerError,
            "boom",
        ),
        ("openai_compatible", "", ConnectionLost, "no [DONE]"),
    ],
)
async def test_bad_streams(
    hass: HomeAssistant,
    kind: str,
    body: str,
    error: type[ModelServerError],
    detail: str,
) -> None:
    """A stream that is no whole answer is never taken for one."""
    async with raw_server("text/plain", body) as url:
        session = async_get_clientsession(hass)
        server = await connect(session, Connection(url, kind=ServerKind(kind)))
        with pytest.raises(error) as caught:
            await collect(server.chat_stream(request()))
    assert type(caught.value) is error
    assert detail in caught.value.detail


@pytest.mark.parametrize("kind", list(ServerKind))
async def test_answers_that_are_none(hass: HomeAssistant, kind: ServerKind) -> None:
    """An answer of another shape is an error, not an exception of ours."""
    async with raw_server("application/json", "<html>") as url:
        session = async_get_clientsession(hass)
        server = await connect(session, Connection(url, kind=kind))
        for call in (server.chat(request()), server.embed("m", ["x"]), server.check()):
            with pytest.raises(ModelServerError):
                await call
    async with raw_server("application/json", "{}") as url:
        server = await connect(session, Connection(url, kind=kind))
        with pytest.raises(ModelServerError):
            await server.embed("m", ["x"])
        assert await server.list_models() == []


async def test_errors_hold_no_secret(hass: HomeAssistant) -> None:
    """Neither the key nor a header, even where the server sends them back."""
    body = json.dumps({"error": {"message": "Incorrect key sk-1234 for secret-header"}})
    async with raw_server("application/json", body, 401) as url:
        connection = Connection(
            url,
            api_key="sk-1234",
            headers={"X-Proxy": "secret-header"},
            kind=ServerKind.CLOUD,
        )
        server = await connect(async_get_clientsession(hass), connection)
        with pytest.raises(ModelServerError) as caught:
            await server.chat(request())
    shown = f"{caught.value} {caught.value.log_text} {connection!r}"
    assert "Incorrect key *** for ***" in shown
    assert "sk-1234" not in shown
    assert "secret-header" not in shown


async def test_redirects_are_not_followed(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """A key goes to no other server than the user's."""
    headers = {"Location": f"{ollama.url}/v1/models"}
    async with raw_server("text/plain", "", 307, headers) as url:
        session = async_get_clientsession(hass)
        with pytest.raises(CannotConnect) as caught:
            await detect(session, Connection(url, api_key="key"))
    assert "redirects to" in caught.value.detail
    assert not ollama.requests


# --- Residency ------------------------------------------------------------------


async def test_load_see_unload_on_ollama(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """With the chat's num_ctx; embedding models in their own way."""
    server = await server_of(hass, ollama)
    await server.load(
        LoadRequest(model="llama3.2:3b", keep_alive=FIVE_MINUTES, num_ctx=8192)
    )
    await server.load(
        LoadRequest(
            model="nomic-embed-text", keep_alive=KeepAlive.parse("-1"), embedding=True
        )
    )
    await server.chat(request(num_ctx=8192))
    assert ollama.memory.loads == ["llama3.2:3b", "nomic-embed-text:latest"]
    models = await server.loaded_models({"nomic-embed-text"}) or []
    loaded = {model.name: model for model in models}
    llama, nomic = loaded["llama3.2:3b"], loaded["nomic-embed-text:latest"]
    assert llama.expires_at is not None
    assert abs(llama.expires_at - dt_util.utcnow() - timedelta(minutes=5)) < timedelta(
        seconds=5
    )
    assert (llama.context_length, nomic.expires_at) == (8192, None)
    assert (llama.is_indefinite, nomic.is_indefinite) == (False, True)
    assert not llama.names
    assert nomic.names == {"nomic-embed-text"}
    assert llama.size_bytes == llama.vram_bytes == 2 * 2**30
    await server.unload("llama3.2:3b")
    await server.unload("nomic-embed-text")
    assert await server.loaded_models(()) == []
    with pytest.raises(ModelNotFound):
        await server.load(LoadRequest(model="gone", keep_alive=FIVE_MINUTES))


async def test_ollamas_cloud_models_get_no_keep_alive(hass: HomeAssistant) -> None:
    """They are never in this server's memory."""
    models = [StandInModel("gpt-oss:120b-cloud"), StandInModel("kimi:cloud")]
    async with OllamaStandIn(models) as stand_in:
        server = await server_of(hass, stand_in)
        for model in stand_in.models:
            await server.chat(request(model, keep_alive=FIVE_MINUTES))
            assert not server.may_send_keep_alive(model)
    assert not any("keep_alive" in body for body in stand_in.sent("/api/chat"))


async def test_two_names_of_one_file(hass: HomeAssistant) -> None:
    """The list has the name that the model was loaded by."""
    models = [StandInModel(name, file="f") for name in ("a", "b")]
    async with OllamaStandIn([*models, StandInModel("c")]) as stand_in:
        server = await server_of(hass, stand_in)
        await server.load(LoadRequest(model="a", keep_alive=FIVE_MINUTES))
        await server.load(LoadRequest(model="b", keep_alive=FIVE_MINUTES))
        for _ in range(2):
            (loaded,) = await server.loaded_models({"a", "b", "c", "gone"}) or []
            assert loaded.name == "a"
            assert loaded.names == {"a", "b"}
        assert len(stand_in.sent("/api/show")) == 4
        await server.unload("a")
        await server.load(LoadRequest(model="c", keep_alive=FIVE_MINUTES))
        (loaded,) = await server.loaded_models({"a", "b", "c"}) or []
        assert loaded.names == {"c"}
        assert len(stand_in.sent("/api/show")) == 4


async def test_a_server_whose_clock_is_wrong(
    hass: HomeAssistant, ollama: OllamaStandIn, clock: ManualClock
) -> None:
    """Times are told by our own clock; a past one means that it is busy."""
    clock.advance(-3 * 3600)
    server = await server_of(hass, ollama)
    await server.load(LoadRequest(model="llama3.2:3b", keep_alive=FIVE_MINUTES))
    (model,) = await server.loaded_models(()) or []
    assert model.expires_at
    left = model.expires_at - dt_util.utcnow()
    assert abs(left - timedelta(minutes=5)) < timedelta(seconds=5)
    assert not model.is_busy
    resident = ollama.loaded("llama3.2:3b")
    assert resident
    resident.expires_at -= 600
    (model,) = await server.loaded_models(()) or []
    assert model.is_busy


async def test_an_unknown_server_is_asked_a_token(
    hass: HomeAssistant, openai: OpenAIStandIn
) -> None:
    """It loads what it must; more is not known of it."""
    server = await server_of(hass, openai)
    assert server.capabilities is ServerCapability.WARM
    assert await server.loaded_models(()) is None
    await server.load(LoadRequest(model="local-model", keep_alive=FIVE_MINUTES))
    await server.load(
        LoadRequest(model="local-embedding", keep_alive=FIVE_MINUTES, embedding=True)
    )
    (chat,) = openai.sent("/v1/chat/completions")
    assert (chat["max_tokens"], chat["keep_alive"]) == (1, "5m")
    assert openai.sent("/v1/embeddings")[0]["keep_alive"] == "5m"
    with pytest.raises(NotSupported):
        await server.unload("x")


async def test_a_field_is_refused_once(hass: HomeAssistant) -> None:
    """keep_alive and stream_options are left out as soon as they are refused."""
    async with OpenAIStandIn(strictness="mistral") as stand_in:
        server = await server_of(hass, stand_in)
        asked = request("local-model", keep_alive=FIVE_MINUTES)
        assert not server.keep_alive_refused
        assert (await collect(server.chat_stream(asked))).content
        assert server.keep_alive_refused
        await server.chat(asked)
        await server.embed("local-embedding", ["x"], FIVE_MINUTES)
        bodies = [item.body for item in stand_in.requests if item.method == "POST"]
    assert ["keep_alive" in body for body in bodies] == [True, False, False, False]
    # What is refused for another reason is not sent again.
    fault = Fault(status=400, body={"error": {"message": "too long"}})
    async with OpenAIStandIn() as stand_in:
        server = await server_of(hass, stand_in)
        stand_in.faults.append(fault)
        with pytest.raises(ModelServerError):
            await server.chat(asked)
        assert len(stand_in.sent("/v1/chat/completions")) == 1
        stand_in.faults.append(
            Fault(status=422, body={"detail": [{"loc": ["body", "stream_options"]}]})
        )
        await collect(server.chat_stream(asked))
        last = stand_in.sent("/v1/chat/completions")[-1]
    assert "stream_options" not in last
    assert last["keep_alive"] == "5m"


@pytest.mark.parametrize("field", ["keep_alive", "stream_options"])
async def test_a_refusal_that_names_the_field_only_as_its_parameter(
    hass: HomeAssistant, openai: OpenAIStandIn, field: str
) -> None:
    """As {"error": {"message": "Unknown parameter.", "param": "keep_alive"}}."""
    server = await server_of(hass, openai)
    error = {"message": "Unknown parameter.", "param": field}
    openai.faults.append(Fault(status=400, body={"error": error}))
    asked = request("local-model", keep_alive=FIVE_MINUTES)
    assert (await collect(server.chat_stream(asked))).content
    first, second = openai.sent("/v1/chat/completions")
    assert field in first
    assert second == {key: value for key, value in first.items() if key != field}


async def test_a_word_that_contains_a_field_is_no_refusal_of_it(
    hass: HomeAssistant, openai: OpenAIStandIn
) -> None:
    """Else a field would be left out from then on."""
    server = await server_of(hass, openai)
    error = {"message": "no_keep_alive_at_all"}
    openai.faults.append(Fault(status=400, body={"error": error}))
    with pytest.raises(RequestRefused):
        await server.chat(request("local-model", keep_alive=FIVE_MINUTES))
    assert not server.keep_alive_refused


async def test_calls_can_be_forbidden(
    hass: HomeAssistant, openai: OpenAIStandIn, ollama: OllamaStandIn
) -> None:
    """By tool_choice, where there are tools and the server knows the field."""
    tool: Any = {"name": "a", "description": "does", "parameters": {"type": "object"}}
    compatible = await server_of(hass, openai)
    for tools, choice, sent in (
        ([tool], "none", "none"),
        ([tool], None, None),
        ([], "none", None),
    ):
        await compatible.chat(request("local-model", tools=tools, tool_choice=choice))
        assert openai.sent("/v1/chat/completions")[-1].get("tool_choice") == sent
    native = await server_of(hass, ollama)
    await native.chat(request(tools=[tool], tool_choice="none"))
    (body,) = ollama.sent("/api/chat")
    assert body["tools"]
    assert "tool_choice" not in body


THOUGHT: list[ChatMessage] = [
    *HELLO,
    {
        "role": "assistant",
        "content": "",
        "thinking": "Hm.",
        "tool_calls": [ToolCall("a", {}, "id1")],
    },
    {"role": "tool", "content": "{}", "tool_call_id": "id1", "tool_name": "a"},
]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_goes_back_to_the_server_that_sent_it(
    hass: HomeAssistant, field: str, *, streaming: bool
) -> None:
    """DeepSeek refuses the results of tools without the thinking before them."""
    async with OpenAIStandIn(reasoning_field=field) as stand_in:
        server = await server_of(hass, stand_in)
        stand_in.brain.replies.append(Reply("", "Hm.", (ToolUse("a"),)))
        asked = request("local-model")
        if streaming:
            await collect(server.chat_stream(asked))
        else:
            await server.chat(asked)
        await server.chat(replace(asked, messages=THOUGHT))
        # Another model of the same server.
        await server.chat(ChatRequest(model="other", messages=THOUGHT))
        sent, other = stand_in.sent("/v1/chat/completions")[-2:]
    reasoning = [message.get("reasoning_content") for message in sent["messages"]]
    assert reasoning == [None, "Hm." if field == "reasoning_content" else None, None]
    assert not any("reasoning_content" in message for message in other["messages"])


async def test_a_server_that_asks_for_reasoning(
    hass: HomeAssistant, openai: OpenAIStandIn
) -> None:
    """After a restart nothing is known of its answers; it is believed once."""
    server = await server_of(hass, openai)
    text = "The `reasoning_content` in the thinking mode must be passed back."
    fault = Fault(status=400, body={"error": {"message": text}})
    openai.faults.append(fault)
    asked = ChatRequest(model="local-model", messages=THOUGHT)
    assert (await server.chat(asked)).content
    await server.chat(asked)
    bodies = openai.sent("/v1/chat/completions")
    sent = ["reasoning_content" in body["messages"][1] for body in bodies]
    assert sent == [False, True, True]
    openai.faults.append(fault)
    with pytest.raises(RequestRefused):
        await server.chat(asked)


async def test_other_names_of_ollamas_models(
    hass: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """Upper case, the namespace and the registry are all one to Ollama."""
    server = await server_of(hass, ollama)
    models = await server.list_models()
    await server.load(LoadRequest(model="llama3.2:3b", keep_alive=FIVE_MINUTES))
    names = {
        "llama3.2:3b",
        "LLAMA3.2:3B",
        "library/llama3.2:3b",
        "registry.ollama.ai/library/llama3.2:3b",
        "https://registry.ollama.ai/library/llama3.2:3b",
    }
    others = {"llama3.2", "me/llama3.2:3b", "localhost:5000/library/llama3.2:3b", ""}
    for name in names:
        found = server.find(name, models)
        assert found is not None
        assert found.name == "llama3.2:3b"
    assert not any(server.find(name, models) for name in others)
    assert server.find("Nomic-Embed-Text", models)
    (loaded,) = await server.loaded_models(names | others) or []
    assert loaded.names == names
    for name in ("gpt-oss:120B-Cloud", "kimi:CLOUD"):
        assert not server.residency_fields(name, FIVE_MINUTES)
    for name in ("llama3.2:3b", "my-cloud", "my-cloud:7b"):
        assert server.residency_fields(name, FIVE_MINUTES) == {"keep_alive": "5m"}


async def test_openai_itself(hass: HomeAssistant, openai: OpenAIStandIn) -> None:
    """It wants another word for the limit, and Azure another header for the key."""
    session = async_get_clientsession(hass)
    connection = Connection("https://api.openai.com", api_base=f"{openai.url}/v1")
    server = await connect(session, connection)
    await server.chat(request("local-model", max_tokens=5))
    body = openai.sent("/v1/chat/completions")[-1]
    assert body["max_completion_tokens"] == 5
    assert "max_tokens" not in body
    azure = Connection("https://x.openai.azure.com", api_key="key")
    assert azure.all_headers() == {"api-key": "key"}


async def test_capabilities(hass: HomeAssistant) -> None:
    """Listed by new servers, asked for at older ones, unknown at the oldest."""
    for version in ("0.33.0", "0.20.0"):
        async with OllamaStandIn(version=version) as stand_in:
            models = await (await server_of(hass, stand_in)).list_models()
        named = {model.name: model for model in models}
        assert named["nomic-embed-text:latest"].capabilities == frozenset(
            {ModelCapability.EMBEDDING}
        )
        assert named["qwen3:8b"].may(ModelCapability.THINKING)
        assert not named["qwen3:8b"].may(ModelCapability.VISION)
        shows = len(stand_in.sent("/api/show"))
        assert shows == (0 if version == "0.33.0" else len(models))


# --- Detection ------------------------------------------------------------------


@pytest.fixture
async def probe(hass: HomeAssistant) -> AsyncIterator[Any]:
    """Return a function that detects what answers with given bodies."""
    runners = []

    async def run(
        answers: dict[str, Any], default: tuple[int, str] = (404, "not found")
    ) -> Detected:
        async def answer(received: web.Request) -> web.Response:
            assert received.method == "GET"
            found = answers.get(received.path)
            if found is None:
                return web.Response(status=default[0], text=default[1])
            if isinstance(found, int):
                return web.Response(status=found)
            if isinstance(found, str):
                return web.Response(text=found)
            return web.json_response(found)

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return await detect(async_get_clientsession(hass), Connection(url))

    yield run
    for runner in runners:
        await runner.cleanup()


def v1_models(owner: str) -> dict[str, Any]:
    """Return /v1/models of a server."""
    return {"data": [{"id": "m", "owned_by": owner}]}


def tags(digest: str = "ab" * 32, size: int = 1) -> dict[str, Any]:
    """Return /api/tags of a server."""
    return {"models": [{"name": "m", "digest": digest, "size": size}]}


VERSION = {"version": "0.12.0"}
OLLAMA = {"/api/version": VERSION, "/api/tags": tags()}
UNKNOWN = ServerKind.OPENAI_COMPATIBLE


@pytest.mark.parametrize(
    "answers",
    [
        OLLAMA,
        {**OLLAMA, "/v1/models": v1_models("library")},
        {
            "/api/version": VERSION,
            "/api/tags": {"models": []},
            "/": "Ollama is running\n",
        },
    ],
)
async def test_ollama_is_found(probe: Any, answers: Any) -> None:
    """With models, and without any yet."""
    assert await probe(answers) == Detected(ServerKind.OLLAMA, "Ollama", "0.12.0")


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"/v1/models": v1_models("vllm"), "/version": VERSION}, ServerKind.VLLM),
        ({"/v1/models": v1_models("x"), "/version": VERSION}, UNKNOWN),
        ({"/v1/models": v1_models("llamacpp")}, ServerKind.LLAMA_CPP),
        ({**OLLAMA, "/v1/models": v1_models("llamacpp")}, ServerKind.LLAMA_CPP),
        (
            {"/v1/models": v1_models("x"), "/props": {"role": "router"}},
            ServerKind.LLAMA_CPP_ROUTER,
        ),
        (
            {**OLLAMA, "/v1/models": v1_models("docker"), "/engines/ps": []},
            ServerKind.DOCKER_MODEL_RUNNER,
        ),
        ({"/v1/models": v1_models("x"), "/engines/ps": []}, UNKNOWN),
        ({**OLLAMA, "/v1/models": v1_models("lemonade")}, ServerKind.LEMONADE),
        (
            {
                **OLLAMA,
                "/api/version": {**VERSION, "commit": "x", "build_date": "y"},
                "/v1/models": v1_models("llama-swap"),
            },
            ServerKind.LLAMA_SWAP,
        ),
        (
            {**OLLAMA, "/running": {"running": []}, "/v1/models": v1_models("docker")},
            ServerKind.LLAMA_SWAP,
        ),
        (
            {
                **OLLAMA,
                "/api/extra/version": {"result": "KoboldCpp", "version": "1"},
                "/props": {"default_generation_settings": {}},
                "/v1/models": v1_models("koboldcpp"),
            },
            ServerKind.KOBOLDCPP,
        ),
        (
            {
                **OLLAMA,
                "/.well-known/localai.json": {"version": "1", "endpoints": {}},
                "/v1/models": {"data": [{"id": "m"}]},
            },
            ServerKind.LOCALAI,
        ),
        (
            {
                "/v1/models": v1_models("tabbyAPI"),
                "/.well-known/serviceinfo": {"software": {"name": "TabbyAPI"}},
            },
            ServerKind.TABBYAPI,
        ),
        (
            {
                "/api/version": VERSION,
                "/api/tags": tags(f"sha256:{'ab' * 32}"),
                "/v1/models": {"data": []},
            },
            UNKNOWN,
        ),
        (
            {
                "/api/version": VERSION,
                "/api/tags": tags("0" * 64),
                "/v1/models": {"data": []},
            },
            UNKNOWN,
        ),
        (
            {"/api/version": VERSION, "/api/tags": tags(), "/v1/models": v1_models("x")}
            | {"/api/extra/version": {"result": "KoboldCpp"}},
            ServerKind.KOBOLDCPP,
        ),
    ],
)
async def test_look_alikes_are_not_ollama(
    probe: Any, answers: Any, kind: ServerKind
) -> None:
    """Half a dozen servers answer some of its paths."""
    detected = await probe(answers)
    assert detected.kind is kind
    known = kind is not UNKNOWN
    assert detected.name.startswith("127.0.0.1") is not known


async def test_each_path_is_asked_for_once(
    hass: HomeAssistant, openai: OpenAIStandIn
) -> None:
    """Some answers are the sign of several servers."""
    await detect(async_get_clientsession(hass), Connection(openai.url))
    paths = [item.path for item in openai.requests]
    assert "/props" in paths
    assert len(paths) == len(set(paths))


async def test_lite_llm_is_known_by_its_headers(hass: HomeAssistant) -> None:
    """It lists the models of others, with their owners."""
    headers = {"X-LiteLLM-Version": "1.80"}
    body = json.dumps(v1_models("vllm"))
    async with raw_server("application/json", body, 200, headers) as url:
        found = await detect(async_get_clientsession(hass), Connection(url))
    assert found == Detected(ServerKind.LITELLM, "LiteLLM")


@pytest.mark.parametrize(
    "sign",
    [
        {"/health/liveliness": '"I\'m alive!"'},
        {
            "/v1/model/info": {
                "data": [
                    {
                        "model_name": "m",
                        "litellm_params": {"model": "ollama_chat/llama3.2:3b"},
                        "model_info": {"id": "1"},
                    }
                ]
            }
        },
    ],
)
async def test_lite_llm_is_known_without_its_headers(
    probe: Any, sign: dict[str, Any]
) -> None:
    """Version 1.106.2 sends them with answers of models, but not with their list."""
    answers = {"/v1/models": v1_models("openai"), **sign}
    assert await probe(answers) == Detected(ServerKind.LITELLM, "LiteLLM")


async def test_a_server_that_is_alive_is_not_lite_llm(probe: Any) -> None:
    """Other servers may have the same paths."""
    answers = {
        "/v1/models": v1_models("x"),
        "/health/liveliness": {"status": "ok"},
        "/v1/model/info": {"data": [{"id": "m"}]},
    }
    assert (await probe(answers)).kind is UNKNOWN


async def test_lm_studio_answers_every_path(probe: Any) -> None:
    """With 200 and an error: only the shape of a body counts."""
    default = (200, '{"error": "Unexpected endpoint or method."}')
    answers = {"/v1/models": v1_models("organization_owner")}
    detected = await probe(answers, default)
    assert detected == Detected(ServerKind.LM_STUDIO, "LM Studio")
    with pytest.raises(UnknownServer):
        await probe({}, default)


async def test_an_ollama_of_which_only_v1_can_be_reached(probe: Any) -> None:
    """Its residency cannot be steered, and that is known."""
    detected = await probe({"/v1/models": v1_models("library")})
    assert detected.kind is ServerKind.OPENAI_COMPATIBLE
    assert "keep_alive has no effect" in detected.name


async def test_what_is_no_server(probe: Any) -> None:
    """An empty 403 is Ollama's word for a wrong host name."""
    with pytest.raises(UnknownServer):
        await probe({})
    with pytest.raises(HostRefused):
        await probe({}, (403, ""))
    with pytest.raises(ModelServerError) as caught:
        await probe({}, (401, '{"error": "no key"}'))
    assert caught.value.translation_key == "invalid_auth"


async def test_a_busy_scheduler(hass: HomeAssistant) -> None:
    """Two models that do not fit together take turns; none fails."""
    models = [StandInModel("a", size=40 * 2**30), StandInModel("b", size=40 * 2**30)]
    async with OllamaStandIn(models) as stand_in:
        server = await server_of(hass, stand_in)
        await asyncio.gather(*(server.chat(request(m)) for m in ("a", "b", "a", "b")))
        assert len(stand_in.memory.residents) == 1

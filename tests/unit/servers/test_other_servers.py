"""Servers that hold their models by means of their own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

from aiohttp import web
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.servers.base import (
    Connection,
    ModelServer,
    ServerCapability,
    ServerKind,
    collect,
)
from custom_components.home_agent.servers.errors import (
    ModelServerError,
    NotSupported,
    RequestRefused,
)
from custom_components.home_agent.servers.factory import (
    connect,
    server_capabilities,
    takes_keep_alive,
)
from custom_components.home_agent.servers.messages import (
    ChatRequest,
    LoadRequest,
    ToolSpec,
)
from custom_components.home_agent.servers.openai_compatible import (
    OpenAICompatibleServer,
)
from tests.servers.chat import Reply, ToolUse
from tests.servers.openai import OpenAIStandIn
from tests.servers.others import (
    DockerModelRunnerStandIn,
    LemonadeStandIn,
    LlamaCppRouterStandIn,
    LlamaCppStandIn,
    LlamaSwapStandIn,
    LMStudioStandIn,
    LocalAIStandIn,
    OtherStandIn,
)

CHAT = "local-model"
EMBED = "local-embedding"
FIVE_MINUTES = KeepAlive.parse("5m")
FOREVER = KeepAlive.parse("-1")
AT_ONCE = KeepAlive.parse("0")

type Start = Callable[[OpenAIStandIn], Awaitable[ModelServer]]


@pytest.fixture
async def start(hass: HomeAssistant) -> AsyncIterator[Start]:
    """Return a function that starts a stand-in and finds out what it is."""
    async with AsyncExitStack() as stack:

        async def run(stand_in: OpenAIStandIn) -> ModelServer:
            await stack.enter_async_context(stand_in)
            session = async_get_clientsession(hass)
            server = await connect(session, Connection(f"{stand_in.url}/v1"))
            stand_in.requests.clear()
            return server

        yield run


def ask(keep_alive: KeepAlive | None = FIVE_MINUTES) -> ChatRequest:
    """Return a question."""
    return ChatRequest(
        model=CHAT,
        messages=[{"role": "user", "content": "Hello"}],
        keep_alive=keep_alive,
    )


async def loaded(server: ModelServer) -> list[str]:
    """Return the names of the models in memory."""
    return [model.name for model in await server.loaded_models(()) or ()]


async def settled(server: ModelServer) -> None:
    """Wait for the requests that follow an answer."""
    assert isinstance(server, OpenAICompatibleServer)
    await server.keep_alive_requests.wait_for_background()


def posted(stand_in: OtherStandIn) -> list[str]:
    """Return the paths of the POST requests."""
    return [item.path for item in stand_in.requests if item.method == "POST"]


@pytest.mark.parametrize(
    ("stand_in", "kind"),
    [
        (LMStudioStandIn(), ServerKind.LM_STUDIO),
        (LMStudioStandIn(old=True), ServerKind.LM_STUDIO),
        (LlamaCppStandIn(), ServerKind.LLAMA_CPP),
        (LlamaCppRouterStandIn(), ServerKind.LLAMA_CPP_ROUTER),
        (LlamaSwapStandIn(), ServerKind.LLAMA_SWAP),
        (LocalAIStandIn(), ServerKind.LOCALAI),
        (LemonadeStandIn(), ServerKind.LEMONADE),
        (DockerModelRunnerStandIn(), ServerKind.DOCKER_MODEL_RUNNER),
    ],
    ids=lambda value: str(getattr(value, "value", "")),
)
async def test_each_is_found_and_sent_no_keep_alive(
    start: Start, stand_in: OtherStandIn, kind: ServerKind
) -> None:
    """None of them knows Ollama's field; whole, streamed and embedded."""
    server = await start(stand_in)
    assert server.kind is kind
    assert ServerCapability.WARM in server.capabilities
    await server.chat(ask())
    assert (await collect(server.chat_stream(ask()))).content
    await server.embed(EMBED, ["x"], FIVE_MINUTES)
    await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))
    questions = stand_in.sent("/v1/chat/completions", "/v1/embeddings")
    assert not any("keep_alive" in body for body in questions)
    if ServerCapability.LIST in server.capabilities:
        assert CHAT in await loaded(server)
    if ServerCapability.UNLOAD in server.capabilities and not getattr(
        stand_in, "old", False
    ):
        await server.unload(CHAT)
        assert CHAT not in await loaded(server)


def test_what_is_offered() -> None:
    """The setting only where it has an effect, or may have one."""
    assert {kind for kind in ServerKind if takes_keep_alive(kind)} == {
        ServerKind.OLLAMA,
        ServerKind.LM_STUDIO,
        ServerKind.DOCKER_MODEL_RUNNER,
        ServerKind.OPENAI_COMPATIBLE,
    }
    for kind in (ServerKind.CLOUD, ServerKind.LITELLM):
        assert server_capabilities(kind) is ServerCapability.NONE


# --- LM Studio ------------------------------------------------------------------


async def test_lm_studio_durations_are_ttl(start: Start) -> None:
    """In whole seconds, on every request."""
    stand_in = LMStudioStandIn()
    server = await start(stand_in)
    for text, seconds in (("5m", 300), ("1h30m", 5400), ("500ms", 1)):
        stand_in.loaded.clear()
        await server.chat(ask(KeepAlive.parse(text)))
        assert stand_in.loaded[CHAT] == {"ttl": seconds}
    await collect(server.chat_stream(ask()))
    await server.embed(EMBED, ["x"], KeepAlive.parse("10m"))
    ttls = [body["ttl"] for body in stand_in.sent("/v1/chat/completions")]
    assert ttls == [300, 5400, 1, 300]
    assert stand_in.sent("/v1/embeddings") == [
        {"model": EMBED, "input": ["x"], "ttl": 600}
    ]


async def test_lm_studio_without_an_end_is_an_explicit_load(start: Start) -> None:
    """Once: a second one would make a second instance; so nothing pushes it out."""
    stand_in = LMStudioStandIn()
    server = await start(stand_in)
    for _ in range(2):
        await server.chat(ask(FOREVER))
        await collect(server.chat_stream(ask(FOREVER)))
    await server.embed(EMBED, ["x"], FIVE_MINUTES)
    assert stand_in.sent("/api/v1/models/load") == [{"model": CHAT}]
    assert not any("ttl" in body for body in stand_in.sent("/v1/chat/completions"))
    assert await loaded(server) == [CHAT, EMBED]
    # It was unloaded behind our back: the next request loads it again.
    stand_in.loaded.clear()
    await server.load(LoadRequest(model=CHAT, keep_alive=FOREVER))
    assert stand_in.loaded == {CHAT: {"ttl": None}}


async def test_lm_studio_at_once_is_an_unload(start: Start) -> None:
    """After the whole answer."""
    stand_in = LMStudioStandIn()
    server = await start(stand_in)
    assert (await collect(server.chat_stream(ask(AT_ONCE)))).content
    await settled(server)
    assert not stand_in.loaded
    await server.embed(EMBED, ["x"], AT_ONCE)
    await settled(server)
    assert not stand_in.loaded
    assert posted(stand_in) == [
        "/v1/chat/completions",
        "/api/v1/models/unload",
        "/v1/embeddings",
        "/api/v1/models/unload",
    ]


async def test_old_lm_studio_has_no_requests_for_it(start: Start) -> None:
    """Loading by a question is all; unloading is not there."""
    stand_in = LMStudioStandIn(old=True)
    server = await start(stand_in)
    await server.load(LoadRequest(model=CHAT, keep_alive=FOREVER))
    await server.load(
        LoadRequest(model=EMBED, keep_alive=KeepAlive.parse("1m"), embedding=True)
    )
    assert await loaded(server) == [EMBED]
    with pytest.raises(NotSupported):
        await server.unload(EMBED)


async def test_lm_studio_unloads_only_after_the_last_delta(start: Start) -> None:
    """The turn has the whole answer, tool calls included, before the unload."""
    stand_in = LMStudioStandIn()
    server = await start(stand_in)
    stand_in.brain.replies.append(Reply("Done.", tools=(ToolUse("a", {}),)))
    async with aclosing(server.chat_stream(ask(AT_ONCE))) as deltas:
        async for delta in deltas:
            if delta.finish_reason:
                assert delta.tool_calls
                assert stand_in.loaded
                assert "/api/v1/models/unload" not in posted(stand_in)
    await settled(server)
    assert not stand_in.loaded


async def test_lm_studio_unloads_after_a_turn_that_was_cancelled(start: Start) -> None:
    """The model was loaded all the same."""
    stand_in = LMStudioStandIn()
    server = await start(stand_in)
    async with aclosing(server.chat_stream(ask(AT_ONCE))) as deltas:
        await anext(deltas)
    await settled(server)
    assert posted(stand_in)[-1] == "/api/v1/models/unload"
    assert not stand_in.loaded
    asked = asyncio.Event()

    async def never(request: web.Request, body: Any) -> web.Response:
        stand_in.on_question(body)
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    stand_in.routes["POST", "/v1/chat/completions"] = never
    task = asyncio.create_task(server.chat(ask(AT_ONCE)))
    await asked.wait()
    assert stand_in.loaded
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(server)
    assert not stand_in.loaded


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_nobody_waits_for_lm_studio_to_unload(
    start: Start, caplog: pytest.LogCaptureFixture, *, is_cancelled: bool
) -> None:
    """A turn ends at once; the next request waits until the model is unloaded."""
    stand_in = LMStudioStandIn()
    server = await start(stand_in)
    unloading, may_fail = asyncio.Event(), asyncio.Event()

    async def fail(request: web.Request, body: Any) -> web.Response:
        unloading.set()
        await may_fail.wait()
        return web.json_response({"error": "busy"}, status=500)

    stand_in.routes["POST", "/api/v1/models/unload"] = fail
    async with aclosing(server.chat_stream(ask(AT_ONCE))) as deltas:
        async for _ in deltas:
            if is_cancelled:
                break
    async with asyncio.timeout(5):
        await unloading.wait()
    again = asyncio.create_task(server.chat(ask(AT_ONCE)))
    await asyncio.sleep(0.05)
    assert stand_in.sent("/v1/chat/completions")[1:] == []
    may_fail.set()
    assert (await again).content
    assert "apply the keep_alive failed (after a model request)" in caplog.text
    await settled(server)


@pytest.mark.parametrize("keep_alive", [FOREVER, AT_ONCE], ids=["load", "unload"])
@pytest.mark.parametrize("status", [400, 404, 500])
async def test_lm_studio_failures_cost_no_answer(
    start: Start, caplog: pytest.LogCaptureFixture, keep_alive: KeepAlive, status: int
) -> None:
    """A refused load or unload is logged: loudly once."""
    stand_in = LMStudioStandIn()
    server = await start(stand_in)

    async def refuse(request: web.Request, body: Any) -> web.Response:
        return web.json_response({"error": "no"}, status=status)

    stand_in.routes["POST", "/api/v1/models/load"] = refuse
    stand_in.routes["POST", "/api/v1/models/unload"] = refuse
    for _ in range(2):
        assert (await server.chat(ask(keep_alive))).content
        assert (await collect(server.chat_stream(ask(keep_alive)))).content
        assert await server.embed(CHAT, ["x"], keep_alive)
    await settled(server)
    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len([r for r in warnings if "keep_alive" in r.message]) == 1


@pytest.mark.parametrize("keep_alive", [FOREVER, AT_ONCE], ids=["load", "unload"])
async def test_old_lm_studio_answers_whatever_the_keep_alive(
    start: Start, keep_alive: KeepAlive
) -> None:
    """It has no requests to load and unload: the answer counts."""
    server = await start(LMStudioStandIn(old=True))
    assert (await server.chat(ask(keep_alive))).content
    assert (await collect(server.chat_stream(ask(keep_alive)))).content
    await settled(server)


async def test_lm_studio_that_refuses_ttl(start: Start) -> None:
    """The same request is sent again without it."""
    stand_in = LMStudioStandIn(strictness="openai")
    server = await start(stand_in)
    assert (await server.chat(ask())).content
    ttls = ["ttl" in body for body in stand_in.sent("/v1/chat/completions")]
    assert ttls == [True, False]


# --- The others -----------------------------------------------------------------


async def test_llama_cpp_tells_what_it_is_doing(start: Start) -> None:
    """Its one model has any name; it may be loading, or asleep."""
    stand_in = LlamaCppStandIn()
    server = await start(stand_in)
    (model,) = await server.loaded_models({"whatever"}) or []
    assert model.is_indefinite
    assert model.context_length == 4096
    assert model.names == {"whatever"}
    stand_in.state = "loading"
    (model,) = await server.loaded_models(()) or []
    assert model.is_loading
    stand_in.state = "sleeping"
    assert await server.loaded_models(()) == []
    with pytest.raises(NotSupported):
        await server.unload(CHAT)


async def test_llama_cpp_router_is_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers before the model is there; asking twice is no error."""
    module = "custom_components.home_agent.servers.llama_cpp"
    monkeypatch.setattr(f"{module}._POLL_SECONDS", 0)
    stand_in = LlamaCppRouterStandIn()
    stand_in.loading_looks = 3
    server = await start(stand_in)
    await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))
    assert await loaded(server) == [CHAT]
    await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))
    for _ in range(2):
        await server.unload(CHAT)
    assert await loaded(server) == []
    stand_in.fails = True
    with pytest.raises(ModelServerError) as caught:
        await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))
    assert "failed" in caught.value.detail


async def test_local_ai_without_its_admin_key(start: Start) -> None:
    """A question loads; what is loaded is not known."""
    stand_in = LocalAIStandIn()
    stand_in.admin = False
    server = await start(stand_in)
    await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))
    await server.load(LoadRequest(model=EMBED, keep_alive=FIVE_MINUTES, embedding=True))
    assert stand_in.loaded.keys() == {CHAT, EMBED}
    assert await server.loaded_models(()) is None


async def test_lemonade_pins_for_ever(start: Start) -> None:
    """So that nothing evicts the model."""
    server = await start(LemonadeStandIn())
    await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))
    (model,) = await server.loaded_models(()) or []
    assert not model.is_indefinite
    await server.load(LoadRequest(model=CHAT, keep_alive=FOREVER))
    (model,) = await server.loaded_models(()) or []
    assert model.is_indefinite


async def test_docker_model_runner_is_configured(start: Start) -> None:
    """Once per value, always as text; a busy runner is asked again later."""
    stand_in = DockerModelRunnerStandIn()
    server = await start(stand_in)
    for keep_alive, text in ((FIVE_MINUTES, "5m"), (FOREVER, "-1"), (AT_ONCE, "0")):
        await server.chat(ask(keep_alive))
        await collect(server.chat_stream(ask(keep_alive)))
        assert stand_in.configured == {CHAT: text}
    assert len(stand_in.sent("/engines/_configure")) == 3
    stand_in.busy = True
    await server.chat(ask())
    assert stand_in.configured == {CHAT: "0"}
    five_minutes = LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES)
    # Otherwise the change would count as applied, and nobody would send it again.
    with pytest.raises(RequestRefused):
        await server.load(five_minutes)
    (model,) = await server.loaded_models(()) or []
    assert model.is_busy
    stand_in.busy = False
    await server.chat(ask())
    (model,) = await server.loaded_models(()) or []
    assert str(model.expires_at) == "2026-11-21 10:05:00+00:00"
    stand_in.loaded.clear()
    await server.load(five_minutes)
    preload = stand_in.requests[-1]
    assert preload.headers["X-Preload-Only"] == "true"
    assert stand_in.loaded


async def test_docker_model_runner_is_configured_again(start: Start) -> None:
    """After somebody set another value, and after a restart."""
    stand_in = DockerModelRunnerStandIn()
    server = await start(stand_in)
    await server.chat(ask())
    stand_in.configured[CHAT] = "1h"
    await server.chat(ask())
    assert stand_in.configured == {CHAT: "5m"}
    stand_in.configured.clear()
    stand_in.loaded.clear()
    await server.chat(ask())
    assert stand_in.configured == {CHAT: "5m"}
    await server.chat(ask(KeepAlive.parse("300s")))
    assert len(stand_in.sent("/engines/_configure")) == 3


@pytest.mark.parametrize("path", ["/engines/_configure", "/engines/ps"])
@pytest.mark.parametrize("status", [404, 500])
async def test_docker_model_runner_failures_cost_no_answer(
    start: Start, path: str, status: int
) -> None:
    """Older versions have no such path."""
    stand_in = DockerModelRunnerStandIn()
    server = await start(stand_in)

    async def refuse(request: web.Request, body: Any) -> web.Response:
        return web.Response(status=status)

    for method in ("GET", "POST"):
        stand_in.routes[method, path] = refuse
    assert (await server.chat(ask())).content
    assert (await collect(server.chat_stream(ask()))).content
    await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))


@pytest.mark.parametrize(
    ("kind", "entry"),
    [(ServerKind.VLLM, {"max_model_len": 8192}), (ServerKind.TABBYAPI, {})],
)
async def test_servers_with_fixed_models(
    hass: HomeAssistant, openai: OpenAIStandIn, kind: ServerKind, entry: dict[str, Any]
) -> None:
    """A keep_alive is not sent; a small question does no harm."""
    connection = Connection(openai.url, kind=kind)
    server = await connect(async_get_clientsession(hass), connection)
    await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))
    (body,) = openai.sent("/v1/chat/completions")
    assert body["max_tokens"] == 1
    assert "keep_alive" not in body
    models = await server.loaded_models(())
    assert (models is None) is (kind is ServerKind.TABBYAPI)


async def test_v_llm_counts(hass: HomeAssistant, openai: OpenAIStandIn) -> None:
    """With messages and tools, as a chat has them."""

    async def tokenize(request: web.Request, body: Any) -> web.Response:
        return web.json_response({"count": 7, "max_model_len": 8192, "tokens": []})

    openai.routes["POST", "/tokenize"] = tokenize
    connection = Connection(f"{openai.url}/v1", kind=ServerKind.VLLM)
    server = await connect(async_get_clientsession(hass), connection)
    tool: ToolSpec = {"name": "x", "description": "", "parameters": {}}
    for tools in ([], [tool]):
        request = replace(ask(), tools=tools)
        assert await server.count_tokens(request) == 7
        await server.chat(request)
        counted, asked = openai.requests[-2:]
        assert counted.path == "/tokenize"
        for key in ("model", "messages", "tools"):
            assert counted.body.get(key) == asked.body.get(key)
    # Others do not count.
    connection = Connection(openai.url, kind=ServerKind.OPENAI_COMPATIBLE)
    server = await connect(async_get_clientsession(hass), connection)
    assert await server.count_tokens(ask()) is None


async def test_lite_llm_is_not_warmed(
    hass: HomeAssistant, openai: OpenAIStandIn
) -> None:
    """What is behind it may cost money, or refuse the field."""
    connection = Connection(openai.url, kind=ServerKind.LITELLM)
    server = await connect(async_get_clientsession(hass), connection)
    with pytest.raises(NotSupported):
        await server.load(LoadRequest(model=CHAT, keep_alive=FIVE_MINUTES))
    await server.chat(ask())
    assert "keep_alive" not in openai.sent("/v1/chat/completions")[0]

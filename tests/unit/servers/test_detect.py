"""Which server answers, where its API is, and whether it is the user's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import logging
from typing import Any

from aiohttp import web
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import (
    HomeAssistantTCPConnector,
    async_get_clientsession,
)
import pytest

from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.servers.base import (
    Connection,
    ModelServer,
    ServerKind,
)
from custom_components.home_agent.servers.detect import (
    _is_ollama_model,
    _version,
    detect,
)
from custom_components.home_agent.servers.errors import (
    CannotConnect,
    ServerBusy,
    WrongScheme,
)
from custom_components.home_agent.servers.factory import connect, is_declaration_needed
from custom_components.home_agent.servers.messages import ChatRequest
from tests.servers import OllamaStandIn, OpenAIStandIn

MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}]}
FIVE_MINUTES = KeepAlive.parse("5m")


@asynccontextmanager
async def paths(
    answers: dict[str, Any], status: int = 404
) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve JSON at some paths, and another status at all others.

    Yield the address and the list of the requests.
    """
    requests: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        requests.append(f"{request.method} {request.path}")
        if request.path in answers:
            return web.json_response(answers[request.path])
        return web.json_response({"error": "Loading model"}, status=status)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", requests
    await runner.cleanup()


@pytest.mark.parametrize(
    ("typed", "base", "stored"),
    [
        ("", "/v1", None),
        ("/v1/", "/v1", None),
        ("/llm", "/llm/v1", None),
        ("/v1/openai", "/v1/openai", "/v1/openai"),
        ("/api/paas/v4", "/api/paas/v4", "/api/paas/v4"),
        ("/inference", "/inference", "/inference"),
        ("/api", "/api", "/api"),
        ("", "", ""),
    ],
)
async def test_the_model_list_decides_where_the_api_is(
    hass: HomeAssistant, typed: str, base: str, stored: str | None
) -> None:
    """A server may have a path of its own, with or without /v1."""
    chat = {"choices": [{"message": {"content": "Hi"}}]}
    served = {f"{base}/models": MODELS, f"{base}/chat/completions": chat}
    async with paths(served) as (url, requests):
        connection = Connection(url + typed)
        session = async_get_clientsession(hass)
        found = await detect(session, connection)
        assert found.kind is ServerKind.OPENAI_COMPATIBLE
        assert found.api_base == (None if stored is None else url + stored)
        server = await connect(session, connection)
        assert [model.name for model in await server.list_models()] == ["m"]
        await server.chat(ChatRequest(model="m", messages=[]))
        assert requests[-1] == f"POST {base}/chat/completions"


async def test_v1_comes_first(hass: HomeAssistant) -> None:
    """llama.cpp answers without it too, but its own /embeddings has another form."""
    async with paths({"/models": MODELS, "/v1/models": MODELS}) as (url, _):
        found = await detect(async_get_clientsession(hass), Connection(url))
    assert found.api_base is None


async def test_why_no_server_was_found(hass: HomeAssistant) -> None:
    """A server that starts, and one that speaks HTTP, are told apart from none."""
    session = async_get_clientsession(hass)
    async with paths({}, status=503) as (url, requests):
        with pytest.raises(ServerBusy):
            await detect(session, Connection(url))
        # A GET request is not repeated: the dialog says what is.
        assert len(requests) == len(set(requests))
        with pytest.raises(WrongScheme):
            await detect(session, Connection(url.replace("http:", "https:")))


# --- Whose server it is -----------------------------------------------------------


async def server_at(
    hass: HomeAssistant, url: str, kind: ServerKind, **more: Any
) -> ModelServer:
    """Return the server of a kind at an address."""
    session = async_get_clientsession(hass)
    return await connect(session, Connection(url, kind=kind, **more))


KEEP_ALIVE_KINDS = (
    ServerKind.OLLAMA,
    ServerKind.LM_STUDIO,
    ServerKind.DOCKER_MODEL_RUNNER,
)
CLOUD_KINDS = (ServerKind.CLOUD, ServerKind.LITELLM)


@pytest.mark.parametrize("kind", list(ServerKind))
async def test_nothing_unasked_to_a_public_address(
    hass: HomeAssistant, kind: ServerKind
) -> None:
    """Unless the kind honors a keep_alive, or the user calls the server their own."""
    for url in ("http://8.8.8.8:8000", "https://[2606:4700::1]/v1"):
        server = await server_at(hass, url, kind)
        assert server.may_be_warmed("m") is (kind in KEEP_ALIVE_KINDS)
        assert is_declaration_needed(server) is (
            kind not in (*KEEP_ALIVE_KINDS, *CLOUD_KINDS)
        )
        if kind is ServerKind.OPENAI_COMPATIBLE:
            assert not server.may_send_keep_alive("m")
        declared = await server_at(hass, url, kind, declared_own=True)
        assert declared.may_be_warmed("m") is (kind not in CLOUD_KINDS)
        assert is_declaration_needed(declared) is is_declaration_needed(server)
    local = await server_at(hass, "http://192.168.1.5:8000", kind)
    assert local.may_be_warmed("m") is (kind not in CLOUD_KINDS)
    assert not is_declaration_needed(local)


async def test_the_keep_alive_of_an_unknown_server(
    hass: HomeAssistant, openai: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to a private address, and to a public one only if it is the user's."""
    chat = ChatRequest(model="local-model", messages=[], keep_alive=FIVE_MINUTES)
    kind = ServerKind.OPENAI_COMPATIBLE
    await (await server_at(hass, openai.url, kind)).chat(chat)
    monkeypatch.setattr(
        "custom_components.home_agent.servers.factory.is_local", lambda url: False
    )
    await (await server_at(hass, openai.url, kind)).chat(chat)
    await (await server_at(hass, openai.url, kind, declared_own=True)).chat(chat)
    sent = ["keep_alive" in body for body in openai.sent("/v1/chat/completions")]
    assert sent == [True, False, True]


@pytest.mark.parametrize(
    ("addresses", "is_own"),
    [
        (["192.168.1.5"], True),
        (["100.64.1.2", "fd00::1"], True),
        (["192.168.1.5", "8.8.8.8"], False),
        (["8.8.8.8"], False),
    ],
)
async def test_names_are_resolved(
    hass: HomeAssistant,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    addresses: list[str],
    is_own: bool,
) -> None:
    """As Home Assistant resolves them to connect."""
    caplog.set_level(logging.DEBUG)
    asked: list[str] = []

    async def resolve(_: HomeAssistantTCPConnector, host: str) -> list[dict[str, str]]:
        asked.append(host)
        return [{"host": address} for address in addresses]

    monkeypatch.setattr(HomeAssistantTCPConnector, "async_resolve_host", resolve)
    url = "http://gpu.example.com:8000"
    server = await server_at(hass, url, ServerKind.OPENAI_COMPATIBLE)
    assert server.may_be_warmed("m") is server.may_send_keep_alive("m") is is_own
    assert "gpu.example.com:8000 is at a p" in caplog.text
    # It matters for no other kind.
    await server_at(hass, url, ServerKind.OLLAMA)
    await server_at(hass, "https://api.openai.com", ServerKind.OPENAI_COMPATIBLE)
    assert asked == ["gpu.example.com"]


async def test_a_name_that_cannot_be_resolved(
    hass: HomeAssistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whose it is, and it could not be reached either."""

    async def resolve(_: HomeAssistantTCPConnector, host: str) -> list[dict[str, str]]:
        raise OSError(host)

    monkeypatch.setattr(HomeAssistantTCPConnector, "async_resolve_host", resolve)
    with pytest.raises(CannotConnect):
        await server_at(hass, "http://gpu.example.com", ServerKind.VLLM)


@pytest.mark.parametrize(
    ("model", "is_own"),
    [
        *((name, True) for name in ("llama3.2:3b", "cloud", "cloud:7b", "my-cloud:7b")),
        *((name, True) for name in ("x:7b-cloudy", "host/cloud/x:latest")),
        *((name, False) for name in ("kimi:cloud", "gpt-oss:120b-cloud", "K:Cloud")),
        *((name, False) for name in ("host:1/x/kimi:CLOUD", "x:7B-CLOUD")),
    ],
)
async def test_cloud_models_of_an_ollama(
    hass: HomeAssistant, ollama: OllamaStandIn, model: str, is_own: bool
) -> None:
    """They are neither loaded ahead nor sent a keep_alive: they are not at home."""
    server = await server_at(hass, ollama.url, ServerKind.OLLAMA)
    assert server.may_be_warmed(model) is is_own
    assert server.may_send_keep_alive(model) is is_own


def test_a_connection_has_no_password_in_its_address() -> None:
    """Logs, keys of stores and errors are made from the address."""
    connection = Connection("http://user:secret@host:1/v1", headers={"X": "y"})
    assert connection.url == "http://host:1/v1"
    assert connection.openai_base == "http://host:1/v1"
    assert connection.all_headers() == {
        "Authorization": "Basic dXNlcjpzZWNyZXQ=",
        "X": "y",
    }
    assert "secret" not in repr(connection)
    assert "dXNlcjpzZWNyZXQ=" not in repr(connection)


@pytest.mark.parametrize("size", [None, "1", [], {}, 0, -1])
def test_a_model_of_an_odd_size_is_none_of_ollamas(size: Any) -> None:
    """And no exception of Python's ends the dialog."""
    model = {"name": "a", "digest": "a" * 64, "size": size}
    assert not _is_ollama_model(model)


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        ("0.24.0", "0.24.0"),
        ("0.24.0-rc1", "0.24.0-rc1"),
        *((odd, "") for odd in (None, ["x"], "1\nforged line", "key sk-1234")),
    ],
)
def test_only_a_version_is_shown(version: Any, shown: str) -> None:
    """A server may echo a key, or write a line break into the log."""
    assert _version({"version": version}) == shown

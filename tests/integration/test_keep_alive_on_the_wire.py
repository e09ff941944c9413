"""What each role sends, on each kind of server, and what becomes of it.

Prints the table with: scripts/test tests/integration/test_keep_alive_on_the_wire.py -s
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime
import socket
from typing import Any, Final

from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import (
    HomeAssistantTCPConnector,
    async_get_clientsession,
)
import pytest

from custom_components.home_agent.servers.address import is_cloud
from tests.conftest import MakeEntry, call_action, say, speech
from tests.servers import ManualClock, OllamaStandIn, OpenAIStandIn, Reply, ToolUse

PRIMARY, EXTERNAL, EMBEDDING = "llama3.2:3b", "llama3.2:70b", "nomic-embed-text"
ROLES: Final = {"primary": PRIMARY, "external": EXTERNAL, "embedding": EMBEDDING}
# Configured value: what Ollama is sent, and how many seconds the model stays.
VALUES: Final[dict[str | None, tuple[str | int, float]]] = {
    "5m": ("5m", 300),
    "0": (0, 0),
    "-1": (-1, float("inf")),
    "1h30m": ("1h30m", 5400),
    None: ("5m", 300),
}
NOTHING: Final = "-"
YEAR: Final = 365 * 24 * 3600

type Connect = Callable[[AsyncExitStack, ManualClock], Any]


def _openai(strictness: Any) -> Connect:
    """Return what starts an OpenAI-compatible server."""

    async def start(stack: AsyncExitStack, _: ManualClock) -> tuple[Any, str]:
        server = OpenAIStandIn(strictness=strictness, models=ROLES.values())
        await stack.enter_async_context(server)
        return server, f"{server.url}/v1"

    return start


def _ollama(path: str) -> Connect:
    """Return what starts an Ollama, known by an address with this path."""

    async def start(stack: AsyncExitStack, clock: ManualClock) -> tuple[Any, str]:
        server = await stack.enter_async_context(OllamaStandIn(clock=clock))
        return server, server.url + path

    return start


SERVERS: Final[dict[str, Connect]] = {
    "Ollama": _ollama(""),
    "Ollama with /v1": _ollama("/v1"),
    "unknown": _openai("lenient"),
    "strict, OpenAI's words": _openai("openai"),
    "strict, Mistral's words": _openai("mistral"),
    "strict, Groq's words": _openai("groq"),
    "strict, Gemini's words": _openai("gemini"),
}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Return what stops the servers of a test."""
    async with AsyncExitStack() as exit_stack:
        yield exit_stack


async def use_all_roles(
    hass: HomeAssistant,
    make_entry: MakeEntry,
    server: OllamaStandIn | OpenAIStandIn,
    url: str,
    keep_alive: str | None,
    *,
    stream: bool = True,
    **data: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Let every role send its requests; return their bodies by role."""
    values = {} if keep_alive is None else {"keep_alive": keep_alive}

    def role(name: str, model: str, **more: Any) -> dict[str, Any]:
        return {f"{name}_{key}": value for key, value in values.items()} | {
            f"{name}_model": model,
            **more,
        }

    await make_entry(
        url,
        conversation=role("llm", PRIMARY, llm_stream=stream),
        external_llm=role("external_llm", EXTERNAL, external_llm_stream=stream),
        embedding=role("embedding", EMBEDDING),
        **data,
    )
    server.brain.replies.extend(
        [
            Reply(tools=(ToolUse("home_agent__ask_external_llm", {"prompt": "6*7?"}),)),
            Reply("42"),
            Reply("It is 42."),
        ]
    )
    assert speech(await say(hass, "What is six times seven?")) == "It is 42."
    # The index is empty: the search embeds the question and then goes by words.
    found = await call_action(hass, "search_entities", query="a lamp")
    assert found["mode"] == "lexical"
    bodies = [
        item.body
        for item in server.requests
        if item.path.endswith(("/chat", "/embed", "/completions", "/embeddings"))
    ]
    return {
        name: [body for body in bodies if body.get("model") == model]
        for name, model in ROLES.items()
    }


async def seconds_left(
    hass: HomeAssistant, server: OllamaStandIn, clock: ManualClock
) -> dict[str, float]:
    """Return how long /api/ps says that each model stays, by its short name."""
    session = async_get_clientsession(hass)
    async with session.get(f"{server.url}/api/ps") as response:
        models = (await response.json())["models"]
    return {
        model["name"].removesuffix(":latest"): (
            datetime.fromisoformat(model["expires_at"]).timestamp() - clock.now()
        )
        for model in models
    }


@pytest.mark.parametrize("server_name", SERVERS)
@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
@pytest.mark.parametrize("keep_alive", VALUES)
async def test_each_role_sends_its_keep_alive(
    home: HomeAssistant,
    make_entry: MakeEntry,
    stack: AsyncExitStack,
    clock: ManualClock,
    keep_alive: str | None,
    server_name: str,
    *,
    stream: bool,
) -> None:
    """The right value on every request, and the right expiry after it."""
    server, url = await SERVERS[server_name](stack, clock)
    sent = await use_all_roles(home, make_entry, server, url, keep_alive, stream=stream)
    on_wire, seconds = VALUES[keep_alive]
    row = [server_name, "streaming" if stream else "whole", str(keep_alive)]
    for role, bodies in sent.items():
        values = [body.get("keep_alive", NOTHING) for body in bodies]
        count = {"primary": 2, "external": 1, "embedding": 1}[role]
        assert not any("keep_alive" in body.get("options", {}) for body in bodies)
        if role != "embedding":
            assert {body["stream"] for body in bodies if "stream" in body} <= {stream}
        if server_name.startswith("strict"):
            # Asked once with the field, and never again.
            assert values == [on_wire] + [NOTHING] * count
        else:
            assert values == [on_wire] * count
            assert all(type(value) is type(on_wire) for value in values)
        row.append(f"{role}: {', '.join(map(repr, values))}")
        if isinstance(server, OllamaStandIn):
            left = (await seconds_left(home, server, clock)).get(ROLES[role])
            row.append("unloaded" if left is None else f"stays {left:.0f} s")
            if seconds == 0:
                assert left is None
            elif seconds == float("inf"):
                assert left is not None
                assert left > 290 * YEAR
            else:
                assert left == pytest.approx(seconds, abs=0.01)
    if isinstance(server, OllamaStandIn):
        paths = {item.path for item in server.requests if item.method == "POST"}
        # /api/show uses no model: it says which names stand for one file.
        assert paths - {"/api/show"} == {"/api/chat", "/api/embed"}
    print(" | ".join(row))


@pytest.mark.parametrize(
    "host",
    [
        "api.openai.com",
        "my-resource.openai.azure.com",
        "my-resource.services.ai.azure.com",
        "api.groq.com",
        "api.mistral.ai",
        "generativelanguage.googleapis.com",
        "openrouter.ai",
        "api.anthropic.com",
        "api.deepseek.com",
        "ollama.com",
    ],
)
@pytest.mark.parametrize("kind", [None, "ollama", "openai_compatible"])
async def test_no_cloud_gets_a_keep_alive(
    home: HomeAssistant,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    kind: str | None,
) -> None:
    """No request to a known cloud has the field, whatever kind is stored."""

    async def to_loopback(
        self: HomeAssistantTCPConnector, host: str, port: int, traces: Any = None
    ) -> list[dict[str, Any]]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
        ]

    monkeypatch.setattr(HomeAssistantTCPConnector, "_resolve_host", to_loopback)
    prefix = {
        "openrouter.ai": "/api/v1",
        "my-resource.openai.azure.com": "/openai/v1",
        "my-resource.services.ai.azure.com": "/openai/v1",
    }.get(host, "/v1")
    server = OpenAIStandIn(
        strictness="openai", models=ROLES.values(), prefix=prefix, api_key="sk-test"
    )
    async with server:
        url = f"http://{host}:{server.url.rpartition(':')[2]}"
        assert is_cloud(url)
        data: dict[str, Any] = {"llm_server_kind": kind} if kind else {}
        sent = await use_all_roles(
            home, make_entry, server, url, "-1", llm_api_key="sk-test", **data
        )
        # Exactly one request a question: none was refused.
        assert {role: len(bodies) for role, bodies in sent.items()} == {
            "primary": 2,
            "external": 1,
            "embedding": 1,
        }
        assert not any(b"keep_alive" in item.raw for item in server.requests)
        assert all(item.headers["Host"].startswith(host) for item in server.requests)

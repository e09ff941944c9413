"""Streams recorded from real servers: served byte by byte, and cut at every byte."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import aiohttp
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.servers.base import (
    Connection,
    ModelCapability,
    ModelServer,
    collect,
)
from custom_components.home_agent.servers.errors import ModelServerError
from custom_components.home_agent.servers.llama_cpp import LlamaCppServer
from custom_components.home_agent.servers.messages import ChatAnswer, ChatRequest
from custom_components.home_agent.servers.ollama import OllamaServer
from tests.recorded.exchange import Exchange, load_folder
from tests.recorded.replay import Replay

RECORDED = Path(__file__).parents[1] / "recorded"
REQUEST = ChatRequest(model="model", messages=[{"role": "user", "content": "Hello"}])


@dataclass(frozen=True)
class Case:
    """An exchange of a chat, and who talks to the server that gave it."""

    name: str
    server: type[ModelServer]
    exchange: Exchange

    @property
    def is_stream(self) -> bool:
        """Return whether the answer is a stream."""
        return self.name.endswith("_stream")

    def make_server(self, session: aiohttp.ClientSession, url: str) -> ModelServer:
        """Return what talks to the server at url."""
        return self.server(session, Connection(url))


def cases() -> Iterator[Case]:
    """Return the answers to chats of all servers."""
    for folder, server, path in (
        ("ollama", OllamaServer, "/api/chat"),
        ("llama_cpp", LlamaCppServer, "/v1/chat/completions"),
    ):
        for name, exchange in load_folder(RECORDED / folder).items():
            is_chat = name.startswith(("chat_", "tools_"))
            if is_chat and exchange.path == path:
                yield Case(f"{folder}/{name}", server, exchange)


CASES = {case.name: case for case in cases()}
# One of each kind is cut: each byte is a connection of its own.
CUT = (
    "ollama/chat_unicode_stream",
    "ollama/chat_whole",
    "ollama/tools_cut_call_stream",
    "ollama/tools_two_calls_stream",
    "ollama/tools_two_calls_whole",
    "llama_cpp/chat_usage_stream",
    "llama_cpp/chat_whole",
    "llama_cpp/tools_call_stream",
    "llama_cpp/tools_call_whole",
    "llama_cpp/tools_cut_call_whole",
)
# Whether the framing is whole is for aiohttp to see: two streams are enough.
CUT_WITH_FRAMING = ("ollama/tools_two_calls_stream", "llama_cpp/chat_usage_stream")


@dataclass(frozen=True)
class Said:
    """What an answer says: its text, tool calls and reason to end."""

    content: str
    tool_calls: tuple[tuple[str, Any], ...]
    finish_reason: str | None


def said(answer: ChatAnswer) -> Said:
    """Return what an answer of ours says."""
    calls = tuple((call.name, call.arguments) for call in answer.tool_calls)
    return Said(answer.content, calls, answer.finish_reason)


def recorded(case: Case) -> Said:
    """Return what a recorded answer says, read in the plainest way."""
    if case.server is OllamaServer:
        lines = case.exchange.lines
        messages = [line["message"] for line in lines]
        calls = [
            (call["function"]["name"], call["function"]["arguments"])
            for message in messages
            for call in message.get("tool_calls", ())
        ]
        content = "".join(message["content"] for message in messages)
        return Said(content, tuple(calls), lines[-1]["done_reason"])
    choices = (
        [choice for event in case.exchange.events for choice in event["choices"]]
        if case.is_stream
        else case.exchange.json["choices"]
    )
    parts = [choice["delta" if case.is_stream else "message"] for choice in choices]
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for index, call in (
        (call.get("index", position), call["function"])
        for part in parts
        for position, call in enumerate(part.get("tool_calls", ()))
    ):
        names[index] = names.get(index, "") + call.get("name", "")
        arguments[index] = arguments.get(index, "") + call.get("arguments", "")
    calls = [(name, whole_json(arguments[index])) for index, name in names.items()]
    content = "".join(part.get("content") or "" for part in parts)
    return Said(content, tuple(calls), choices[-1]["finish_reason"])


def whole_json(text: str) -> Any:
    """Return the JSON of a text, None if it was cut off."""
    try:
        return json.loads(text)
    except ValueError:
        return None


async def ask(case: Case, server: ModelServer) -> Said:
    """Return what the server class makes of the answer."""
    if case.is_stream:
        return said(await collect(server.chat_stream(REQUEST)))
    return said(await server.chat(REQUEST))


@pytest.fixture
async def session(hass: HomeAssistant) -> aiohttp.ClientSession:
    """Return Home Assistant's session, in an event loop that does not debug.

    A loop that debugs takes five times as long for each of many connections.
    """
    asyncio.get_running_loop().set_debug(False)
    return async_get_clientsession(hass)


@pytest.mark.parametrize("name", CASES)
async def test_whole_answers(name: str, session: aiohttp.ClientSession) -> None:
    """What was recorded is what comes out, in whatever pieces it comes."""
    case = CASES[name]
    async with Replay([case.exchange]) as replay:
        server = case.make_server(session, replay.url)
        assert await ask(case, server) == recorded(case)
        replay.is_byte_by_byte = True
        assert await ask(case, server) == recorded(case)
        replay.is_framed = False
        assert await ask(case, server) == recorded(case)


@pytest.mark.parametrize("name", CUT)
async def test_cut_answers(name: str, session: aiohttp.ClientSession) -> None:
    """Cut after any byte an answer is whole or an error, and no call is made up.

    Nothing but the answer itself says that it is not whole.
    """
    case = CASES[name]
    async with Replay([case.exchange]) as replay:
        replay.is_framed = False
        errors = await cut(case, replay, case.make_server(session, replay.url))
    # Nothing is lost only behind the end mark: usage, timings and [DONE].
    assert errors >= 0.6 * len(case.exchange.raw)


@pytest.mark.parametrize("name", CUT_WITH_FRAMING)
async def test_cut_chunks(name: str, session: aiohttp.ClientSession) -> None:
    """A chunk that is not whole is an error, too."""
    case = CASES[name]
    async with Replay([case.exchange]) as replay:
        assert await cut(case, replay, case.make_server(session, replay.url))


async def cut(case: Case, replay: Replay, server: ModelServer) -> int:
    """Cut an answer after each number of bytes; return how often it was an error."""
    whole = recorded(case)
    errors = 0
    for count in range(len(replay.body(case.exchange))):
        replay.cut_after = count
        try:
            answer = await ask(case, server)
        except ModelServerError:
            errors += 1
        else:
            assert answer == whole, count
    return errors


async def test_an_error_in_a_stream(session: aiohttp.ClientSession) -> None:
    """Ollama's runner was killed: the last line of the stream is an error."""
    (exchange,) = load_folder(RECORDED / "ollama_broken").values()
    async with Replay([exchange]) as replay:
        server = OllamaServer(session, Connection(replay.url))
        for replay.is_byte_by_byte in (False, True):
            with pytest.raises(ModelServerError) as caught:
                await collect(server.chat_stream(REQUEST))
            assert "an error was encountered" in caught.value.detail
        replay.is_framed = False
        for count in range(len(exchange.raw)):
            replay.cut_after = count
            with pytest.raises(ModelServerError):
                await collect(server.chat_stream(REQUEST))


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("error_too_long", 400, "exceeds the available context size"),
        ("error_tool_choice", 400, "Invalid tool_choice"),
        ("error_tools", 500, "Failed to parse tools"),
        ("error_loading", 503, "Loading model"),
        ("error_schema", 400, "JSON schema error"),
    ],
)
async def test_refusals_of_llama_cpp(
    session: aiohttp.ClientSession, name: str, status: int, text: str
) -> None:
    """The status and the server's own words are in the error."""
    exchange = load_folder(RECORDED / "llama_cpp")[name]
    async with Replay([exchange]) as replay:
        # A server that loads its model may be waited for, but not for long.
        server = LlamaCppServer(session, Connection(replay.url, idle_timeout=0.2))
        for replay.is_byte_by_byte in (False, True):
            with pytest.raises(ModelServerError) as caught:
                await server.chat(REQUEST)
            assert (caught.value.status, text in caught.value.detail) == (status, True)
            with pytest.raises(ModelServerError) as caught:
                await collect(server.chat_stream(REQUEST))
            assert (caught.value.status, text in caught.value.detail) == (status, True)


async def test_a_refused_schema(session: aiohttp.ClientSession) -> None:
    """It is told from other refusals by the server's words."""
    recorded = load_folder(RECORDED / "llama_cpp")
    for name, is_refused in (("error_schema", True), ("error_tool_choice", False)):
        async with Replay([recorded[name]]) as replay:
            server = LlamaCppServer(session, Connection(replay.url))
            with pytest.raises(ModelServerError) as caught:
                await server.chat(REQUEST)
            assert server.is_schema_refusal(caught.value) is is_refused


@pytest.mark.parametrize("name", ["ollama", "llama_cpp"])
async def test_probabilities(name: str, session: aiohttp.ClientSession) -> None:
    """The likeliest first tokens, the chosen one among them."""
    case = CASES[f"{name}/chat_logprobs_whole"]
    async with Replay([case.exchange]) as replay:
        answer = await case.make_server(session, replay.url).chat(REQUEST)
    found = answer.first_token_logprobs
    assert len(found) == 8
    assert max(found, key=found.__getitem__) == answer.content
    assert all(logprob < 0 for logprob in found.values())


async def test_tokens_and_vectors_of_llama_cpp(session: aiohttp.ClientSession) -> None:
    """Prompts are counted by the server, and vectors come in order."""
    exchanges = load_folder(RECORDED / "llama_cpp")
    answers = [exchanges[n] for n in ("tokenize", "apply_template", "embeddings")]
    async with Replay(answers) as replay:
        server = LlamaCppServer(session, Connection(replay.url))
        count = len(exchanges["tokenize"].json["tokens"])
        assert await server.count_tokens(REQUEST) == count == 4
        first, second = exchanges["embeddings"].json["data"]
        assert await server.embed("model", ["Kitchen Light", "Bedroom"]) == [
            first["embedding"],
            second["embedding"],
        ]


async def test_lists_and_vectors_of_ollama(session: aiohttp.ClientSession) -> None:
    """Models come with their capabilities, and vectors in order."""
    exchanges = load_folder(RECORDED / "ollama")
    async with Replay(
        [exchanges[n] for n in ("tags", "show", "embed_texts")]
    ) as replay:
        server = OllamaServer(session, Connection(replay.url))
        models = await server.list_models()
        assert [model.name for model in models] == [
            model["name"] for model in exchanges["tags"].json["models"]
        ]
        assert all(model.may(ModelCapability.TOOLS) for model in models)
        assert not any(model.may(ModelCapability.EMBEDDING) for model in models)
        vectors = await server.embed("model", ["Kitchen Light", "Bedroom"])
        assert vectors == exchanges["embed_texts"].json["embeddings"]

"""Any stream in any pieces: our errors only, and no tool call that was cut."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from itertools import pairwise
import json
from typing import Any, Final

import aiohttp
from hypothesis import HealthCheck, given, settings, strategies as st
import pytest

from custom_components.home_agent.servers import json_stream
from custom_components.home_agent.servers.base import Connection, ServerKind, collect
from custom_components.home_agent.servers.errors import (
    ConnectionLost,
    ModelServerError,
)
from custom_components.home_agent.servers.factory import connect
from custom_components.home_agent.servers.messages import (
    ChatAnswer,
    ChatDelta,
    ChatRequest,
)

HELLO: Final = ChatRequest(model="m", messages=[{"role": "user", "content": "Hello"}])
KINDS: Final = (ServerKind.OLLAMA, ServerKind.OPENAI_COMPATIBLE)
# The end of the connection is the end of the body: a hang-up looks like a clean end.
HEAD: Final = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FUZZ: Final = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Fuzzed:
    """A server that answers every request with the same bytes, and our side of it."""

    def __init__(self, runner: asyncio.Runner) -> None:
        """Start it."""
        self._runner = runner
        self._head = HEAD
        self._chunks: list[bytes] = []
        self._server = runner.run(asyncio.start_server(self._answer, "127.0.0.1", 0))
        port = self._server.sockets[0].getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._session = runner.run(self._make_session())

    @staticmethod
    async def _make_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        await reader.readexactly(length)
        writer.write(self._head)
        for chunk in self._chunks:
            writer.write(chunk)
            await writer.drain()
            # Lets the client read what is there as a piece of its own.
            await asyncio.sleep(0)
        writer.close()

    def chat(
        self, kind: ServerKind, chunks: list[bytes], *, streaming: bool = True
    ) -> ChatAnswer | ModelServerError:
        """Return the answer that chunks make, or the error."""
        self._chunks = chunks

        async def run() -> ChatAnswer:
            connection = Connection(self._url, kind=kind, idle_timeout=5)
            server = await connect(self._session, connection)
            if streaming:
                return await collect(server.chat_stream(HELLO))
            return await server.chat(HELLO)

        try:
            return self._runner.run(run())
        except ModelServerError as err:
            return err

    def deltas(
        self, kind: ServerKind, head: bytes, body: bytes
    ) -> tuple[list[ChatDelta], ModelServerError | None]:
        """Return the deltas of a stream, and the error that ended it if one did."""
        self._head, self._chunks = head, [body]
        found: list[ChatDelta] = []

        async def run() -> None:
            connection = Connection(self._url, kind=kind, idle_timeout=5)
            server = await connect(self._session, connection)
            async with aclosing(server.chat_stream(HELLO)) as deltas:
                async for delta in deltas:
                    found.append(delta)  # noqa: PERF401 - kept if an error follows

        try:
            self._runner.run(run())
        except ModelServerError as err:
            return found, err
        return found, None

    def stop(self) -> None:
        """Stop both sides."""
        self._server.close()
        self._runner.run(self._session.close())


@pytest.fixture
def fuzzed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fuzzed]:
    """Return a server whose answers are made up."""
    monkeypatch.setattr(json_stream, "END_SECONDS", 0.2)
    with asyncio.Runner() as runner:
        server = Fuzzed(runner)
        yield server
        server.stop()


# --- Streams --------------------------------------------------------------------

CALLS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("HassTurnOn", {"name": "Kitchen Light", "brightness": 40}),
    ("open_gate", {}),
    ("HassTurnOff", {"name": "Küche ☕", "area": [1, {"a": None}]}),
]
CALL_LISTS: Final = st.lists(st.sampled_from(CALLS), max_size=3)
TEXTS: Final = st.text(st.characters(codec="utf-8"), max_size=20)
CUTS: Final = st.lists(st.integers(0, 2000), max_size=6)


def ollama_stream(text: str, calls: list[Any]) -> bytes:
    """Return a stream of Ollama."""
    messages: list[dict[str, Any]] = [{"content": piece} for piece in text]
    messages += [
        {"content": "", "tool_calls": [{"function": {"name": n, "arguments": a}}]}
        for n, a in calls
    ]
    lines = [{"message": message, "done": False} for message in messages]
    end = {"message": {"content": ""}, "done": True, "done_reason": "stop"}
    return b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, end])


def openai_stream(text: str, calls: list[Any]) -> bytes:
    """Return a stream of an OpenAI-compatible server."""
    deltas: list[dict[str, Any]] = [{"content": piece} for piece in text]
    for index, (name, arguments) in enumerate(calls):
        head = {"name": name, "arguments": ""}
        first = {"index": index, "id": f"call_{index}", "function": head}
        deltas.append({"tool_calls": [first]})
        whole = json.dumps(arguments)
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": part}}]}
            for part in (whole[:7], whole[7:])
            if part
        ]
    events: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
    reason = "tool_calls" if calls else "stop"
    events.append({"choices": [{"delta": {}, "finish_reason": reason}]})
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}" for event in events]
    return "\n\n".join([*lines, "data: [DONE]", ""]).encode()


STREAMS: Final = {
    ServerKind.OLLAMA: ollama_stream,
    ServerKind.OPENAI_COMPATIBLE: openai_stream,
}


def in_chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return data cut at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@FUZZ
@given(kind=st.sampled_from(KINDS), text=TEXTS, calls=CALL_LISTS, cuts=CUTS)
def test_any_chunks_make_the_same_answer(
    fuzzed: Fuzzed, kind: ServerKind, text: str, calls: list[Any], cuts: list[int]
) -> None:
    """Wherever the network cuts a stream."""
    answer = fuzzed.chat(kind, in_chunks(STREAMS[kind](text, calls), cuts))
    assert isinstance(answer, ChatAnswer)
    assert [(call.name, call.arguments) for call in answer.tool_calls] == calls
    whole = fuzzed.chat(kind, [STREAMS[kind](text, calls)])
    assert isinstance(whole, ChatAnswer)
    assert (answer.content, answer.thinking) == (whole.content, whole.thinking)


@FUZZ
@given(
    kind=st.sampled_from(KINDS), text=TEXTS, calls=CALL_LISTS, end=st.integers(0, 4000)
)
def test_a_stream_that_ends_early_makes_no_call_or_all(
    fuzzed: Fuzzed, kind: ServerKind, text: str, calls: list[Any], end: int
) -> None:
    """The end of the stream decides, not what looks complete."""
    data = STREAMS[kind](text, calls)
    answer = fuzzed.chat(kind, [data[: end % len(data)]])
    if isinstance(answer, ChatAnswer):
        assert [(call.name, call.arguments) for call in answer.tool_calls] == calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_stream_that_breaks_at_any_byte(
    fuzzed: Fuzzed, kind: ServerKind, *, is_chunked: bool
) -> None:
    """Every byte: a break loses the calls, and can be told from the end.

    Before the first delta the error is one after which a request is sent again.
    """
    text, expected = "☕!", CALLS[:2]
    data = STREAMS[kind](text, expected)
    length = b"%x\r\n" % len(data) if is_chunked else b""
    head = CHUNKED_HEAD + length if is_chunked else HEAD
    complete: list[int] = []
    for end in range(len(data) + 1):
        deltas, error = fuzzed.deltas(kind, head, data[:end])
        content = "".join(delta.content for delta in deltas)
        calls = [(c.name, c.arguments) for delta in deltas for c in delta.tool_calls]
        if error is None:
            assert (content, calls) == (text, expected)
            complete.append(end)
        else:
            assert isinstance(error, ConnectionLost), (end, error.log_text)
            assert text.startswith(content)
            assert not calls
    assert complete == list(range(complete[0], len(data) + 1))
    assert len(data) - 40 < complete[0]


MUTATIONS: Final = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "replace", "swap"]),
        st.integers(0, 4000),
        st.integers(1, 30),
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from(
                [
                    *(b"null", b"[]", b"{}", b"\n", b"\r\n", b"data: ", b'"'),
                    *(b"\\ud800", b'"index": null', b'"name": 5', b": ping\n"),
                    *(b"data: [DONE]\n", b"<think>", b"</think>", b"<|channel|>"),
                    b'{"error": "x"}\n',
                ]
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, mutations: list[tuple[str, int, int, bytes]]) -> bytes:
    """Return data with some of its bytes changed."""
    for what, place, length, new in mutations:
        at = place % (len(data) + 1)
        match what:
            case "insert":
                data = data[:at] + new + data[at:]
            case "delete":
                data = data[:at] + data[at + length :]
            case "replace":
                data = data[:at] + new + data[at + len(new) :]
            case _:
                middle = data[at : at + length]
                data = data[:at] + middle[::-1] + data[at + length :]
    return data


@FUZZ
@given(
    kind=st.sampled_from(KINDS),
    text=TEXTS,
    calls=CALL_LISTS,
    mutations=MUTATIONS,
    cuts=CUTS,
    streaming=st.booleans(),
)
def test_any_mutation_is_an_answer_or_our_error(
    fuzzed: Fuzzed,
    kind: ServerKind,
    text: str,
    calls: list[Any],
    mutations: list[tuple[str, int, int, bytes]],
    cuts: list[int],
    *,
    streaming: bool,
) -> None:
    """Nothing else escapes, and every call has a name and whole arguments or none."""
    data = mutated(STREAMS[kind](text, calls), mutations)
    answer = fuzzed.chat(kind, in_chunks(data, cuts), streaming=streaming)
    if isinstance(answer, ModelServerError):
        assert answer.translation_key
        assert answer.log_text
        return
    for call in answer.tool_calls:
        assert call.name
        assert call.arguments is None or isinstance(call.arguments, dict)
    # What goes into the chat log must be text that can be stored.
    (answer.content + answer.thinking).encode()


@FUZZ
@given(kind=st.sampled_from(KINDS), data=st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_our_error(
    fuzzed: Fuzzed, kind: ServerKind, data: bytes
) -> None:
    """A body that is no stream at all."""
    answer = fuzzed.chat(kind, [data])
    assert isinstance(answer, ChatAnswer | ModelServerError)

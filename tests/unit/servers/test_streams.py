"""Streams as servers really send them: odd lines, odd tool calls, odd ends."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
import json
import logging
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.servers import json_stream
from custom_components.home_agent.servers.base import (
    Connection,
    ModelServer,
    ServerKind,
    collect,
)
from custom_components.home_agent.servers.errors import (
    ConnectionLost,
    MalformedAnswer,
    ModelServerError,
    ServerTimedOut,
)
from custom_components.home_agent.servers.factory import connect
from custom_components.home_agent.servers.messages import (
    ChatAnswer,
    ChatRequest,
    ToolCall,
)
from tests.servers.raw import RawServer

HELLO = ChatRequest(model="m", messages=[{"role": "user", "content": "Hello"}])
COMPATIBLE = ServerKind.OPENAI_COMPATIBLE
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@asynccontextmanager
async def stream_server(
    body: Iterable[bytes], *, then: bytes | None = b"", pause: float = 0.01
) -> AsyncIterator[str]:
    """Serve a stream to every request; yield the address.

    then is repeated every pause seconds after the body; b"" ends the answer, and
    None keeps the connection open without a word.
    """
    tasks: set[asyncio.Task[Any]] = set()

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if (task := asyncio.current_task()) is not None:
            tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            writer.writelines([HEAD, *body])
            await writer.drain()
            while then is None or then:
                writer.write(then or b"")
                await writer.drain()
                await asyncio.sleep(pause)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        server.close_clients()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def client(
    hass: HomeAssistant, url: str, kind: ServerKind = COMPATIBLE, idle: float = 5
) -> Any:
    """Return our side of a server, to be awaited."""
    connection = Connection(url, kind=kind, idle_timeout=idle)
    return connect(async_get_clientsession(hass), connection)


async def answer_of(
    hass: HomeAssistant, *lines: bytes, kind: ServerKind = COMPATIBLE
) -> ChatAnswer:
    """Return the answer that lines make."""
    async with stream_server([b"\n".join(lines), b"\n"]) as url:
        server: ModelServer = await client(hass, url, kind)
        return await collect(server.chat_stream(HELLO))


def event(delta: Any = None, reason: str | None = None, **more: Any) -> bytes:
    """Return a server-sent event with one choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]} | more).encode()


def call_event(*pieces: dict[str, Any]) -> bytes:
    """Return an event with pieces of tool calls."""
    return event({"tool_calls": list(pieces)})


def piece(name: str | None = None, arguments: Any = None, **more: Any) -> Any:
    """Return a piece of a tool call."""
    function = {"name": name, "arguments": arguments}
    return {"function": {k: v for k, v in function.items() if v is not None}} | more


CALLS_END = event(reason="tool_calls")
DONE = b"data: [DONE]"


# --- Tool calls -----------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        # OpenAI itself.
        [
            [piece("on", "", index=0, id="a")],
            [piece(None, '{"n":', index=0)],
            [piece(None, "1}", index=0)],
            [piece("off", "", index=1, id="b")],
            [piece(None, '{"n":2}', index=1)],
        ],
        # No index (Gemini-style adapters), in one event and in two.
        [[piece("on", '{"n":1}', id="a"), piece("off", '{"n":2}', id="b")]],
        [[piece("on", '{"n":1}', id="a")], [piece("off", '{"n":2}', id="b")]],
        # Index 0 for all.
        [
            [piece("on", '{"n":1}', index=0, id="a")],
            [piece("off", '{"n":2}', index=0, id="b")],
        ],
        [
            [
                piece("on", '{"n":1}', index=0, id="a"),
                piece("off", '{"n":2}', index=0, id="b"),
            ]
        ],
        # Name and id repeated in each piece.
        [
            [piece("on", '{"n":', index=0, id="a")],
            [piece("on", "1}", index=0, id="a")],
            [piece("off", '{"n":2}', index=1, id="b")],
        ],
        # A new id in each piece (vLLM before 0.9), the name in the first.
        [
            [piece("on", "", index=0, id="a")],
            [piece(None, '{"n":1', index=0, id="a2")],
            [piece(None, "}", index=0, id="a3")],
            [piece("off", '{"n":2}', index=1, id="b")],
        ],
        # The whole call again at the end.
        [
            [piece("on", '{"n":1}', index=0, id="a")],
            [piece("off", '{"n":2}', index=1, id="b")],
            [
                piece("on", '{"n":1}', index=0, id="a"),
                piece("off", '{"n":2}', index=1, id="b"),
            ],
        ],
        # Pieces of two calls that take turns.
        [
            [piece("on", '{"n":', index=0, id="a")],
            [piece("off", '{"n":', index=1, id="b")],
            [piece(None, "1}", index=0)],
            [piece(None, "2}", index=1)],
        ],
        # Arguments as an object.
        [
            [piece("on", {"n": 1}, index=0, id="a")],
            [piece("off", {"n": 2}, index=0, id="b")],
        ],
    ],
)
async def test_parallel_calls_are_kept_apart(
    hass: HomeAssistant, events: list[list[Any]]
) -> None:
    """However a server counts them."""
    lines = [call_event(*pieces) for pieces in events]
    answer = await answer_of(hass, *lines, CALLS_END, DONE)
    assert answer.tool_calls == (
        ToolCall("on", {"n": 1}, "a"),
        ToolCall("off", {"n": 2}, "b"),
    )


@pytest.mark.parametrize(
    "events",
    [
        [[piece("on", '{"n":1}'), piece("off", '{"n":2}')]],
        [[piece("on", '{"n":1}')], [piece("off", '{"n":2}')]],
        [[piece("on", '{"n":1}', index=0)], [piece("off", '{"n":2}', index=0)]],
    ],
)
async def test_calls_without_ids(hass: HomeAssistant, events: list[list[Any]]) -> None:
    """A name after complete arguments begins the next call."""
    lines = [call_event(*pieces) for pieces in events]
    answer = await answer_of(hass, *lines, CALLS_END, DONE)
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [
        ("on", {"n": 1}),
        ("off", {"n": 2}),
    ]


@pytest.mark.parametrize("index", [{}, {"index": 0}])
async def test_two_calls_of_a_tool_without_arguments(
    hass: HomeAssistant, index: Any
) -> None:
    """Their ids, or their places in one event, tell them apart."""
    lines = [call_event(piece("x", "", id=i, **index)) for i in "ab"]
    answer = await answer_of(hass, *lines, CALLS_END, DONE)
    assert answer.tool_calls == (ToolCall("x", {}, "a"), ToolCall("x", {}, "b"))
    lines = [call_event(piece("x", ""), piece("x", ""))]
    answer = await answer_of(hass, *lines, CALLS_END, DONE)
    assert answer.tool_calls == (ToolCall("x", {}), ToolCall("x", {}))


async def test_a_name_repeated_at_the_end_is_no_second_call(
    hass: HomeAssistant,
) -> None:
    """An action would run twice, and without its arguments."""
    for more in ({"index": 0}, {"id": "a"}, {"index": 0, "id": "a"}, {}):
        answer = await answer_of(
            hass,
            call_event(piece("on", '{"n":1}', **more)),
            call_event(piece("on", "", **more)),
            CALLS_END,
            DONE,
        )
        (call,) = answer.tool_calls
        assert (call.name, call.arguments) == ("on", {"n": 1})


@pytest.mark.parametrize("arguments", ["", '{"n":1', '{"n":1}', "{}"])
@pytest.mark.parametrize("reason", ["length", "content_filter", "MAX_TOKENS"])
async def test_a_call_that_may_be_cut_off_has_no_arguments(
    hass: HomeAssistant, arguments: str, reason: str
) -> None:
    """Only the last one: those before it were complete."""
    answer = await answer_of(
        hass,
        call_event(piece("on", "{}", index=0, id="a")),
        call_event(piece("gate", arguments, index=1, id="b")),
        event(reason=reason),
        DONE,
    )
    assert answer.finish_reason == reason
    assert answer.tool_calls == (ToolCall("on", {}, "a"), ToolCall("gate", None, "b"))


async def test_a_call_cut_off_in_one_piece(hass: HomeAssistant) -> None:
    """The same for answers that are no streams, and for Ollama's."""
    calls = [piece("on", "{}", id="a"), piece("gate", "", id="b")]
    message = {"content": "", "tool_calls": calls}
    choice = {"message": message, "finish_reason": "length"}
    body = {"choices": [choice], "message": message, "done": True}
    text = json.dumps(body | {"done_reason": "length"}).encode()
    for kind in (COMPATIBLE, ServerKind.OLLAMA):
        async with stream_server([text]) as url:
            server = await client(hass, url, kind)
            for answer in (
                await server.chat(HELLO),
                await collect(server.chat_stream(HELLO)),
            ):
                assert [call.arguments for call in answer.tool_calls] == [{}, None]
                assert answer.finish_reason == "length"


@pytest.mark.parametrize("arguments", ["", '{"n":', '{"n":{"m":1}'])
async def test_an_end_mark_without_a_reason_leaves_a_call_in_doubt(
    hass: HomeAssistant, arguments: str
) -> None:
    """The last call may have lost arguments: it is made only if they are whole."""
    first, last = piece("on", "{}", id="a"), piece("gate", arguments, id="b")
    answer = await answer_of(hass, call_event(first), call_event(last), DONE)
    assert answer.tool_calls == (ToolCall("on", {}, "a"), ToolCall("gate", None, "b"))


async def test_a_server_that_never_sends_a_reason(hass: HomeAssistant) -> None:
    """Its calls are made if the stream has its end mark, and only then."""
    pieces = [piece("on", '{"n":', index=0, id="a"), piece(None, "1}", index=0)]
    lines = [event({"content": "So. "}), *map(call_event, pieces)]
    answer = await answer_of(hass, *lines, DONE)
    assert (answer.content, answer.finish_reason) == ("So. ", None)
    assert answer.tool_calls == (ToolCall("on", {"n": 1}, "a"),)
    with pytest.raises(ConnectionLost):
        await answer_of(hass, *lines)


@pytest.mark.parametrize("kind", [COMPATIBLE, ServerKind.OLLAMA])
@pytest.mark.parametrize("is_one_event", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
async def test_no_more_than_32_calls(
    hass: HomeAssistant, kind: ServerKind, *, is_one_event: bool, streaming: bool
) -> None:
    """A model that repeats itself must not switch the house for minutes."""

    async def count(calls: int) -> int:
        pieces = [piece("on", {"n": n}, index=n, id=f"c{n}") for n in range(calls)]
        groups = [pieces] if is_one_event or not streaming else [[p] for p in pieces]
        if kind is ServerKind.OLLAMA or not streaming:
            messages = [{"content": "", "tool_calls": group} for group in groups]
            lines = [
                json.dumps(
                    {
                        "message": message,
                        "done": message is messages[-1],
                        "choices": [{"message": message}],
                    }
                ).encode()
                for message in messages
            ]
        else:
            lines = [call_event(*group) for group in groups] + [CALLS_END, DONE]
        async with stream_server([b"\n".join(lines), b"\n"]) as url:
            server: ModelServer = await client(hass, url, kind)
            if streaming:
                return len((await collect(server.chat_stream(HELLO))).tool_calls)
            return len((await server.chat(HELLO)).tool_calls)

    assert await count(32) == 32
    with pytest.raises(MalformedAnswer) as caught:
        await count(33)
    assert "more than 32 tool calls" in caught.value.detail


# --- Lines ----------------------------------------------------------------------


async def test_events_over_several_lines(hass: HomeAssistant) -> None:
    """An event may have several data lines, and fields that do not matter."""
    answer = await answer_of(
        hass,
        b"retry: 1000",
        b": ping",
        b"event: message",
        b'data: {"choices": [{"delta":',
        b'data: {"content": "Hi"},',
        b"id: 7",
        b'data: "finish_reason": "stop"}]}',
        b"data:",
        DONE,
    )
    assert (answer.content, answer.finish_reason) == ("Hi", "stop")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("kind", [COMPATIBLE, ServerKind.OLLAMA])
async def test_one_object_in_place_of_a_stream(
    hass: HomeAssistant, kind: ServerKind, indent: int | None
) -> None:
    """An error, or the answer of a server that ignores "stream"."""
    text = json.dumps({"error": {"message": "boom"}}, indent=indent).encode()
    with pytest.raises(ModelServerError) as caught:
        await answer_of(hass, text, kind=kind)
    assert caught.value.detail == "boom"
    message = {"content": "Hi", "tool_calls": [piece("on", {"n": 1}, id="a")]}
    choice = {"message": message, "finish_reason": "tool_calls"}
    body = {"message": message, "done": True, "choices": [choice]}
    answer = await answer_of(hass, json.dumps(body, indent=indent).encode(), kind=kind)
    assert answer.content == "Hi"
    assert answer.tool_calls == (ToolCall("on", {"n": 1}, "a"),)


async def test_events_that_are_no_objects(hass: HomeAssistant) -> None:
    """They are malformed, and end the answer with a sentence."""
    for data in (b"null", b"[]", b"5", b'"x"'):
        with pytest.raises(MalformedAnswer):
            await answer_of(hass, event({"content": "Hi"}), b"data: " + data, DONE)
    with pytest.raises(MalformedAnswer):
        await answer_of(
            hass, b'data: {"choices": [{"del', event({"content": "x"}), DONE
        )
    with pytest.raises(MalformedAnswer) as caught:
        await answer_of(hass, *([b"data: {"] * 3000))
    assert "no JSON" in caught.value.detail


PING = b"data: ping"


async def test_data_that_is_not_json_is_skipped(
    hass: HomeAssistant, caplog: pytest.LogCaptureFixture
) -> None:
    """Some proxies send it to keep the connection open."""
    caplog.set_level(logging.DEBUG)
    pieces = [piece("on", '{"n":', index=0, id="a"), piece(None, "1}", index=0)]
    answer = await answer_of(
        hass,
        *(PING, b"data: [PING]", b"", event({"content": "Hi"}), PING),
        *(call_event(pieces[0]), PING, call_event(pieces[1]), b"note to nobody"),
        *(CALLS_END, PING, DONE),
    )
    assert answer.content == "Hi"
    assert answer.tool_calls == (ToolCall("on", {"n": 1}, "a"),)
    skipped = [r for r in caplog.records if "is not JSON" in r.getMessage()]
    assert len(skipped) == 6


@pytest.mark.parametrize(
    "lines", [[PING], [PING, DONE], [PING, b": ping"], [PING] * 3000]
)
async def test_nothing_but_data_that_is_not_json(
    hass: HomeAssistant, lines: list[bytes]
) -> None:
    """It is no answer; nor is a stream with too much of it."""
    end = (event({"content": "Hi"}, "stop"), DONE) if len(lines) > 2000 else ()
    with pytest.raises(MalformedAnswer) as caught:
        await answer_of(hass, *lines, *end)
    assert "not JSON" in caught.value.detail


PAGE = b"""<!DOCTYPE html>
<html><head><title>Router: please log in</title>
<style>
{ data: 1 }
</style></head>
<p>data: here</p></html>"""


@pytest.mark.parametrize("kind", [COMPATIBLE, ServerKind.OLLAMA])
@pytest.mark.parametrize(
    "body", [PAGE, PAGE.replace(b"\n", b""), b"OK\n", b"[info] up\n{", b"{ css\n<p>"]
)
async def test_a_page_is_no_stream(
    hass: HomeAssistant, kind: ServerKind, body: bytes
) -> None:
    """A login page with status 200: asking again would not help."""
    with pytest.raises(MalformedAnswer) as caught:
        await answer_of(hass, body, kind=kind)
    assert not caught.value.is_transient


# --- The end --------------------------------------------------------------------


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time after the finish_reason be short."""
    monkeypatch.setattr(json_stream, "END_SECONDS", 0.05)


@pytest.mark.usefixtures("quick_end")
@pytest.mark.parametrize("then", [None, b": ping\n", b"\n"])
async def test_nothing_after_the_finish_reason(
    hass: HomeAssistant, then: bytes | None
) -> None:
    """The answer is complete; what may follow is waited for only a moment."""
    stop = event({"content": "!"}, "stop")
    body = [event({"content": "Hi"}) + b"\n", stop + b"\n"]
    async with stream_server(body, then=then) as url:
        server = await client(hass, url, idle=30)
        async with asyncio.timeout(10):
            answer = await collect(server.chat_stream(HELLO))
    assert (answer.content, answer.finish_reason) == ("Hi!", "stop")


@pytest.mark.usefixtures("quick_end")
@pytest.mark.parametrize(
    "delta", [{"role": "assistant", "content": ""}, {"content": "Hi"}]
)
async def test_a_finish_reason_with_every_part(
    hass: HomeAssistant, monkeypatch: pytest.MonkeyPatch, delta: dict[str, str]
) -> None:
    """A reason that another part follows was not the end, however long that takes."""
    monkeypatch.setattr(json_stream, "UNCERTAIN_END_SECONDS", 5)
    waits = [0.1, 0.1, 0.1]
    parts = [
        event({"content": " there"}, "stop"),
        call_event(piece("on", '{"n":1}', index=0, id="a")).replace(b"null", b'"stop"'),
        DONE,
    ]

    async def answer(server: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + event(delta, "stop") + b"\n\n")
        for wait, part in zip(waits, parts, strict=True):
            await asyncio.sleep(wait)
            writer.write(part + b"\n\n")
        await writer.drain()
        writer.close()

    async with RawServer(answer).serve() as url:
        server = await client(hass, url)
        result = await collect(server.chat_stream(HELLO))
        assert result.content == delta["content"] + " there"
        assert result.tool_calls == (ToolCall("on", {"n": 1}, "a"),)
        # A break in the middle is one, although every part had a reason.
        parts[1:], waits[1:] = [b'data: {"choices'], [0]
        with pytest.raises(ConnectionLost):
            await collect(server.chat_stream(HELLO))


@pytest.mark.usefixtures("quick_end")
async def test_endless_finish_reasons_end(
    hass: HomeAssistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a part of an answer they are no progress."""
    monkeypatch.setattr(json_stream, "UNCERTAIN_END_SECONDS", 0.05)
    again = event(reason="stop") + b"\n"
    for first in (event({"content": "Hi"}), event({"content": "Hi"}, "stop")):
        async with stream_server([first + b"\n"], then=again) as url:
            server = await client(hass, url, idle=30)
            async with asyncio.timeout(10):
                assert (await collect(server.chat_stream(HELLO))).content == "Hi"


async def test_figures_after_the_finish_reason(hass: HomeAssistant) -> None:
    """They still count."""
    usage = {"prompt_tokens": 7, "completion_tokens": 1}
    answer = await answer_of(
        hass,
        event({"content": "Hi"}, "stop"),
        b"data: " + json.dumps({"choices": [], "usage": usage}).encode(),
        DONE,
    )
    assert answer.stats.prompt_tokens == 7


@pytest.mark.parametrize("body", [[], [event({"content": "Hi"}) + b"\n"]])
async def test_endless_pings_end(hass: HomeAssistant, body: list[bytes]) -> None:
    """A ping is no part of an answer, before the first word and after it."""
    async with stream_server(body, then=b": ping\n") as url:
        server = await client(hass, url, idle=0.2)
        async with asyncio.timeout(10):
            with pytest.raises(ServerTimedOut):
                await collect(server.chat_stream(HELLO))


async def test_a_hang_up_after_the_finish_reason(hass: HomeAssistant) -> None:
    """It loses nothing, and one before it is an error."""
    answer = await answer_of(hass, event({"content": "Hi"}, "stop"))
    assert answer.content == "Hi"
    with pytest.raises(ConnectionLost):
        await answer_of(hass, event({"content": "Hi"}))


# --- Thinking -------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_content_in_parts(hass: HomeAssistant, *, streaming: bool) -> None:
    """Mistral's reasoning models send thinking as a part of the content."""
    content = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm. "}]},
        {"type": "thinking", "thinking": "So."},
        {"type": "text", "text": "Hel"},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "lo"},
    ]
    if streaming:
        lines = [event({"content": [part]}) for part in content]
        answer = await answer_of(hass, *lines, event({"content": ""}, "stop"), DONE)
    else:
        body = {"choices": [{"message": {"content": content}}]}
        async with stream_server([json.dumps(body).encode()]) as url:
            answer = await (await client(hass, url)).chat(HELLO)
    assert (answer.content, answer.thinking) == ("Hello", "Hm. So.")


async def test_a_lone_closing_tag_in_one_piece(hass: HomeAssistant) -> None:
    """What stands before it is thinking, where the answer came in one piece."""
    content = "Let me see.</think>\n\nYes."
    body = {"choices": [{"message": {"content": content}}]}
    whole = {"message": {"content": content}, "done": True}
    async with stream_server([json.dumps(body | whole).encode()]) as url:
        for kind in (COMPATIBLE, ServerKind.OLLAMA):
            answer = await (await client(hass, url, kind)).chat(HELLO)
            assert (answer.content, answer.thinking) == ("Yes.", "Let me see.")

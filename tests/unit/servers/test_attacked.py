"""Answers of servers that repeat themselves, stall, or report nonsense."""

import asyncio
from dataclasses import replace
import json
import logging
from typing import Any

from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.servers.base import ServerKind, collect
from custom_components.home_agent.servers.errors import (
    MalformedAnswer,
    ModelServerError,
    ServerTimedOut,
)
from custom_components.home_agent.servers.messages import (
    ChatAnswer,
    ChatStats,
    ToolCall,
)

from .test_streams import (
    CALLS_END,
    COMPATIBLE,
    DONE,
    HELLO,
    answer_of,
    call_event,
    client,
    event,
    piece,
    stream_server,
)

ON = '{"n": 1}'
ON_DENSE = '{"n":1}'
OFF = '{"n": 2}'


async def calls_made(
    hass: HomeAssistant, events: list[list[Any]]
) -> list[tuple[str, Any]]:
    """Return the names and arguments of the calls that a stream makes."""
    lines = [call_event(*pieces) for pieces in events]
    answer = await answer_of(hass, *lines, CALLS_END, DONE)
    return [(call.name, call.arguments) for call in answer.tool_calls]


# --- Tool calls -----------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        # A new id.
        [[piece("x", ON, index=0, id="a")], [piece("x", ON, index=0, id="b")]],
        # Other spaces, with and without an id.
        [[piece("x", ON, index=0)], [piece("x", ON_DENSE, index=0)]],
        [[piece("x", ON, id="a")], [piece("x", ON_DENSE, id="a")]],
        # As a text in pieces, then as an object.
        [
            [piece("x", ON[:4], index=0, id="a")],
            [piece(None, ON[4:], index=0)],
            [piece("x", {"n": 1}, index=0, id="a")],
        ],
        # An index, then none.
        [[piece("x", ON, index=0)], [piece("x", ON_DENSE)]],
        # Each piece has all the arguments so far.
        [
            [piece("x", ON[:1], index=0, id="a")],
            [piece("x", ON[:4], index=0, id="a")],
            [piece("x", ON, index=0, id="a")],
        ],
        # No arguments at first.
        [[piece("x", "{}", index=0, id="a")], [piece("x", ON, index=0, id="a")]],
        [[piece("x", "{}", index=0)], [piece("x", ON, index=0)]],
        [
            [piece("x", "{}", index=0, id="a")],
            [piece(None, ON[:4], index=0)],
            [piece(None, ON[4:], index=0)],
        ],
    ],
)
async def test_a_call_sent_again_is_one_call(
    hass: HomeAssistant, events: list[list[Any]]
) -> None:
    """An action must not run twice, and its arguments stay whole."""
    assert await calls_made(hass, events) == [("x", {"n": 1})]


@pytest.mark.parametrize("place", [{}, {"index": 0}])
async def test_all_calls_sent_again_at_the_end(hass: HomeAssistant, place: Any) -> None:
    """Without ids, and with no index or one for all."""
    on, off = piece("x", ON, **place), piece("x", OFF, **place)
    made = await calls_made(hass, [[on], [off], [on, off]])
    assert made == [("x", {"n": 1}), ("x", {"n": 2})]


async def test_equal_calls_of_different_places_are_two(hass: HomeAssistant) -> None:
    """The model means both."""
    for first, second in (
        ({"index": 0}, {"index": 1}),
        ({"index": 0, "id": "a"}, {"index": 1, "id": "a"}),
        ({"index": 0, "id": "a"}, {"index": 1, "id": "b"}),
        ({"id": "a"}, {"id": "b"}),
    ):
        pieces = [piece("x", ON, **first), piece("x", ON, **second)]
        for events in ([pieces], [[each] for each in pieces]):
            assert await calls_made(hass, events) == [("x", {"n": 1})] * 2
    assert len(await calls_made(hass, [[piece("x", ON), piece("x", ON)]])) == 2


@pytest.mark.parametrize("cut", [0, 4, len(ON)])
async def test_one_id_for_two_calls(hass: HomeAssistant, cut: int) -> None:
    """The index tells them apart, in one event and in several."""
    places = {"index": 0, "id": "a"}, {"index": 1, "id": "a"}
    heads = [
        piece("x", text[:cut], **place)
        for text, place in zip((ON, OFF), places, strict=True)
    ]
    tails = [
        piece(None, text[cut:], **place)
        for text, place in zip((ON, OFF), places, strict=True)
    ]
    for events in ([heads, tails], [[each] for each in heads + tails]):
        made = await calls_made(hass, events)
        assert made == [("x", {"n": 1}), ("x", {"n": 2})]


async def test_arguments_that_contain_their_own_beginning(hass: HomeAssistant) -> None:
    """They are not cumulative."""
    texts = '{"n":', '{"n":', "1}", "}"
    events = [[piece("x", texts[0], index=0, id="a")]]
    events += [[piece(None, text, index=0)] for text in texts[1:]]
    assert await calls_made(hass, events) == [("x", {"n": {"n": 1}})]


def chunk(done: bool, *calls: Any, **more: Any) -> bytes:
    """Return a line of Ollama's stream."""
    message = {"content": "", "tool_calls": list(calls)}
    return json.dumps({"message": message, "done": done} | more).encode()


async def test_ollama_sends_a_call_again_at_the_end(hass: HomeAssistant) -> None:
    """It is one call if its id or its index is the same."""

    def call(**more: Any) -> Any:
        index = {"index": more.pop("index")} if "index" in more else {}
        return {"function": {"name": "x", "arguments": {"n": 1}} | index} | more

    async def made(first: Any, last: Any) -> tuple[ToolCall, ...]:
        lines = chunk(False, first), chunk(True, last)
        answer = await answer_of(hass, *lines, kind=ServerKind.OLLAMA)
        return answer.tool_calls

    for same in ({"id": "a"}, {"index": 0}, {"index": 0, "id": "a"}):
        assert len(await made(call(**same), call(**same))) == 1
    assert len(await made(call(index=0), call(index=1))) == 2
    assert len(await made(call(id="a"), call(id="b"))) == 2
    assert len(await made(call(), call())) == 2


@pytest.mark.parametrize("kind", [COMPATIBLE, ServerKind.OLLAMA])
async def test_a_call_that_is_named_twice_in_one_piece(
    hass: HomeAssistant, kind: ServerKind
) -> None:
    """The rule is that of streams: the same index or id makes it one call."""

    async def made(first: Any, second: Any, arguments: str = ON) -> list[Any]:
        calls = [piece("x", ON, **first), piece("x", arguments, **second)]
        message = {"content": "", "tool_calls": calls}
        body = {"message": message, "done": True, "choices": [{"message": message}]}
        async with stream_server([json.dumps(body).encode()]) as url:
            answer = await (await client(hass, url, kind)).chat(HELLO)
        return [call.arguments for call in answer.tool_calls]

    for same in ({"id": "a"}, {"index": 0}, {"index": 0, "id": "a"}):
        assert await made(same, same) == [{"n": 1}]
        assert await made(same, same, ON_DENSE) == [{"n": 1}]
        assert await made(same, same, OFF) == [{"n": 1}, {"n": 2}]
    for first, second in (
        ({"index": 0}, {"index": 1}),
        ({"index": 0, "id": "a"}, {"index": 1, "id": "a"}),
        ({"id": "a"}, {"id": "b"}),
        ({}, {}),
    ):
        assert await made(first, second) == [{"n": 1}] * 2


# --- Objects that bring nothing -------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (ServerKind.OLLAMA, b'{"message": {"content": ""}, "done": false}'),
        (ServerKind.OLLAMA, b"{}"),
        (COMPATIBLE, b'data: {"choices": []}'),
        (COMPATIBLE, b'data: {"type": "ping"}'),
        (COMPATIBLE, event({"role": "assistant", "content": ""})),
        (COMPATIBLE, b'data: {"choices": [], "usage": {"prompt_tokens": 1}}'),
        (COMPATIBLE, call_event(piece("x", ON, index=0))),
    ],
)
async def test_endless_objects_that_bring_nothing_end(
    hass: HomeAssistant, kind: ServerKind, line: bytes
) -> None:
    """They are signs of life like comments, and no parts of an answer."""
    async with stream_server([], then=line + b"\n") as url:
        server = await client(hass, url, kind, idle=0.1)
        async with asyncio.timeout(10):
            with pytest.raises(ServerTimedOut):
                await collect(server.chat_stream(HELLO))


# --- The length of an answer ----------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (ServerKind.OLLAMA, b'{"message": {"content": "la la "}, "done": false}'),
        (ServerKind.OLLAMA, b'{"message": {"thinking": "la la "}, "done": false}'),
        (COMPATIBLE, event({"content": "la la "})),
        (COMPATIBLE, event({"reasoning_content": "la la "})),
        (COMPATIBLE, call_event(piece(None, " la la ", index=0))),
    ],
)
async def test_an_answer_without_an_end_is_cut_off(
    hass: HomeAssistant, kind: ServerKind, line: bytes
) -> None:
    """The server ignores max_tokens: the answer ends as if it had kept the limit."""
    first = call_event(piece("on", "{", index=0)) + b"\n"
    if kind is ServerKind.OLLAMA:
        first = chunk(False, {"function": {"name": "on", "arguments": {}}}) + b"\n"
    short = replace(HELLO, max_tokens=100)
    async with stream_server([first], then=(line + b"\n") * 1000) as url:
        server = await client(hass, url, kind)
        async with asyncio.timeout(10):
            answer = await collect(server.chat_stream(short))
    assert answer.finish_reason == "length"
    assert answer.tool_calls == (ToolCall("on", None),)
    assert len(answer.content + answer.thinking) < 100 * 16 + 16_000 + 10


@pytest.mark.parametrize("kind", [COMPATIBLE, ServerKind.OLLAMA])
async def test_a_long_answer_is_not_cut_off(
    hass: HomeAssistant, kind: ServerKind
) -> None:
    """A token may have many characters, and some servers do not count the thinking."""
    text, thinking = "long words " * 200, "Hm. " * 3000
    lines = [
        event({"content": "", "reasoning_content": thinking}),
        event({"content": text}, "stop"),
    ]
    if kind is ServerKind.OLLAMA:
        message = {"content": text, "thinking": thinking}
        lines = [json.dumps({"message": message, "done": True}).encode()]
    async with stream_server([b"\n".join(lines) + b"\n"]) as url:
        server = await client(hass, url, kind)
        answer = await collect(server.chat_stream(replace(HELLO, max_tokens=200)))
    assert (answer.content, answer.thinking) == (text, thinking)
    assert answer.finish_reason != "length"


# --- Fields in place of the content ---------------------------------------------


async def whole_and_streamed(hass: HomeAssistant, *messages: Any) -> list[ChatAnswer]:
    """Return the answer with one message whole, and as a stream of all of them."""
    choice = {"message": messages[-1], "finish_reason": "stop"}
    async with stream_server([json.dumps({"choices": [choice]}).encode()]) as url:
        whole = await (await client(hass, url)).chat(HELLO)
    lines = [event(message) for message in messages[:-1] or messages]
    return [whole, await answer_of(hass, *lines, event(reason="stop"), DONE)]


async def test_a_refusal_is_the_answer(hass: HomeAssistant) -> None:
    """OpenAI's models send it in place of the content, whole or in pieces."""
    refusals = [
        {"content": None, "refusal": text} for text in ("I ", "can't.", "I can't.")
    ]
    for answer in await whole_and_streamed(hass, *refusals):
        assert answer.content == "I can't."
    parts = {"content": [{"type": "refusal", "refusal": "No."}]}
    for answer in await whole_and_streamed(hass, parts):
        assert answer.content == "No."
    for odd in (
        {"content": "Yes.", "refusal": "No."},
        {"content": "Yes.", "refusal": 5},
    ):
        for answer in await whole_and_streamed(hass, odd):
            assert answer.content == "Yes."


async def test_a_function_call_is_a_tool_call(hass: HomeAssistant) -> None:
    """The field is older than tool_calls; without all arguments it is not made."""

    def call(name: str | None, arguments: str) -> Any:
        function = {"name": name, "arguments": arguments}
        return {"content": None, "function_call": function}

    pieces = [call("x", ""), call(None, ON[:4]), call(None, ON[4:]), call("x", ON)]
    for answer in await whole_and_streamed(hass, *pieces):
        assert answer.tool_calls == (ToolCall("x", {"n": 1}),)
    for answer in await whole_and_streamed(hass, call("x", ON[:4])):
        assert answer.tool_calls == (ToolCall("x", None),)
    for answer in await whole_and_streamed(hass, {"content": "", "function_call": "x"}):
        assert answer.tool_calls == ()
    both = {**call("x", ON), "tool_calls": [piece("x", ON, index=0, id="a")]}
    for answer in await whole_and_streamed(hass, both):
        assert answer.tool_calls == (ToolCall("x", {"n": 1}, "a"),)
    with pytest.raises(MalformedAnswer):
        await whole_and_streamed(hass, call(None, ON))


# --- Figures and what follows an answer -----------------------------------------


@pytest.mark.parametrize(
    "figures",
    [
        {"usage": [], "timings": ""},
        {"usage": {"prompt_tokens_details": []}, "timings": 5},
        {
            "usage": {
                "prompt_tokens": -1,
                "completion_tokens": 10**10,
                "prompt_tokens_details": {"cached_tokens": -5},
            },
            "timings": {"prompt_ms": -1, "predicted_ms": 1e12, "cache_n": 1e299},
        },
    ],
)
async def test_nonsense_for_figures_is_no_figure(
    hass: HomeAssistant, figures: Any
) -> None:
    """It costs no answer, in one piece or streamed."""
    lines = event({"content": "Hi"}, "stop"), event(**figures), DONE
    answer = await answer_of(hass, *lines)
    assert (answer.content, answer.stats) == ("Hi", ChatStats())
    body = {"choices": [{"message": {"content": "Hi"}}]} | figures
    async with stream_server([json.dumps(body).encode()]) as url:
        answer = await (await client(hass, url)).chat(HELLO)
    assert (answer.content, answer.stats) == ("Hi", ChatStats())


async def test_nonsense_for_figures_of_ollama(hass: HomeAssistant) -> None:
    """The same for its counts and its nanoseconds."""
    line = chunk(
        True,
        prompt_eval_count=-1,
        eval_count=10**12,
        load_duration=-5,
        prompt_eval_duration=10**17,
        eval_duration=2 * 10**9,
    )
    answer = await answer_of(hass, line, kind=ServerKind.OLLAMA)
    assert answer.stats == ChatStats(completion_seconds=2.0)


async def test_an_error_after_the_finish_reason(
    hass: HomeAssistant, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is complete; before its end an error ends it."""
    caplog.set_level(logging.DEBUG)
    error = b'data: {"error": {"message": "no usage"}}'
    for last in (error, b"data: null"):
        answer = await answer_of(hass, event({"content": "Hi"}, "stop"), last)
        assert (answer.content, answer.finish_reason) == ("Hi", "stop")
    assert "no usage" in caplog.text
    with pytest.raises(ModelServerError):
        await answer_of(hass, event({"content": "Hi"}), error)


@pytest.mark.parametrize("kind", [COMPATIBLE, ServerKind.OLLAMA])
async def test_half_of_a_surrogate_pair_in_a_whole_answer(
    hass: HomeAssistant, kind: ServerKind
) -> None:
    """It becomes U+FFFD, as in streams."""
    message = {"content": "Hi \ud83d"}
    body = {"message": message, "done": True, "choices": [{"message": message}]}
    async with stream_server([json.dumps(body).encode()]) as url:
        answer = await (await client(hass, url, kind)).chat(HELLO)
    assert answer.content == "Hi \ufffd"

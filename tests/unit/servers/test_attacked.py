"""Answers of servers that repeat themselves, stall, or report nonsense."""

import json
from typing import Any

from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.servers.base import ServerKind
from custom_components.home_agent.servers.messages import ToolCall

from .test_streams import CALLS_END, DONE, answer_of, call_event, piece

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

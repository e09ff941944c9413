"""Tool calls: put together from their pieces, and never made if they were cut off."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from homeassistant.helpers.json import json_dumps

from .answers import Answer, parse_arguments
from .errors import MalformedAnswer
from .messages import ToolCall

# Reasons to end an answer that may leave its last tool call incomplete: the limit
# of tokens in the words of several servers, a content filter, a server that stops.
_CUT_REASONS: Final = frozenset(
    {
        "abort",
        "content_filter",
        "error",
        "insufficient_system_resource",
        "length",
        "max_tokens",
        "model_length",
    }
)


@dataclass(eq=False, slots=True)
class _PartialCall:
    """A tool call whose pieces are still coming in."""

    name: str = ""
    arguments: str = ""
    id: str = ""

    @property
    def is_complete(self) -> bool:
        """Return whether the arguments are a whole JSON object already."""
        return bool(self.arguments) and parse_arguments(self.arguments) is not None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of a tool call; texts that are absent are ""."""

    index: int | None
    id: str
    name: str
    arguments: str


class ToolCallCollector:
    """Puts the pieces of a stream's tool calls together.

    In OpenAI's API the first piece of a call has its index, id and name, and the
    others have the index. Other servers send whole calls without an index, give
    index 0 to each of them, repeat the name or the id in each piece, or send a
    new id with each piece (vLLM before 0.9).
    """

    def __init__(self, host: str) -> None:
        """Start before the first piece; host is the server's, for errors."""
        self._host = host
        self._calls: list[_PartialCall] = []
        self._by_id: dict[str, _PartialCall] = {}
        self._by_index: dict[int, _PartialCall] = {}

    def add(self, pieces: list[Answer]) -> None:
        """Add the pieces of one event."""
        added: list[_PartialCall] = []
        for piece in map(_piece_of, pieces):
            call = self._find(piece)
            if call is None or self._starts_new_call(piece, call, added):
                call = _PartialCall()
                self._calls.append(call)
            call.id = call.id or piece.id
            call.name = piece.name or call.name
            # Some servers repeat the whole call at the end.
            if piece.arguments != call.arguments or not call.is_complete:
                call.arguments += piece.arguments
            if piece.id:
                self._by_id[piece.id] = call
            if piece.index is not None:
                self._by_index[piece.index] = call
            added.append(call)

    def finish(self, finish_reason: str | None) -> tuple[ToolCall, ...]:
        """Return the calls in the order in which they began.

        Raise MalformedAnswer if one has no name. A stream without a reason for its
        end may have been cut, too.
        """
        calls = [
            ToolCall(call.name, parse_arguments(call.arguments), call.id)
            for call in self._calls
        ]
        is_cut = finish_reason is None or is_cut_off(finish_reason)
        return checked_calls(calls, self._host, is_cut=is_cut)

    def _find(self, piece: _Piece) -> _PartialCall | None:
        """Return the call that a piece seems to belong to."""
        if piece.id in self._by_id:
            return self._by_id[piece.id]
        if piece.index is not None:
            return self._by_index.get(piece.index)
        return self._calls[-1] if self._calls else None

    def _starts_new_call(
        self, piece: _Piece, call: _PartialCall, added: Collection[_PartialCall]
    ) -> bool:
        """Return whether a piece begins a call of its own.

        call is the one that its index, or its place, seems to say; added are the
        calls that have a piece in the same event.
        """
        if not (piece.name and call.name) or piece.id in self._by_id:
            return False
        if piece.id:
            return bool(call.id) or call.is_complete
        if piece.index is None and (call in added or call.name != piece.name):
            return True
        repeats = (piece.name, piece.arguments) == (call.name, call.arguments)
        return bool(piece.arguments) and call.is_complete and not repeats


def is_cut_off(finish_reason: str | None) -> bool:
    """Return whether an answer ended for a reason that may cut its last call."""
    return finish_reason is not None and finish_reason.lower() in _CUT_REASONS


def checked_calls(
    calls: list[ToolCall], host: str, *, is_cut: bool
) -> tuple[ToolCall, ...]:
    """Return tool calls, the last one without arguments if it may be cut off.

    No server says whether the last call was complete when the answer was cut, and
    some close the brackets of a call that was not. Raise MalformedAnswer if a call
    has no name.
    """
    if is_cut and calls:
        last = calls.pop()
        if last.name:
            calls.append(replace(last, arguments=None))
    if not all(call.name for call in calls):
        raise MalformedAnswer(host, "a tool call has no name")
    return tuple(calls)


def calls_of(message: Answer) -> list[ToolCall]:
    """Return the tool calls of a message that has each in one piece."""
    calls = []
    for item in message.objects("tool_calls"):
        function = item.optional_object("function")
        arguments = function.value("arguments") if function else None
        calls.append(
            ToolCall(
                (function and function.optional_text("name")) or "",
                parse_arguments(arguments),
                item.optional_text("id") or "",
            )
        )
    return calls


def _piece_of(item: Answer) -> _Piece:
    """Return an entry of "tool_calls"; some servers send arguments as an object."""
    function = item.optional_object("function")
    arguments = function.value("arguments") if function else None
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else json_dumps(arguments)
    return _Piece(
        index=item.integer("index"),
        id=item.optional_text("id") or "",
        name=(function and function.optional_text("name")) or "",
        arguments=arguments,
    )

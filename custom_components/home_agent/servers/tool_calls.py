"""Tool calls: put together from their pieces, and never made if they were cut off."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
import json
from typing import Final

from .answers import Answer, parse_arguments
from .errors import MalformedAnswer
from .messages import JsonObject, ToolCall

# The most tool calls of one answer. A model that repeats itself would switch the house
# for minutes; people's commands need a few.
MAX_CALLS: Final = 32
# The reason to end an answer at its limit of tokens, in the words of most servers.
LENGTH: Final = "length"
# Reasons to end an answer that may leave its last tool call incomplete: the limit
# of tokens in the words of several servers, a content filter, a server that stops.
_CUT_REASONS: Final = frozenset(
    {
        "abort",
        "content_filter",
        "error",
        "insufficient_system_resource",
        LENGTH,
        "max_tokens",
        "model_length",
    }
)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of a tool call; texts that are absent are ""."""

    index: int | None
    id: str
    name: str
    arguments: str

    def whole_arguments(self) -> JsonObject | None:
        """Return the arguments if this piece alone has all of them."""
        if not self.arguments.lstrip().startswith("{"):
            return None
        return parse_arguments(self.arguments)


@dataclass(eq=False, slots=True)
class _PartialCall:
    """A tool call whose pieces are still coming in."""

    index: int | None = None
    id: str = ""
    name: str = ""
    # Every id that a piece of this call had.
    ids: set[str] = field(default_factory=set)
    # The texts of the arguments, none of them empty.
    texts: list[str] = field(default_factory=list)

    def add(self, piece: _Piece) -> None:
        """Add a piece that is not a repeat."""
        self.name = piece.name or self.name
        if piece.arguments:
            self.texts.append(piece.arguments)
        self.add_place(piece)

    def add_place(self, piece: _Piece) -> None:
        """Remember by which index and id the server names this call."""
        self.id = self.id or piece.id
        if piece.id:
            self.ids.add(piece.id)
        if self.index is None:
            self.index = piece.index

    def arguments(self) -> JsonObject | None:
        """Return the arguments, None if they are not a whole JSON object.

        Each text adds to those before it, or contains them (cumulative arguments).
        Some servers send "{}" in place of arguments that follow.
        """
        without_empty = [text for text in self.texts if text.strip() != "{}"]
        for texts in (self.texts, without_empty):
            if (arguments := parse_arguments("".join(texts))) is not None:
                return arguments
            if _is_cumulative(texts):
                arguments = parse_arguments(texts[-1])
                if arguments is not None:
                    return arguments
        return None

    def is_complete(self) -> bool:
        """Return whether the arguments are a whole JSON object already."""
        return bool(self.texts) and self.arguments() is not None

    def has_place_of(self, piece: _Piece) -> bool | None:
        """Return whether the index, or else the id, of a piece is that of this call.

        None if the two have neither in common.
        """
        if piece.index is not None and self.index is not None:
            return piece.index == self.index
        if piece.id and self.ids:
            return piece.id in self.ids
        return None


class ToolCallCollector:
    """Puts the pieces of a stream's tool calls together.

    In OpenAI's API the first piece of a call has its index, id and name, and the
    others have the index. Other servers send whole calls without an index, give
    index 0 or one id to each of them, repeat the name or the id in each piece,
    send a new id with each piece (vLLM before 0.9), or send whole calls again at
    the end.
    """

    def __init__(self, host: str) -> None:
        """Start before the first piece; host is the server's, for errors."""
        self._host = host
        # The length of all pieces, for the limit of an answer.
        self.characters = 0
        self._calls: list[_PartialCall] = []
        self._by_id: dict[str, _PartialCall] = {}
        self._by_index: dict[int, _PartialCall] = {}

    def add(self, delta: Answer) -> bool:
        """Add the pieces of one event; return whether a call began or grew.

        Raise MalformedAnswer if there are more than MAX_CALLS calls.
        """
        added: list[_PartialCall] = []
        has_grown = False
        for piece in map(_piece_of, _items_of(delta, self._host)):
            self.characters += len(piece.name) + len(piece.arguments)
            call = self._find(piece)
            if repeated := self._repeated(piece, call, added):
                repeated.add_place(piece)
                added.append(repeated)
                continue
            is_new = call is None or self._starts_new_call(piece, call, added)
            if call is None or is_new:
                if len(self._calls) == MAX_CALLS:
                    raise _too_many(self._host)
                call = _PartialCall()
                self._calls.append(call)
            call.add(piece)
            if piece.id:
                self._by_id[piece.id] = call
            if piece.index is not None:
                self._by_index[piece.index] = call
            added.append(call)
            has_grown = has_grown or is_new or bool(piece.arguments)
        return has_grown

    def finish(
        self, finish_reason: str | None, *, has_ended: bool
    ) -> tuple[ToolCall, ...]:
        """Return the calls in the order in which they began.

        Raise MalformedAnswer if one has no name. Not has_ended: the stream had its
        end mark, but no finish_reason after the calls. Then the last one may be cut
        off, unless its arguments are a whole JSON object.
        """
        calls = [ToolCall(call.name, call.arguments(), call.id) for call in self._calls]
        is_cut = is_cut_off(finish_reason) or (
            not has_ended and bool(calls) and not self._calls[-1].is_complete()
        )
        return checked_calls(calls, self._host, is_cut=is_cut)

    def _find(self, piece: _Piece) -> _PartialCall | None:
        """Return the call that a piece seems to belong to."""
        call = self._by_id.get(piece.id)
        if call and call.has_place_of(piece):
            return call
        if piece.index is not None:
            return self._by_index.get(piece.index)
        return self._calls[-1] if self._calls else None

    def _repeated(
        self, piece: _Piece, found: _PartialCall | None, added: Collection[_PartialCall]
    ) -> _PartialCall | None:
        """Return the complete call that a piece has once more, None if there is none.

        found is the call that the piece seems to belong to. added are the calls that
        have a piece in the same event: without an index and an id, two equal calls
        in one event are two calls.
        """
        name = piece.name or (found.name if found else "")
        if found is None and not piece.name:
            return None
        if (arguments := piece.whole_arguments()) is None:
            return None
        for call in self._calls:
            if call.name != name or not (piece.name or call is found):
                continue
            same_place = call.has_place_of(piece)
            if same_place is None:
                same_place = call not in added
            if same_place and call.is_complete() and call.arguments() == arguments:
                return call
        return None

    def _starts_new_call(
        self, piece: _Piece, call: _PartialCall, added: Collection[_PartialCall]
    ) -> bool:
        """Return whether a piece, which repeats no call, begins a call of its own.

        call is the one that its index, or its place, seems to say; added are the
        calls that have a piece in the same event.
        """
        if not (piece.name and call.name) or piece.id in call.ids:
            return False
        if piece.id:
            return bool(call.id) or call.is_complete()
        if piece.index is None and (call in added or call.name != piece.name):
            return True
        if not piece.arguments or not call.is_complete():
            return False
        # Arguments {} may stand for those that follow.
        is_filled = piece.index is not None and call.name == piece.name
        return bool(call.arguments()) or not is_filled


class WholeCallCollector:
    """Collects tool calls that come in one piece each, in a stream or in one message.

    A call that the server sends again, with the same index or id, is one call.
    """

    def __init__(self, host: str) -> None:
        """Start before the first message; host is the server's, for errors."""
        self._host = host
        self.calls: list[ToolCall] = []
        self._indexes: list[int | None] = []

    def add(self, message: Answer) -> bool:
        """Add the calls of a message; return whether one of them is new.

        Raise MalformedAnswer if there are more than MAX_CALLS calls.
        """
        count = len(self.calls)
        for item in _items_of(message, self._host):
            call, index = _whole_call(item), _index_of(item)
            if self._has(call, index):
                continue
            if len(self.calls) == MAX_CALLS:
                raise _too_many(self._host)
            self.calls.append(call)
            self._indexes.append(index)
        return len(self.calls) > count

    def _has(self, call: ToolCall, index: int | None) -> bool:
        """Return whether a call is one of those before it."""
        for other, other_index in zip(self.calls, self._indexes, strict=True):
            if (call.name, call.arguments) != (other.name, other.arguments):
                continue
            if index is not None and other_index is not None:
                is_same = index == other_index
            else:
                is_same = bool(call.id) and call.id == other.id
            if is_same:
                return True
        return False


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


def calls_of(message: Answer, host: str) -> list[ToolCall]:
    """Return the tool calls of a message that came in one piece.

    host is the server's, for errors. Raise MalformedAnswer if there are more than
    MAX_CALLS calls.
    """
    collector = WholeCallCollector(host)
    collector.add(message)
    return collector.calls


def _too_many(host: str) -> MalformedAnswer:
    """Return the error for an answer with more than MAX_CALLS tool calls."""
    return MalformedAnswer(host, f"more than {MAX_CALLS} tool calls in one answer")


def _items_of(message: Answer, host: str) -> list[Answer]:
    """Return the entries of "tool_calls", or the one that "function_call" stands for.

    OpenAI's API had "function_call" first, for a single call; some servers and proxies
    still send it.
    """
    items = message.objects("tool_calls")
    function = message.value("function_call")
    if items or not isinstance(function, dict):
        return items
    return [Answer(host, {"function": function})]


def _whole_call(item: Answer) -> ToolCall:
    """Return an entry of "tool_calls" that has the whole call."""
    function = item.optional_object("function")
    arguments = function.value("arguments") if function else None
    return ToolCall(
        (function and function.optional_text("name")) or "",
        parse_arguments(arguments),
        item.optional_text("id") or "",
    )


def _piece_of(item: Answer) -> _Piece:
    """Return an entry of "tool_calls"; some servers send arguments as an object."""
    function = item.optional_object("function")
    arguments = function.value("arguments") if function else None
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else json.dumps(arguments)
    return _Piece(
        index=item.integer("index"),
        id=item.optional_text("id") or "",
        name=(function and function.optional_text("name")) or "",
        arguments=arguments,
    )


def _index_of(item: Answer) -> int | None:
    """Return the index of an entry of "tool_calls"; Ollama has it in "function"."""
    function = item.optional_object("function")
    index = function.integer("index") if function else None
    return item.integer("index") if index is None else index


def _is_cumulative(texts: Sequence[str]) -> bool:
    """Return whether each text begins with the whole text before it."""
    return len(texts) > 1 and all(
        text.startswith(before) for before, text in pairwise(texts)
    )

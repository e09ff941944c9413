"""Answers of OpenAI-compatible servers, in our words."""

from dataclasses import dataclass
from typing import Any

from homeassistant.helpers.json import json_dumps
from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads

from .messages import ChatDelta, ChatStats, JsonObject, ToolCall
from .think_tags import ThinkTagSplitter


@dataclass(slots=True)
class _CallParts:
    """A tool call whose pieces are still coming in."""

    name: str = ""
    arguments: str = ""
    id: str = ""


class StreamParser:
    """Puts the pieces of a stream together."""

    def __init__(self) -> None:
        """Start before the first event."""
        self.finish_reason: str | None = None
        self._calls: dict[int, _CallParts] = {}
        self._splitter = ThinkTagSplitter()
        self._usage: JsonObject | None = None
        self._timings: JsonObject | None = None

    def feed(self, chunk: JsonObject) -> ChatDelta | None:
        """Return the text of an event, if it has any; keep the rest for the end."""
        self._usage = chunk.get("usage") or self._usage
        self._timings = chunk.get("timings") or self._timings
        if not (choices := chunk.get("choices")):
            return None
        self.finish_reason = choices[0].get("finish_reason") or self.finish_reason
        delta = choices[0].get("delta") or {}
        for piece in delta.get("tool_calls") or ():
            self._add_call_piece(piece)
        content, thinking = self._splitter.feed(delta.get("content") or "")
        thinking = thinking_of(delta) + thinking
        if content or thinking:
            return ChatDelta(content=content, thinking=thinking)
        return None

    def rest(self) -> ChatDelta | None:
        """Return the text that was held back."""
        content, thinking = self._splitter.finish()
        if content or thinking:
            return ChatDelta(content=content, thinking=thinking)
        return None

    def end(self) -> ChatDelta:
        """Return the last delta."""
        return ChatDelta(
            tool_calls=tuple(
                tool_call_of(parts.name, parts.arguments, parts.id)
                for _, parts in sorted(self._calls.items())
            ),
            finish_reason=self.finish_reason,
            stats=stats_of(self._usage, self._timings),
        )

    def _add_call_piece(self, piece: JsonObject) -> None:
        """Add a piece of a tool call; its index says which call it belongs to."""
        parts = self._calls.setdefault(piece.get("index") or 0, _CallParts())
        function = piece.get("function") or {}
        parts.id = piece.get("id") or parts.id
        parts.name += function.get("name") or ""
        arguments = function.get("arguments") or ""
        # Some servers send an object where the API has a string.
        parts.arguments += (
            arguments if isinstance(arguments, str) else json_dumps(arguments)
        )


def thinking_of(message: JsonObject) -> str:
    """Return the thinking of a message or delta.

    llama.cpp, LM Studio and vLLM call it reasoning_content, Ollama's /v1 and
    OpenRouter reasoning.
    """
    thinking = message.get("reasoning_content") or message.get("reasoning")
    return thinking if isinstance(thinking, str) else ""


def tool_call_of(name: str, arguments: str | JsonObject, call_id: str) -> ToolCall:
    """Return a tool call; its arguments are None if they are not a JSON object."""
    if isinstance(arguments, str):
        try:
            parsed: Any = json_loads(arguments) if arguments.strip() else {}
        except JSON_DECODE_EXCEPTIONS:
            parsed = None
    else:
        parsed = arguments
    return ToolCall(name, parsed if isinstance(parsed, dict) else None, call_id)


def stats_of(usage: JsonObject | None, timings: JsonObject | None) -> ChatStats:
    """Return the figures of an answer; timings are llama.cpp's own, in ms."""
    usage = usage or {}
    timings = timings or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")

    def seconds(key: str) -> float | None:
        value = timings.get(key)
        return None if value is None else value / 1e3

    return ChatStats(
        prompt_tokens=usage.get("prompt_tokens"),
        cached_tokens=timings.get("cache_n", cached),
        completion_tokens=usage.get("completion_tokens"),
        prompt_seconds=seconds("prompt_ms"),
        completion_seconds=seconds("predicted_ms"),
    )

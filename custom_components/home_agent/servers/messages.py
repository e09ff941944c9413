"""What goes to a chat model and what comes back, the same for every server."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from homeassistant.helpers.json import json_bytes

from ..keep_alive import KeepAlive

type JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wants to be made.

    arguments is None when the model wrote something that is not a JSON object;
    id is "" where the server gives none.
    """

    name: str
    arguments: JsonObject | None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a user message, its data in base64."""

    mime_type: str
    data: str


class ChatMessage(TypedDict, total=False):
    """One message; role and content are always there."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    thinking: str
    images: list[Image]
    tool_calls: list[ToolCall]
    tool_call_id: str
    tool_name: str


class ToolSpec(TypedDict):
    """A tool that the model may call; parameters is a JSON schema."""

    name: str
    description: str
    parameters: JsonObject


type Think = bool | Literal["low", "medium", "high"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request to a chat model.

    None leaves a setting to the server. max_tokens limits the answer, num_ctx
    the whole context; both count tokens.
    """

    model: str
    messages: list[ChatMessage]
    tools: list[ToolSpec] = field(default_factory=list)
    keep_alive: KeepAlive | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    num_ctx: int | None = None
    think: Think | None = None
    tool_choice: Literal["none"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """A request to load a model ahead, and to hold it for keep_alive.

    num_ctx must be that of its chat requests, in tokens; embedding says that the
    model makes vectors.
    """

    model: str
    keep_alive: KeepAlive
    num_ctx: int | None = None
    embedding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatStats:
    """What a server reports of one request; None is what it does not tell.

    load_seconds is the wait for the model to be in memory, prompt_seconds the
    evaluation of what was not cached.
    """

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    load_seconds: float | None = None
    prompt_seconds: float | None = None
    completion_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDelta:
    """A piece of an answer: text, thinking, or the end.

    tool_calls, finish_reason and stats are only in the last one: a stream that
    breaks has started no tool.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    stats: ChatStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """A whole answer."""

    content: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str | None
    stats: ChatStats


def text_length(messages: Sequence[ChatMessage], tools: Sequence[ToolSpec]) -> int:
    """Return the characters that a request gives a model to read."""
    said = sum(len(message["content"]) for message in messages)
    return said + (len(json_bytes(list(tools))) if tools else 0)

"""Requests to chat models and their answers, the same for every server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypedDict

from homeassistant.helpers.json import json_bytes

from ..keep_alive import KeepAlive

type JsonObject = dict[str, Any]

# Of how many tokens Ollama and OpenAI report the probabilities.
MAX_TOP_LOGPROBS: Final = 20


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the model asks for.

    arguments is None if the call must not be made: because the model wrote
    something that is no JSON object, or because the answer was cut off at its limit
    of tokens, or for another reason, where the arguments may be incomplete. id is ""
    if the server gives none.
    """

    name: str
    arguments: JsonObject | None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a user message; data is in base64."""

    mime_type: str
    data: str


class ChatMessage(TypedDict, total=False):
    """One message of a conversation; role and content are always there."""

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
    the whole context; both count tokens. tool_choice "none" forbids calls of the
    tools; Ollama has no such field, so there it has no effect. more_may_follow says
    that another request of the same turn may follow: a keep_alive of 0 then need not
    unload the model after the answer. If the server's kept_loaded has the model, the
    caller unloads it after the turn. json_schema is the schema that the server makes
    the answer fit, where it can. top_logprobs is for how many of the likeliest
    tokens chat() reports the probabilities, MAX_TOP_LOGPROBS at most.
    """

    model: str
    messages: list[ChatMessage]
    tools: list[ToolSpec] = field(default_factory=list)
    tool_choice: Literal["none"] | None = None
    json_schema: JsonObject | None = None
    top_logprobs: int | None = None
    keep_alive: KeepAlive | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    num_ctx: int | None = None
    think: Think | None = None
    more_may_follow: bool = False

    @property
    def keeps_loaded(self) -> bool:
        """Return whether the model is to stay loaded although the keep_alive is 0."""
        keep_alive = self.keep_alive
        return (
            self.more_may_follow
            and keep_alive is not None
            and keep_alive.nanoseconds == 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """A request to load a model before it is needed, and to apply its keep_alive.

    num_ctx, in tokens, must be that of the chat requests. embedding: the model makes
    vectors and cannot chat.
    """

    model: str
    keep_alive: KeepAlive
    num_ctx: int | None = None
    embedding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatStats:
    """The figures of one request; None is what the server does not report.

    load_seconds is the wait until the model was in memory, prompt_seconds the
    evaluation of the part of the prompt that was not cached, completion_seconds the
    generation of the answer.
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

    tool_calls, finish_reason and stats are only in the last one, so that a stream
    that breaks has started no tool. finish_reason is in the server's words; "length"
    means that the answer reached its limit of tokens.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    stats: ChatStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """A whole answer; the fields are those of ChatDelta.

    first_token_logprobs has the natural logarithms of the probabilities with which the
    answer could begin, by token, if the request asked for them and the server reports
    them.
    """

    content: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str | None
    stats: ChatStats
    first_token_logprobs: Mapping[str, float] = field(default_factory=dict)


def text_length(messages: Sequence[ChatMessage], tools: Sequence[ToolSpec]) -> int:
    """Return the number of characters in a request's messages and tools."""
    text = sum(len(message["content"]) for message in messages)
    return text + (len(json_bytes(list(tools))) if tools else 0)

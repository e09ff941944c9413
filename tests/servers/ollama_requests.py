"""What Ollama's requests may hold (v0.24.0: api/types.go, openai/openai.go)."""

import json
import re
from typing import Any

from .go_duration import keep_alive_seconds
from .go_json import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    MAP,
    STRING,
    Decoder,
    GoError,
    GoType,
    Slice,
    Struct,
)


class Refusal(Exception):
    """An error status with a text."""

    def __init__(self, status: int, text: str) -> None:
        """Remember both."""
        super().__init__(text)
        self.status = status


_THINK_LEVELS = ("high", "medium", "low", "max")


def _check_think(value: Any) -> None:
    """Raise GoError for what is no level of thinking."""
    levels = ", ".join(f'"{level}"' for level in _THINK_LEVELS)
    if isinstance(value, str) and value not in _THINK_LEVELS:
        raise GoError(
            f'invalid think value: "{value}" (must be {levels}, true, or false)'
        )
    if not isinstance(value, str | bool):
        raise GoError(f"think must be a boolean or string ({levels}, true, or false)")


def _check_object(value: Any) -> None:
    """Raise GoError for what is no object, in the words of Ollama's own map."""
    if not isinstance(value, dict):
        raise GoError("Value looks like object, but can't find closing '}' symbol")


def _check_image(value: Any) -> None:
    """Raise GoError for an image that is not in base64."""
    if wrong := re.search(r"[^A-Za-z0-9+/=\r\n]", value):
        raise GoError(f"illegal base64 data at input byte {wrong.start()}")


KEEP_ALIVE = Decoder("api.Duration", keep_alive_seconds)
THINK = Decoder("api.ThinkValue", _check_think)
_OBJECT = Decoder("api.ToolPropertiesMap", _check_object)

TOOL = Struct(
    "api.Tool",
    {
        "type": STRING,
        "function": Struct(
            "api.ToolFunction",
            {
                "name": STRING,
                "description": STRING,
                "parameters": Struct(
                    "api.ToolFunctionParameters",
                    {"type": STRING, "properties": _OBJECT, "required": Slice(STRING)},
                ),
            },
        ),
    },
)
_IMAGES = Slice(Decoder("api.ImageData", _check_image))
MESSAGE = Struct(
    "api.Message",
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": _IMAGES,
        "tool_calls": Slice(
            Struct(
                "api.ToolCall",
                {
                    "id": STRING,
                    "function": Struct(
                        "api.ToolCallFunction",
                        {"index": INT, "name": STRING, "arguments": _OBJECT},
                        has_decoder=True,
                    ),
                },
                has_decoder=True,
            )
        ),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
    refused_as="api.Alias",
    has_decoder=True,
)
_COMMON: dict[str, GoType] = {
    "model": STRING,
    "stream": BOOL,
    "keep_alive": KEEP_ALIVE,
    "options": MAP,
    "think": THINK,
    "format": ANY,
    "truncate": BOOL,
    "shift": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
}
CHAT = Struct(
    "api.ChatRequest",
    {**_COMMON, "messages": Slice(MESSAGE), "tools": Slice(TOOL, "api.Tools")},
)
GENERATE = Struct(
    "api.GenerateRequest",
    {
        **_COMMON,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": Slice(INT),
        "raw": BOOL,
        "images": _IMAGES,
    },
)
EMBED = Struct(
    "api.EmbedRequest",
    {
        "model": STRING,
        "input": ANY,
        "keep_alive": KEEP_ALIVE,
        "truncate": BOOL,
        "dimensions": INT,
        "options": MAP,
    },
)
EMBEDDING = Struct(
    "api.EmbeddingRequest",
    {"model": STRING, "prompt": STRING, "keep_alive": KEEP_ALIVE, "options": MAP},
)
SHOW = Struct(
    "api.ShowRequest",
    {"model": STRING, "name": STRING, "verbose": BOOL, "options": MAP},
)
PULL = Struct("api.PullRequest", {"model": STRING, "name": STRING, "stream": BOOL})
V1_CHAT = Struct(
    "openai.ChatCompletionRequest",
    {
        "model": STRING,
        "messages": Slice(
            Struct(
                "openai.Message", {"role": STRING, "content": ANY, "tool_calls": ANY}
            )
        ),
        "stream": BOOL,
        "stream_options": Struct("openai.StreamOptions", {"include_usage": BOOL}),
        "max_tokens": INT,
        "seed": INT,
        "temperature": FLOAT,
        "top_p": FLOAT,
        "response_format": Struct("openai.ResponseFormat", {"type": STRING}),
        "tools": Slice(TOOL),
        "reasoning_effort": STRING,
    },
)
V1_EMBED = Struct(
    "openai.EmbedRequest",
    {"model": STRING, "input": ANY, "dimensions": INT, "encoding_format": STRING},
)

_OPTIONS = {
    **dict.fromkeys(
        (
            "main_gpu",
            "num_batch",
            "num_ctx",
            "num_gpu",
            "num_keep",
            "num_predict",
            "num_thread",
            "repeat_last_n",
            "seed",
            "top_k",
        ),
        "integer",
    ),
    **dict.fromkeys(
        (
            "frequency_penalty",
            "min_p",
            "presence_penalty",
            "repeat_penalty",
            "temperature",
            "top_p",
            "typical_p",
        ),
        "float32",
    ),
    "stop": "array",
    "use_mmap": "boolean",
}


def check_options(options: dict[str, Any]) -> None:
    """Raise a Refusal for an option of a wrong type (api/types.go, FromMap).

    Options that Ollama does not know are ignored, a keep_alive among them.
    """
    for name, value in options.items():
        kind = _OPTIONS.get(name)
        if kind is None or value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            "integer": is_number,
            "float32": is_number,
            "array": isinstance(value, list),
            "boolean": isinstance(value, bool),
        }
        if not fits[kind]:
            raise Refusal(500, f'option "{name}" must be of type {kind}')
        if kind == "array" and not all(isinstance(item, str) for item in value):
            raise Refusal(500, f'option "{name}" must be of an array of strings')


def check_format(value: Any) -> None:
    """Raise a Refusal for what is no format of an answer (llm/server.go)."""
    if value in (None, "", "json") or isinstance(value, dict):
        return
    shown = json.dumps(json.dumps(value))
    expected = 'expected "json" or a valid JSON Schema object'
    raise Refusal(500, f"invalid format: {shown}; {expected}")

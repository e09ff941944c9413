"""The shapes of Ollama's answers (v0.24.0: api/types.go, openai/openai.go)."""

from datetime import UTC, datetime
import json
import re
from typing import Any

from .chat import Reply
from .embedding import embed
from .ollama_models import StandInModel

type Json = dict[str, Any]


def created_at() -> str:
    """Return the present time as Go writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def details(model: StandInModel) -> Json:
    """Return what the lists of models say of a model's file."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": model.name.partition(":")[2],
        "quantization_level": "Q4_K_M",
    }


def listed(model: StandInModel) -> Json:
    """Return what /api/tags and /api/ps both have of a model."""
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size,
        "digest": model.digest,
        "details": details(model),
    }


def shown(model: StandInModel) -> Json:
    """Return the answer of /api/show."""
    return {
        "modelfile": f"# FROM {model.name}\nFROM {model.path}\n",
        "parameters": 'stop                           "<|im_end|>"',
        "template": "{{ .Prompt }}",
        "details": details(model),
        "model_info": {
            "general.architecture": "llama",
            "llama.context_length": model.context_length,
        },
        "capabilities": list(model.capabilities),
        "modified_at": "2026-01-01T00:00:00Z",
    }


def finished(name: str, reason: str, *, chat: bool) -> Json:
    """Return the answer to a request that only loads or unloads."""
    content: Json = {"response": ""}
    if chat:
        content = {"message": {"role": "assistant", "content": ""}}
    head = {"model": name, "created_at": created_at()}
    return head | content | {"done": True, "done_reason": reason}


def chat_lines(name: str, reply: Reply, figures: Json, *, think: bool) -> list[Json]:
    """Return the lines of a streamed chat, the last with the figures."""
    messages: list[Json] = []
    if reply.thinking and think:
        messages += [
            {"content": "", "thinking": piece}
            for piece in re.findall(r"\S+\s*", reply.thinking)
        ]
    messages += [{"content": piece} for piece in reply.pieces()]
    for index, use in enumerate(reply.tools):
        function = {"index": index, "name": use.name, "arguments": use.arguments}
        call = {"id": f"call_{index}_{len(reply.tools)}", "function": function}
        messages.append({"content": "", "tool_calls": [call]})
    head = {"model": name, "created_at": created_at()}
    lines = [
        head | {"message": {"role": "assistant"} | message, "done": False}
        for message in messages
    ]
    if reply.logprobs and lines:
        lines[0]["logprobs"] = [top_logprobs(reply)]
    end = {"message": {"role": "assistant", "content": ""}, "done": True}
    return [*lines, head | end | {"done_reason": reply.finish_reason} | figures]


def top_logprobs(reply: Reply) -> Json:
    """Return the likeliest first tokens of a reply, in the form that OpenAI has too."""
    items: list[Json] = [
        {"token": token, "logprob": logprob, "bytes": list(token.encode())}
        for token, logprob in reply.logprobs
    ]
    return items[0] | {"top_logprobs": items}


def joined(lines: list[Json]) -> Json:
    """Return the lines of a streamed chat as the answer in one piece."""
    message: Json = {"role": "assistant", "content": ""}
    for line in lines:
        part = line["message"]
        message["content"] += part["content"]
        if thinking := part.get("thinking"):
            message["thinking"] = message.get("thinking", "") + thinking
        if calls := part.get("tool_calls"):
            message.setdefault("tool_calls", []).extend(calls)
    logprobs = [item for line in lines for item in line.get("logprobs", ())]
    more = {"logprobs": logprobs} if logprobs else {}
    return lines[-1] | {"message": message} | more


def generated(line: Json, context: list[int]) -> Json:
    """Return a line of /api/generate for a line of /api/chat."""
    result = {key: value for key, value in line.items() if key != "message"}
    message = line["message"]
    result["response"] = message["content"]
    if thinking := message.get("thinking"):
        result["thinking"] = thinking
    return result | ({"context": context} if line["done"] else {})


def vectors(model: StandInModel, texts: list[str], dimensions: int) -> list[Any]:
    """Return a vector of each text; dimensions, if not 0, is the most they have."""
    length = min(dimensions or model.dimension, model.dimension)
    return [embed(text, length) for text in texts]


def tokens(text: str) -> list[str]:
    """Return a text in pieces of about the size of tokens."""
    return re.findall(r"\w{1,4}|\S", text)


def json_tokens(text: str) -> list[str]:
    """Return JSON in pieces of about the size of tokens.

    Tokenizers know the words of schemas, and runs of brackets and quotation marks.
    """
    return re.findall(r"\w+|[^\w\s]+", text)


def ndjson(lines: list[Json]) -> list[bytes]:
    """Return lines of a stream as they are sent."""
    return [json.dumps(line).encode() + b"\n" for line in lines]

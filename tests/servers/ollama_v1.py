"""The OpenAI-compatible half of a stand-in Ollama.

As in Ollama itself (middleware/openai.go) a request becomes a native one, and the
native answer is turned into OpenAI's form. A keep_alive and a num_ctx are lost on
the way: the request has no field for either.
"""

import json
import time
from typing import Any

from .ollama_answers import Json, joined
from .ollama_requests import Refusal

_EFFORTS = ("high", "medium", "low", "max", "none")


def error(status: int, text: str) -> Json:
    """Return an error in OpenAI's form."""
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    kind = kinds.get(status, "api_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def native_chat(body: Json) -> Json:
    """Return a request as /api/chat has it; raise a Refusal for a wrong one."""
    if not body.get("messages"):
        raise Refusal(400, "[] is too short - 'messages'")
    native = {
        "model": body.get("model", ""),
        "messages": [m for item in body["messages"] for m in _messages(item)],
        "stream": body.get("stream", False),
        "tools": body.get("tools"),
    }
    if effort := body.get("reasoning_effort"):
        if effort not in _EFFORTS:
            levels = ", ".join(f'"{item}"' for item in _EFFORTS[:-1])
            raise Refusal(
                400,
                f"invalid reasoning value: '{effort}' (must be {levels}, or \"none\")",
            )
        native["think"] = False if effort == "none" else effort
    return native


def native_embed(body: Json) -> Json:
    """Return a request as /api/embed has it; raise a Refusal for a wrong one."""
    encoding = body.get("encoding_format", "float")
    if encoding.lower() not in ("", "float", "base64"):
        raise Refusal(
            400,
            f"Invalid value for 'encoding_format' = {encoding}. Supported values:"
            " ['float', 'base64'].",
        )
    given = body.get("input")
    if given is None or given == []:
        raise Refusal(400, "invalid input")
    return {
        "model": body.get("model", ""),
        "input": [""] if given == "" else given,
        "dimensions": body.get("dimensions", 0),
    }


def completion(lines: list[Json]) -> Json:
    """Return an answer in one piece."""
    answer = joined(lines)
    message = answer["message"]
    calls = _tool_calls(message)
    result = {"role": "assistant", "content": message["content"]}
    if thinking := message.get("thinking"):
        result["reasoning"] = thinking
    if calls:
        result["tool_calls"] = calls
    reason = "tool_calls" if calls else answer["done_reason"]
    choice = {"index": 0, "message": result, "finish_reason": reason}
    head = _head(answer, "chat.completion")
    return head | {"choices": [choice], "usage": _usage(answer)}


def events(lines: list[Json], *, include_usage: bool) -> list[bytes]:
    """Return an answer as server-sent events."""
    chunks: list[Json] = []
    called = False
    for line in lines:
        message = line["message"]
        delta = {"role": "assistant", "content": message["content"]}
        if thinking := message.get("thinking"):
            delta["reasoning"] = thinking
        if calls := _tool_calls(message):
            called = True
            delta["tool_calls"] = calls
        reason = line.get("done_reason")
        if reason and called:
            reason = "tool_calls"
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunks.append(_head(line, "chat.completion.chunk") | {"choices": [choice]})
    if include_usage:
        usage = {"choices": [], "usage": _usage(lines[-1])}
        chunks.append(_head(lines[-1], "chat.completion.chunk") | usage)
    encoded = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    return [*encoded, b"data: [DONE]\n\n"]


def embeddings(model: str, vectors: list[Any], count: int) -> Json:
    """Return the answer with vectors; count is that of the tokens."""
    data = [
        {"object": "embedding", "embedding": vector, "index": index}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _messages(message: Json) -> list[Json]:
    """Return a message as native ones: each part of its content becomes one."""
    content, role = message.get("content"), message.get("role", "")
    if calls := message.get("tool_calls"):
        message |= {"tool_calls": [_native_call(call) for call in calls]}
    if isinstance(content, str):
        return [message]
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        if len(parts) < len(content) or any("type" not in part for part in parts):
            raise Refusal(400, "invalid message format")
        return [_part(role, part) for part in parts]
    if message.get("tool_calls") is None:
        shown = "<nil>" if content is None else "float64"
        raise Refusal(400, f"invalid message content type: {shown}")
    return [message | {"content": ""}]


def _native_call(call: Json) -> Json:
    """Return a tool call of a message as a native one."""
    try:
        arguments = json.loads(call["function"]["arguments"])
    except ValueError as err:
        raise Refusal(400, "invalid tool call arguments") from err
    function = {"name": call["function"]["name"], "arguments": arguments}
    return {"id": call.get("id", ""), "function": function}


def _part(role: str, part: Json) -> Json:
    """Return a part of a message as a native message."""
    if part["type"] == "text" and isinstance(part.get("text"), str):
        return {"role": role, "content": part["text"]}
    if part["type"] != "image_url":
        raise Refusal(400, "invalid message format")
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str):
        raise Refusal(400, "invalid message format")
    if url.startswith(("http://", "https://")):
        raise Refusal(
            400,
            "image URLs are not currently supported, please use base64 encoded"
            " data instead",
        )
    return {"role": role, "content": "", "images": [url.partition(",")[2]]}


def _tool_calls(message: Json) -> list[Json]:
    """Return the tool calls of a message in OpenAI's form."""
    return [
        {
            "id": call["id"],
            "index": call["function"]["index"],
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"]),
            },
        }
        for call in message.get("tool_calls", ())
    ]


def _head(line: Json, kind: str) -> Json:
    """Return what each answer and each chunk begins with."""
    return {
        "id": "chatcmpl-1",
        "object": kind,
        "created": int(time.time()),
        "model": line["model"],
        "system_fingerprint": "fp_ollama",
    }


def _usage(line: Json) -> Json:
    """Return the token counts of an answer."""
    prompt, answer = line["prompt_eval_count"], line["eval_count"]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }

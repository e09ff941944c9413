"""Requests to OpenAI-compatible servers, made from those of messages.py."""

from homeassistant.helpers.json import json_dumps

from .messages import ChatMessage, JsonObject, Think


def openai_message(message: ChatMessage) -> JsonObject:
    """Return a message as /chat/completions wants it.

    The thinking of a message with tool calls stands in reasoning_content.
    """
    result: JsonObject = {"role": message["role"], "content": message["content"]}
    if images := message.get("images"):
        result["content"] = [
            {"type": "text", "text": message["content"]},
            *(
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:{image.mime_type};base64,{image.data}"},
                }
                for image in images
            ),
        ]
    if tool_calls := message.get("tool_calls"):
        result["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json_dumps(call.arguments or {}),
                },
            }
            for call in tool_calls
        ]
        if thinking := message.get("thinking"):
            result["reasoning_content"] = thinking
    if tool_call_id := message.get("tool_call_id"):
        result["tool_call_id"] = tool_call_id
    return result


def response_format(json_schema: JsonObject) -> JsonObject:
    """Return the field by which an answer must fit a schema.

    Without "strict", since OpenAI then takes only schemas without optional fields.
    """
    named = {"name": "answer", "schema": json_schema}
    return {"type": "json_schema", "json_schema": named}


def reasoning_effort(think: Think | None) -> str | None:
    """Return OpenAI's word for how much to think; None leaves it to the server."""
    if think is None or isinstance(think, str):
        return think
    return "medium" if think else "none"

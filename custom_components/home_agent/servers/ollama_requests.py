"""What Ollama is sent: the body of a chat request."""

from .messages import ChatMessage, ChatRequest, JsonObject


def chat_body(request: ChatRequest, stream: bool) -> JsonObject:
    """Return the body of /api/chat, without a keep_alive."""
    body: JsonObject = {
        "model": request.model,
        "messages": [_message(message) for message in request.messages],
        "stream": stream,
        # Without this field, Ollama silently cuts a prompt that is too long.
        "truncate": False,
    }
    if request.tools:
        body["tools"] = [
            {"type": "function", "function": tool} for tool in request.tools
        ]
    if request.json_schema is not None:
        body["format"] = request.json_schema
    if request.think is not None:
        body["think"] = request.think
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        # Without the field, a model that can think does so first, and the first token
        # is none of the answer (server/routes.go, 0.24). Any model takes false.
        body["think"] = False
    options = {
        "num_ctx": request.num_ctx,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "num_predict": request.max_tokens,
    }
    if options := {k: v for k, v in options.items() if v is not None}:
        body["options"] = options
    return body


def _message(message: ChatMessage) -> JsonObject:
    """Return a message as /api/chat wants it."""
    result: JsonObject = {"role": message["role"], "content": message["content"]}
    if thinking := message.get("thinking"):
        result["thinking"] = thinking
    if images := message.get("images"):
        result["images"] = [image.data for image in images]
    if tool_calls := message.get("tool_calls"):
        result["tool_calls"] = [
            {"function": {"name": call.name, "arguments": call.arguments or {}}}
            for call in tool_calls
        ]
    if tool_name := message.get("tool_name"):
        result["tool_name"] = tool_name
    return result

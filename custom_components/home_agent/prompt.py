"""A chat log in the words of a model: messages and tools."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homeassistant.components import conversation
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import llm
from homeassistant.helpers.json import json_bytes, json_dumps
import probatio as vol

from .const import DOMAIN
from .servers.messages import ChatMessage, Image, ToolCall, ToolSpec


async def async_messages(
    hass: HomeAssistant, content: Sequence[conversation.Content], max_history: int
) -> list[ChatMessage]:
    """Return the messages for a model.

    max_history is the number of rounds kept before the current one, 0 for all.
    Raise HomeAssistantError for an attachment that is not an image.
    """
    content = trim_history(content, max_history)
    attachments = [
        attachment
        for item in content
        if isinstance(item, conversation.UserContent)
        for attachment in item.attachments or ()
    ]
    files: dict[Path, str] = {}
    if attachments:
        if any(not item.mime_type.startswith("image/") for item in attachments):
            raise HomeAssistantError(
                translation_domain=DOMAIN, translation_key="unsupported_attachment"
            )
        paths = [attachment.path for attachment in attachments]
        files = await hass.async_add_executor_job(_read_files, paths)
    return [_message(item, files) for item in content]


def trim_history(
    content: Sequence[conversation.Content], max_history: int
) -> list[conversation.Content]:
    """Return the system prompt, at most max_history rounds and the current one.

    A round begins with what the user says, so a tool call is never kept without
    its result. Old rounds go half of max_history at a time: what is left begins
    with the same ones for as many turns, and the server finds them in its cache.
    0 keeps everything.
    """
    rounds = [
        index
        for index, item in enumerate(content)
        if isinstance(item, conversation.UserContent)
    ]
    too_many = len(rounds) - 1 - max_history
    if max_history < 1 or too_many < 1:
        return list(content)
    block = max(1, max_history // 2)
    dropped = -(-too_many // block) * block
    return [content[0], *content[rounds[dropped] :]]


def tool_specs(llm_api: llm.APIInstance | None) -> list[ToolSpec]:
    """Return the tools of an LLM API, sorted by name.

    The order is part of the prompt: an equal one is found in the server's cache.
    """
    if llm_api is None:
        return []
    return [
        ToolSpec(
            name=tool.name,
            description=tool.description or "",
            parameters=_json_schema(tool.parameters, llm_api),
        )
        for tool in sorted(llm_api.tools, key=lambda tool: tool.name)
    ]


def text_length(messages: Sequence[ChatMessage], tools: Sequence[ToolSpec]) -> int:
    """Return the characters that a request gives a model to read."""
    said = sum(len(message["content"]) for message in messages)
    return said + (len(json_bytes(list(tools))) if tools else 0)


def _json_schema(schema: vol.Schema, llm_api: llm.APIInstance) -> dict[str, Any]:
    """Return the JSON schema of a tool's parameters."""
    result: dict[str, Any] = vol.to_openapi(
        schema, custom_serializer=llm_api.custom_serializer, openapi_version="3.1.0"
    )
    return result


def _message(content: conversation.Content, files: dict[Path, str]) -> ChatMessage:
    """Return one entry of a chat log as a message."""
    if isinstance(content, conversation.SystemContent):
        return {"role": "system", "content": content.content}
    if isinstance(content, conversation.UserContent):
        message: ChatMessage = {"role": "user", "content": content.content}
        if content.attachments:
            message["images"] = [
                Image(attachment.mime_type, files[attachment.path])
                for attachment in content.attachments
            ]
        return message
    if isinstance(content, conversation.ToolResultContent):
        return {
            "role": "tool",
            "content": json_dumps(content.result.data),
            "tool_call_id": content.tool_call_id,
            "tool_name": content.tool_name,
        }
    message = {"role": "assistant", "content": content.content or ""}
    if content.thinking_content:
        message["thinking"] = content.thinking_content
    if content.tool_calls:
        message["tool_calls"] = [
            ToolCall(call.tool_name, call.tool_args, call.id)
            for call in content.tool_calls
        ]
    return message


def _read_files(paths: list[Path]) -> dict[Path, str]:
    """Return the files' contents in base64; blocks."""
    return {path: base64.b64encode(path.read_bytes()).decode() for path in paths}

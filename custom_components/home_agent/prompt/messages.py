"""A chat log in the words of a model: messages and tools."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
import re
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import llm
from homeassistant.helpers.json import json_dumps
import probatio as vol

from ..const import DOMAIN
from ..servers.messages import ChatMessage, Image, ToolCall, ToolSpec

# Where no tool tells the time, Home Assistant writes it into the system prompt: to the
# second, so that no server finds the prompt in its cache. The pattern begins with plain
# letters, so that a long list of entities is searched in no time.
_CLOCK: Final = re.compile(
    r"[\d:-]+".join(
        re.escape(part)
        for part in re.split(r"\{\{.*?\}\}", llm.DATE_TIME_PROMPT.strip())
    )
)


def has_clock(content: Sequence[conversation.Content]) -> bool:
    """Return whether Home Assistant has written the time into a system prompt."""
    system = content[0]
    return isinstance(system, conversation.SystemContent) and bool(
        _CLOCK.search(system.content)
    )


async def async_messages(
    hass: HomeAssistant,
    content: Sequence[conversation.Content],
    context_of: Callable[[conversation.UserContent], str] = lambda _: "",
) -> list[ChatMessage]:
    """Return the messages for a model, the system prompt without the time.

    context_of returns what is told beside what the user says. Raise
    HomeAssistantError for an attachment that is not an image.
    """
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
    return [_message(item, files, context_of) for item in content]


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


def _json_schema(schema: vol.Schema, llm_api: llm.APIInstance) -> dict[str, Any]:
    """Return the JSON schema of a tool's parameters."""
    result: dict[str, Any] = vol.to_openapi(
        schema, custom_serializer=llm_api.custom_serializer, openapi_version="3.1.0"
    )
    return result


def _message(
    content: conversation.Content,
    files: dict[Path, str],
    context_of: Callable[[conversation.UserContent], str],
) -> ChatMessage:
    """Return one entry of a chat log as a message."""
    if isinstance(content, conversation.SystemContent):
        system, had_clock = _CLOCK.subn("", content.content)
        return {"role": "system", "content": system.rstrip() if had_clock else system}
    if isinstance(content, conversation.UserContent):
        told = (context_of(content), content.content)
        message: ChatMessage = {
            "role": "user",
            "content": "\n\n".join(filter(None, told)),
        }
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

"""Make the messages and tools of a request from a chat log."""

import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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

# If no tool reports the time, Home Assistant writes it into the system prompt, to the
# second, so that no server could reuse its prompt cache. The pattern begins with plain
# letters, so that the search through a long list of entities is fast.
_CLOCK: Final = re.compile(
    r"[\d:-]+".join(
        re.escape(part)
        for part in re.split(r"\{\{.*?\}\}", llm.DATE_TIME_PROMPT.strip())
    )
)

_ATTACHMENT_LEFT_OUT: Final = "[An attachment is not available any more.]"


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

    context_of returns the text that is sent in front of a user message. Raise
    HomeAssistantError if the newest user message has an attachment that is not an
    image or cannot be read; of earlier messages such attachments are left out.
    """
    questions = [item for item in content if isinstance(item, conversation.UserContent)]
    attachments = [
        attachment for item in questions for attachment in item.attachments or ()
    ]
    images: dict[Path, Image] = {}
    if attachments:
        images = await hass.async_add_executor_job(_read_images, attachments)
        _check_attachments(questions[-1], images)
    return [_message(item, images, context_of) for item in content]


def _check_attachments(
    question: conversation.UserContent, images: Mapping[Path, Image]
) -> None:
    """Raise HomeAssistantError if an attachment of a question cannot be sent."""
    for attachment in question.attachments or ():
        if not _is_image(attachment):
            key = "unsupported_attachment"
        elif attachment.path not in images:
            key = "attachment_not_found"
        else:
            continue
        raise HomeAssistantError(translation_domain=DOMAIN, translation_key=key)


def tool_specs(llm_api: llm.APIInstance | None) -> list[ToolSpec]:
    """Return the tools of an LLM API, sorted by name.

    The order is part of the prompt: a server reuses its cache for an equal one only.
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
    """Return the JSON schema of the parameters of a tool."""
    result: dict[str, Any] = vol.to_openapi(
        schema, custom_serializer=llm_api.custom_serializer, openapi_version="3.1.0"
    )
    return result


def _message(
    content: conversation.Content,
    images: Mapping[Path, Image],
    context_of: Callable[[conversation.UserContent], str],
) -> ChatMessage:
    """Return one item of a chat log as a message."""
    if isinstance(content, conversation.SystemContent):
        system, had_clock = _CLOCK.subn("", content.content)
        return {"role": "system", "content": system.rstrip() if had_clock else system}
    if isinstance(content, conversation.UserContent):
        return _user_message(content, images, context_of(content))
    if isinstance(content, conversation.ToolResultContent):
        result = {"data": content.result.data, "error": content.result.error}
        return {
            "role": "tool",
            "content": json_dumps(result),
            "tool_call_id": content.tool_call_id,
            "tool_name": content.tool_name,
        }
    message: ChatMessage = {"role": "assistant", "content": content.content or ""}
    if content.thinking_content:
        message["thinking"] = content.thinking_content
    if content.tool_calls:
        message["tool_calls"] = [
            ToolCall(call.tool_name, call.tool_args, call.id)
            for call in content.tool_calls
        ]
    return message


def _user_message(
    content: conversation.UserContent, images: Mapping[Path, Image], context: str
) -> ChatMessage:
    """Return a user message with its context in front and its images."""
    attachments = content.attachments or []
    found = [images[item.path] for item in attachments if item.path in images]
    texts = [context, content.content]
    if len(found) < len(attachments):
        texts.append(_ATTACHMENT_LEFT_OUT)
    message: ChatMessage = {
        "role": "user",
        "content": "\n\n".join(filter(None, texts)),
    }
    if found:
        message["images"] = found
    return message


def _is_image(attachment: conversation.Attachment) -> bool:
    """Return whether an attachment is an image."""
    return attachment.mime_type.startswith("image/")


def _read_images(attachments: Sequence[conversation.Attachment]) -> dict[Path, Image]:
    """Return the images that can be read, by path; blocks."""
    images: dict[Path, Image] = {}
    for attachment in filter(_is_image, attachments):
        # A path with a NUL character raises a ValueError.
        with suppress(OSError, ValueError):
            data = base64.b64encode(attachment.path.read_bytes()).decode()
            images[attachment.path] = Image(attachment.mime_type, data)
    return images

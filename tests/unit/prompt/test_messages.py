"""Tests of the messages that are made from a chat log."""

from pathlib import Path

from homeassistant.components import conversation
from homeassistant.components.conversation import (
    AssistantContent,
    SystemContent,
    UserContent,
)
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
import pytest

from custom_components.home_agent.prompt.messages import async_messages


def _picture(path: Path, mime_type: str = "image/png") -> conversation.Attachment:
    """Return an attachment at path."""
    return conversation.Attachment(
        media_content_id="media", mime_type=mime_type, path=path
    )


async def test_an_attachment_that_is_gone_is_left_out_of_later_turns(
    hass: HomeAssistant, tmp_path: Path
) -> None:
    """The turn that has it fails; the conversation goes on."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"png")
    question = UserContent("What is it?", attachments=[_picture(path)])
    content: list[conversation.Content] = [SystemContent(""), question]
    messages = await async_messages(hass, content)
    assert messages[-1]["images"]
    path.unlink()
    with pytest.raises(HomeAssistantError) as caught:
        await async_messages(hass, content)
    assert caught.value.translation_key == "attachment_not_found"
    content += [AssistantContent(agent_id="a", content="A cat."), UserContent("Sure?")]
    messages = await async_messages(hass, content)
    assert "images" not in messages[1]
    assert "not available" in messages[1]["content"]
    assert messages[-1]["content"] == "Sure?"


async def test_an_attachment_with_an_impossible_path_is_left_out(
    hass: HomeAssistant,
) -> None:
    """No file system accepts a NUL character in a path."""
    question = UserContent("What is it?", attachments=[_picture(Path("a\0b.png"))])
    content: list[conversation.Content] = [
        SystemContent(""),
        question,
        AssistantContent(agent_id="a", content="A cat."),
        UserContent("Sure?"),
    ]
    messages = await async_messages(hass, content)
    assert "images" not in messages[1]
    assert "not available" in messages[1]["content"]


async def test_another_kind_of_attachment_stops_only_its_turn(
    hass: HomeAssistant, tmp_path: Path
) -> None:
    """Only images can be sent."""
    path = tmp_path / "letter.pdf"
    path.write_bytes(b"pdf")
    question = UserContent("Read.", attachments=[_picture(path, "application/pdf")])
    content: list[conversation.Content] = [SystemContent(""), question]
    with pytest.raises(HomeAssistantError) as caught:
        await async_messages(hass, content)
    assert caught.value.translation_key == "unsupported_attachment"
    content += [AssistantContent(agent_id="a", content="No."), UserContent("Hello")]
    assert (await async_messages(hass, content))[-1]["content"] == "Hello"

"""What goes in and out of a stand-in's model: a request to chat, and a reply."""

from dataclasses import dataclass, field
import re
from typing import Any


@dataclass(frozen=True)
class ToolUse:
    """A tool call of a reply; arguments may be a broken text for a test."""

    name: str
    arguments: dict[str, Any] | str = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a model says.

    chunks are the pieces of the content in a stream; without them each word is one.
    """

    content: str = ""
    thinking: str = ""
    tools: tuple[ToolUse, ...] = ()
    chunks: tuple[str, ...] | None = None
    finish_reason: str = "stop"
    logprobs: tuple[tuple[str, float], ...] = ()

    def pieces(self) -> list[str]:
        """Return the content as it is streamed, word by word."""
        if self.chunks is not None:
            return list(self.chunks)
        return re.findall(r"\S+\s*", self.content)


@dataclass(frozen=True)
class ChatCall:
    """A request to a stand-in, in one form for every API."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[str]

    @property
    def last(self) -> dict[str, Any]:
        """Return the newest message."""
        return self.messages[-1] if self.messages else {"role": "user", "content": ""}

    def tool(self, suffix: str) -> str | None:
        """Return the offered tool with a name that ends so."""
        return next((name for name in self.tools if name.endswith(suffix)), None)


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message, also where it has parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return str(content)

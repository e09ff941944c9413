"""What a stand-in model is asked, and what it answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
import re
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to be run.

    arguments is an object; a text goes over the wire as it is where the API has
    text there (OpenAI's), so that a test can send broken JSON.
    """

    name: str
    arguments: dict[str, Any] | str = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a model says.

    chunks is the content as it is cut for the stream, by default word by word.
    seconds is how long the answer takes by the server's clock.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    done_reason: str = "stop"
    chunks: list[str] | None = None
    seconds: float = 0

    @property
    def text(self) -> str:
        """Return the whole content."""
        return self.content if self.chunks is None else "".join(self.chunks)

    def content_pieces(self) -> list[str]:
        """Return the content as it is streamed."""
        return words(self.content) if self.chunks is None else list(self.chunks)

    def thinking_pieces(self) -> list[str]:
        """Return the thinking as it is streamed."""
        return words(self.thinking)


@dataclass(frozen=True)
class ChatRequest:
    """A chat request, the same for every API; body is the request as it came."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    body: dict[str, Any]

    @property
    def tool_names(self) -> list[str]:
        """Return the names of the tools on offer."""
        return [str(tool.get("function", {}).get("name", "")) for tool in self.tools]

    @property
    def last(self) -> dict[str, Any]:
        """Return the newest message."""
        return self.messages[-1] if self.messages else {}

    @property
    def system(self) -> str:
        """Return the system prompt."""
        return "\n".join(
            text_of(message)
            for message in self.messages
            if message.get("role") in ("system", "developer")
        )

    @property
    def user_text(self) -> str:
        """Return the newest thing that the user said."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return text_of(message)
        return ""

    def tool(self, *endings: str) -> str | None:
        """Return the name of the first tool on offer that ends in one of these.

        Names may have a prefix: intent__HassTurnOn, assist__intent__HassTurnOn.
        """
        for name in self.tool_names:
            if any(re.search(rf"(^|_|\.){ending}$", name) for ending in endings):
                return name
        return None


Brain = Callable[[ChatRequest], Reply]


class ScriptedBrain:
    """Gives the replies of a list, one per request, and then asks another brain."""

    def __init__(self, replies: Iterable[Reply] = (), rules: Brain | None = None):
        """Give these replies first; rules answers when they are used up."""
        self.replies: deque[Reply] = deque(replies)
        self.rules = rules

    def __call__(self, request: ChatRequest) -> Reply:
        """Return the next reply."""
        if self.replies:
            return self.replies.popleft()
        if self.rules is None:
            return Reply("I have nothing more to say.")
        return self.rules(request)

    def add(self, *replies: Reply) -> None:
        """Give these replies after those that are left."""
        self.replies.extend(replies)


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message, also where its content has parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content)
    return str(content)


def words(text: str) -> list[str]:
    """Return a text cut after each word, with nothing lost."""
    return re.findall(r"\s*\S+(?:\s+$)?|\s+$", text)

"""What a stand-in answers: scripted replies, else answers to simple commands."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
import json
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


class RuleBrain:
    """Gives its scripted replies first, and then understands simple commands.

    "turn on the kitchen light", "set the desk lamp to 40 percent", "what is the
    temperature in the bedroom", "ask the other model ...", "find ...".
    """

    def __init__(self, replies: Iterable[Reply] = ()) -> None:
        """Script these replies."""
        self.replies: deque[Reply] = deque(replies)

    def __call__(self, call: ChatCall) -> Reply:
        """Return the reply to a request."""
        if self.replies:
            return self.replies.popleft()
        if call.last.get("role") == "tool":
            return _after_tool(call)
        # The context attached to a question stands in front of it.
        text = text_of(call.last).rpartition("\n\n")[2]
        uses = [
            use
            for command in re.split(r"\band\b|,", text)
            if (use := _tool_use(call, command.strip(" .!?")))
        ]
        if uses:
            return Reply(tools=tuple(uses))
        if re.match(r"(hi|hello|good \w+)\b", text.strip(), re.IGNORECASE):
            return Reply("Hello! What can I do for you?")
        return Reply(
            "I am a stand-in without a model. I can turn things on and off, dim"
            " lights and read sensors."
        )


def _tool_use(call: ChatCall, command: str) -> ToolUse | None:
    """Return the tool call that a command asks for."""
    ask = re.match(r"(?:ask|let) (?:the )?(.+)", command, re.IGNORECASE)
    if ask and (name := call.tool("ask_external_llm")):
        return ToolUse(name, {"prompt": ask[1]})
    find = re.match(r"(?:find|search for) (.+)", command, re.IGNORECASE)
    if find and (name := call.tool("search_entities")):
        return ToolUse(name, {"query": find[1]})
    dim = re.search(r"(?:set|dim) (?:the )?(.+?) to (\d+)", command, re.IGNORECASE)
    if dim and (name := call.tool("HassLightSet")):
        return ToolUse(name, {**_target(call, dim[1]), "brightness": int(dim[2])})
    pattern = r"(?:turn|switch) (on|off) (?:the )?(.+)|(?:turn|switch) (.+) (on|off)$"
    if switch := re.search(pattern, command, re.IGNORECASE):
        is_on = (switch[1] or switch[4]).lower() == "on"
        if name := call.tool("HassTurnOn" if is_on else "HassTurnOff"):
            return ToolUse(name, _target(call, switch[2] or switch[3]))
    question = re.match(r"(what|how|is|are|which)\b", command, re.IGNORECASE)
    for suffix, arguments in (
        ("GetLiveContext", {}),
        ("search_entities", {"query": command}),
    ):
        if question and (name := call.tool(suffix)):
            return ToolUse(name, arguments)
    return None


def _target(call: ChatCall, words: str) -> dict[str, Any]:
    """Return the arguments that name an entity of the prompt or of the question."""
    text = "\n".join((text_of(call.messages[0]), text_of(call.last)))
    names = [
        name.strip().strip("'\"")
        for line in re.findall(r"names: (.+)|^- (.+?) \(", text, re.MULTILINE)
        for name in "".join(line).split(",")
    ]
    wanted = set(words.lower().removeprefix("the ").split())
    best = max(names, key=lambda name: _overlap(wanted, name), default=words)
    return {"name": best if _overlap(wanted, best) > 0 else words}


def _overlap(wanted: set[str], name: str) -> float:
    """Return how well a name fits some words."""
    have = set(name.lower().split())
    return len(wanted & have) - 0.1 * len(have - wanted)


def _after_tool(call: ChatCall) -> Reply:
    """Return an answer to the results of tools."""
    results = []
    for message in reversed(call.messages):
        if message.get("role") != "tool":
            break
        results.append(text_of(message))
    for result in results:
        try:
            data = json.loads(result)
        except ValueError:
            continue
        # The form of Home Assistant's own integrations: {"data": ..., "error": bool}.
        if isinstance(data, dict) and isinstance(data.get("data"), dict):
            data = data["data"]
        if isinstance(data, dict) and (error := data.get("error")):
            return Reply(f"That did not work: {data.get('error_text') or error}")
        if isinstance(data, dict) and (answer := data.get("answer")):
            return Reply(f"The other model says: {answer}")
        if isinstance(data, dict) and (found := data.get("entities")):
            names = ", ".join(", ".join(item["names"]) for item in found[:3])
            return Reply(f"I found {names}.")
    question = next(
        (text_of(m) for m in reversed(call.messages) if m.get("role") == "user"), ""
    )
    if re.match(r"(what|how|is|are|which)\b", question.strip(), re.IGNORECASE):
        return Reply(_read_sensor(results[0], question))
    return Reply("Done.")


def _read_sensor(result: str, question: str) -> str:
    """Return the line of a live context that fits a question best."""
    wanted = set(re.findall(r"\w+", question.lower()))
    best, best_state, name = 0.0, "", ""
    current = ""
    for line in result.replace("\\n", "\n").splitlines():
        if match := re.search(r"names: (.+)", line):
            current = match[1].strip("'\" ")
        elif match := re.search(r"state: (.+)", line):
            score = _overlap(wanted, current)
            if score > best:
                best, best_state, name = score, match[1].strip("'\" "), current
    return f"{name} is {best_state}." if name else "I do not know."

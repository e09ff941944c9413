"""What a stand-in answers: scripted replies, else answers to simple commands."""

from collections import deque
from collections.abc import Iterable
import json
import re
from typing import Any

from .chat import ChatCall, Reply, text_of
from .commands import QUESTION, question_of, tool_uses
from .home_in_text import (
    CLASSES,
    CONTACTS,
    KINDS,
    Thing,
    best_thing,
    kind_of,
    place_in,
    things_in,
    words_of,
)

_HELP = (
    "I am a stand-in without a model. I can turn things on and off, dim lights and"
    " read sensors."
)


class RuleBrain:
    """Gives its scripted replies first, and then understands simple sentences.

    "turn on the kitchen light", "close all blinds on the ground floor", "turn
    everything off", "set the desk lamp to 40 percent", "what is the temperature in the
    bedroom", and then "and in the office", "is any window open", "ask the other model
    ...", "find ...".
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
        if uses := tool_uses(call):
            return Reply(tools=tuple(uses))
        if re.match(r"(hi|hello|good \w+)\b", question_of(call), re.IGNORECASE):
            return Reply("Hello! What can I do for you?")
        return Reply(_HELP)


def _after_tool(call: ChatCall) -> Reply:
    """Return an answer to the results of tools."""
    results = []
    for message in reversed(call.messages):
        if message.get("role") != "tool":
            break
        results.append(text_of(message))
    done: list[str] = []
    for result in reversed(results):
        data = _data(result)
        if error := data.get("error"):
            return Reply(f"That did not work: {data.get('error_text') or error}")
        if answer := data.get("answer"):
            return Reply(f"The other model says: {answer}")
        if found := data.get("entities"):
            names = ", ".join(", ".join(item["names"]) for item in found[:3])
            return Reply(f"I found {names}.")
        done += [
            str(item["name"])
            for item in data.get("success") or ()
            if item.get("type") == "entity"
        ]
    question = question_of(call)
    if QUESTION.match(question):
        return Reply(_state_answer(results[0], question))
    return Reply(_done(done))


def _data(result: str) -> dict[str, Any]:
    """Return the result of a tool, {} if it is no JSON object.

    The form of Home Assistant's own integrations has the result in data:
    {"data": ..., "error": bool}; that of an intent has it there too.
    """
    try:
        data = json.loads(result)
    except ValueError:
        return {}
    while isinstance(data, dict) and isinstance(data.get("data"), dict):
        data = data["data"]
    return data if isinstance(data, dict) else {}


def _done(names: list[str]) -> str:
    """Return what was done, with the names of the entities where they are few."""
    if not names:
        return "Done."
    if len(names) > 4:
        return f"Done: {len(names)} devices."
    return f"Done: {', '.join(names)}."


def _state_answer(result: str, question: str) -> str:
    """Return what a live context says about a question."""
    data = _data(result).get("result")
    things = things_in(data if isinstance(data, str) else result.replace("\\n", "\n"))
    words = words_of(question)
    place = place_in(question, things)
    if area := place.get("area"):
        things = [thing for thing in things if area in thing.areas]
    wanted = next((word for word in words if word in ("on", "off", "open")), None)
    kind, device_class = kind_of(words, KINDS), kind_of(words, CLASSES)
    is_of_many = bool(kind or device_class in CONTACTS) and "the" not in words[:2]
    if wanted and is_of_many:
        return _which(things, wanted, kind, device_class)
    of_class = [item for item in things if item.device_class == device_class]
    things = of_class or things
    thing = best_thing(words, things) or (things[0] if area and things else None)
    return f"{thing.name} is {thing.shown}." if thing else "I do not know."


def _which(
    things: list[Thing], state: str, kind: str | None, device_class: str | None
) -> str:
    """Return which entities of a kind are on, off or open."""
    # The contact of a window is on while the window is open.
    is_contact = device_class in CONTACTS
    shown = "on" if state == "open" and is_contact else state
    of_kind = [
        item
        for item in things
        if (item.device_class == device_class if is_contact else item.domain == kind)
    ]
    names = [item.name for item in of_kind if item.state == shown]
    if not names:
        return f"Nothing is {state}."
    *others, last = names
    if not others:
        return f"{last} is {state}."
    return f"{', '.join(others)} and {last} are {state}."

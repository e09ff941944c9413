"""Which tool a sentence asks for: simple commands and questions about a home."""

import re
from typing import Any

from .chat import ChatCall, ToolUse, text_of
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

QUESTION = re.compile(r"(what|how|is|are|which)\b", re.IGNORECASE)
_FOLLOW_UP = re.compile(r"\s*(?:and|what about|how about)\b\s*(.+)", re.IGNORECASE)
_PLACE = re.compile(r"\b(?:in|on|of) (?:the )?[\w' ]+$", re.IGNORECASE)
_PRONOUN = re.compile(r"\b(it|them|that)\b", re.IGNORECASE)
# What a verb does: the tool, and the domain it is for, None for any.
_VERBS = {
    "turn on": ("HassTurnOn", None),
    "switch on": ("HassTurnOn", None),
    "turn off": ("HassTurnOff", None),
    "switch off": ("HassTurnOff", None),
    "open": ("HassTurnOn", "cover"),
    "close": ("HassTurnOff", "cover"),
    "lock": ("HassTurnOn", "lock"),
    "unlock": ("HassTurnOff", "lock"),
}
_COMMAND = re.compile(
    r"""\b(?:
        (turn|switch)[ ]
        (?:(on|off)[ ](?P<first>.+) | (?P<second>.+?)[ ](on|off)\b(?P<place>.*))
        | (open|close|lock|unlock)[ ](?P<third>.+)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_EVERYTHING = {"everything", "all"}


def question_of(call: ChatCall) -> str:
    """Return what the user said last, whole where it goes on from what was said."""
    # The context attached to a question stands in front of it.
    said = [
        text_of(message).rpartition("\n\n")[2].strip(" .!?")
        for message in call.messages
        if message.get("role") == "user"
    ]
    text = said[0] if said else ""
    for following in said[1:]:
        text = _continued(text, following)
    return text


def _continued(before: str, text: str) -> str:
    """Return a sentence that needs the one before as one that stands by itself."""
    if match := _FOLLOW_UP.match(text):
        rest = match[1]
        if QUESTION.match(before):
            return f"{_PLACE.sub('', before).strip()} {rest}"
        if (command := _COMMAND.search(before)) and not _COMMAND.search(rest):
            verb, _ = _verb(command)
            return f"{verb} {rest}"
        return rest
    command = _COMMAND.search(before)
    if command and _PRONOUN.search(text):
        return _PRONOUN.sub(_verb(command)[1], text, count=1)
    return text


def tool_uses(call: ChatCall) -> list[ToolUse]:
    """Return the tool calls that the user's sentence asks for."""
    text = question_of(call)
    parts = [text] if QUESTION.match(text) else re.split(r"\band\b|,", text)
    found = [_tool_use(call, part.strip(" .!?")) for part in parts]
    return [use for use in found if use]


def _tool_use(call: ChatCall, command: str) -> ToolUse | None:
    """Return the tool call that a command asks for."""
    ask = re.match(r"(?:ask|let) (?:the )?(.+)", command, re.IGNORECASE)
    if ask and (name := call.tool("ask_external_llm")):
        return ToolUse(name, {"prompt": ask[1]})
    find = re.match(r"(?:find|search for) (.+)", command, re.IGNORECASE)
    if find and (name := call.tool("search_entities")):
        return ToolUse(name, {"query": find[1]})
    if QUESTION.match(command):
        return _look(call, command)
    return _set_value(call, command) or _switch(call, command)


def _look(call: ChatCall, question: str) -> ToolUse | None:
    """Return the tool call that reads states."""
    if name := call.tool("GetLiveContext"):
        return ToolUse(name, _filter(call, question))
    if name := call.tool("search_entities"):
        return ToolUse(name, {"query": question})
    return None


def _switch(call: ChatCall, command: str) -> ToolUse | None:
    """Return the tool call that turns something on or off, opens or closes it."""
    match = _COMMAND.search(command)
    if match is None:
        return None
    verb, target = _verb(match)
    tool, domain = _VERBS[verb]
    name = call.tool(tool)
    return ToolUse(name, _target(call, target, domain)) if name else None


def _filter(call: ChatCall, question: str) -> dict[str, Any]:
    """Return the area and the domain that a question is about, as far as it says."""
    words = words_of(question)
    place = place_in(question, things_in(_known(call)))
    found: dict[str, Any] = {"area": place["area"]} if "area" in place else {}
    if kind := kind_of(words, KINDS):
        found["domain"] = kind
    elif device_class := kind_of(words, CLASSES):
        is_binary = device_class in CONTACTS or device_class == "motion"
        found["domain"] = "binary_sensor" if is_binary else "sensor"
    return found


def _set_value(call: ChatCall, command: str) -> ToolUse | None:
    """Return the tool call that sets a brightness, a position or a temperature."""
    match = re.search(r"(?:set|dim) (?:the )?(.+?) to (\d+)", command, re.IGNORECASE)
    if match is None:
        return None
    words, value = match[1], int(match[2])
    thing = best_thing(words_of(words), things_in(_known(call)))
    domain = thing.domain if thing else kind_of(words_of(words), KINDS)
    if domain == "climate" and (name := call.tool("HassClimateSetTemperature")):
        place = place_in(words, things_in(_known(call)))
        return ToolUse(name, {**(place or {"name": words}), "temperature": value})
    if domain == "cover" and (name := call.tool("HassSetPosition")):
        return ToolUse(name, {**_target(call, words, "cover"), "position": value})
    if name := call.tool("HassLightSet"):
        return ToolUse(name, {**_target(call, words, None), "brightness": value})
    return None


def _verb(match: re.Match[str]) -> tuple[str, str]:
    """Return the verb of a command, and what it is done to."""
    if match["third"]:
        return match[7].lower(), match["third"]
    target = match["first"] or f"{match['second']}{match['place']}"
    return f"{match[1]} {match[2] or match[5]}".lower(), target


def _known(call: ChatCall) -> str:
    """Return the texts that list entities: the prompt and the newest question."""
    asked = [item for item in call.messages if item.get("role") == "user"]
    return "\n".join(text_of(item) for item in (*call.messages[:1], *asked[-1:]))


def _target(call: ChatCall, text: str, domain: str | None) -> dict[str, Any]:
    """Return the arguments that name an entity, or all of a kind in a place."""
    things = things_in(_known(call))
    words = [word for word in words_of(text) if word not in ("the", "every")]
    place = place_in(text, things)
    kind = domain or kind_of(words, KINDS)
    usable = [item for item in things if not domain or item.domain == domain]
    thing = best_thing(words, usable)
    is_all = bool(_EVERYTHING & set(words))
    is_named = thing is not None and set(words_of(thing.name)) <= set(words)
    if is_all or (place and _is_plural(words) and not is_named):
        target: dict[str, Any] = place or {"name": "all"}
        return target | {"domain": [kind] if kind else _switched(things)}
    if thing is not None:
        return {"name": thing.name}
    if place and kind:
        return place | {"domain": [kind]}
    return {"name": " ".join(words)}


def _is_plural(words: list[str]) -> bool:
    """Return whether words name several things: the last name of a kind ends with s."""
    kinds = {name for names in KINDS.values() for name in names}
    named = [word for word in words if word in kinds]
    return bool(named) and named[-1].endswith("s")


def _switched(things: list[Thing]) -> list[str]:
    """Return the domains that "everything" stands for."""
    present = {thing.domain for thing in things}
    wanted = ("light", "switch", "fan", "media_player")
    return [domain for domain in wanted if domain in present] or ["light"]

"""Hypothesis strategies: chat logs, streams cut at any byte, and homes.

`python -m pytest` draws a few hundred examples of each, the same ones in every run.
`--hypothesis-profile=thorough --timeout=0` draws 100,000 (see tests/conftest.py).
"""

from dataclasses import dataclass
from itertools import count, islice, pairwise
import json
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.components.conversation import (
    AssistantContent,
    Content,
    SystemContent,
    ToolResultContent,
    UserContent,
)
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.const import (
    ATTR_DEVICE_CLASS,
    ATTR_FRIENDLY_NAME,
    MAX_LENGTH_STATE_STATE,
)
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import (
    area_registry as ar,
    entity_registry as er,
    floor_registry as fr,
    llm,
)
from hypothesis import strategies as st

# --- Texts ----------------------------------------------------------------------

# What has broken parsers, prompts and logs before.
_ODD_TEXTS: Final = (
    *("\n", "\r", "\r\n", "\n\n", "\t", "\x00", "\x0b", "\x1c", "\x85", "\u2028"),
    *("\ufeff", "\u200d", "\u202e", "e\u0301", "ß", "日本", "กขค", "👩‍👩‍👧", "💡"),
    *('"', "'", "\\", "\\n", "{{ 1 }}", "*", "- ", ": ", ", ", "; ", "%s", "%"),
    *("<think>", "</think>", "<|channel|>", "<|im_end|>", "data: [DONE]", "{", "[]"),
    *("Kitchen", "light", "user:", "system:", "null", "OR", "NEAR(", "turn on the"),
)


def texts(*, surrogates: bool = True) -> st.SearchStrategy[str]:
    """Return any text: line ends, emoji, control characters and half of a format.

    With surrogates, lone ones too: no UTF-8 can express such a text.
    """
    characters = st.characters() if surrogates else st.characters(codec="utf-8")
    odd = st.lists(st.sampled_from(_ODD_TEXTS), max_size=4).map("".join)
    return odd | st.text(characters, max_size=10)


def json_objects(*, surrogates: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """Return the arguments of a tool call, or its result; numbers fit into 64 bits."""
    text = texts(surrogates=surrogates)
    number = st.integers(-(2**63), 2**63 - 1) | st.floats()
    value = st.none() | st.booleans() | number | text
    nested = st.lists(value, max_size=2) | st.dictionaries(text, value, max_size=2)
    return st.dictionaries(text, value | nested, max_size=2)


# --- Chat logs ------------------------------------------------------------------

_TOOL_NAMES: Final = ("HassTurnOn", "GetLiveContext", "home_agent__search_entities")
_AGENT: Final = "conversation.agent"


@st.composite
def chat_logs(draw: st.DrawFn, max_turns: int = 4) -> list[Content]:
    """Return the content of a chat log, as Home Assistant keeps it.

    It begins with the system prompt. A turn is what the user says, tool calls with
    their results, and an answer; either may be missing, since turns fail. The last
    turn may be under way: the log then ends with the user or with tool results.
    """
    # Few texts in many places: drawing one for each place takes ten times as long.
    text = st.sampled_from(draw(st.lists(texts(), min_size=1, max_size=4)))
    result = st.sampled_from(draw(st.lists(json_objects(), min_size=1, max_size=2)))
    content: list[Content] = [SystemContent(draw(text))]
    numbers = count()
    for _ in range(draw(st.integers(1, max_turns))):
        content.append(UserContent(draw(text)))
        for calls in draw(st.lists(st.integers(1, 2), max_size=2)):
            ids = [f"call_{number}" for number in islice(numbers, calls)]
            content += draw(_tool_round(ids, text, result))
        if draw(st.booleans()):
            answer, thinking = draw(st.tuples(st.none() | text, st.none() | text))
            content.append(AssistantContent(_AGENT, answer, thinking))
    return content


@st.composite
def _tool_round(
    draw: st.DrawFn,
    ids: list[str],
    text: st.SearchStrategy[str],
    result: st.SearchStrategy[dict[str, Any]],
) -> list[Content]:
    """Return tool calls of an assistant and their results, in any order.

    An answer that was interrupted lacks the last results.
    """
    calls = [
        llm.ToolInput(draw(st.sampled_from(_TOOL_NAMES)), draw(result), id=call_id)
        for call_id in ids
    ]
    answered = draw(st.permutations(calls))
    if draw(st.integers(0, 9)) == 0:
        answered.pop()
    return [
        AssistantContent(
            _AGENT, draw(st.none() | text), draw(st.none() | text), tool_calls=calls
        ),
        *(
            ToolResultContent(
                agent_id=_AGENT,
                tool_call_id=call.id,
                tool_name=call.tool_name,
                result=llm.ToolResult(draw(result), error=draw(st.booleans())),
            )
            for call in answered
        ),
    ]


# --- Streams --------------------------------------------------------------------


@dataclass(frozen=True)
class ScriptedCall:
    """A tool call of a scripted answer."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ScriptedAnswer:
    """What a model says: pieces of thinking, pieces of text, then tool calls."""

    thinking: tuple[str, ...]
    pieces: tuple[str, ...]
    calls: tuple[ScriptedCall, ...]
    finish_reason: str = "stop"


def scripted_answers() -> st.SearchStrategy[ScriptedAnswer]:
    """Return answers with any text, escaped by the server or not."""
    pieces = st.lists(texts(), max_size=4).map(tuple)
    call = st.builds(ScriptedCall, st.sampled_from(_TOOL_NAMES), json_objects())
    return st.builds(
        ScriptedAnswer,
        thinking=pieces,
        pieces=pieces,
        calls=st.lists(call, max_size=2).map(tuple),
        finish_reason=st.sampled_from(("stop", "length")),
    )


def _encoded(draw: st.DrawFn, value: object) -> bytes:
    """Return a value as JSON, as different servers write it.

    Lone surrogates are escaped, or stand there as bytes that are not UTF-8.
    """
    escaped = draw(st.booleans())
    return json.dumps(value, ensure_ascii=escaped).encode(errors="surrogatepass")


def _openai_events(answer: ScriptedAnswer) -> list[dict[str, Any]]:
    """Return the events of a stream of /v1/chat/completions."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in answer.thinking]
    deltas += [{"content": piece} for piece in answer.pieces]
    for index, call in enumerate(answer.calls):
        head = {"index": index, "id": f"call_{index}", "type": "function"}
        deltas.append({"tool_calls": [head | {"function": {"name": call.name}}]})
        text = json.dumps(call.arguments)
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in (text[: len(text) // 2], text[len(text) // 2 :])
        ]
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": answer.finish_reason})
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    events: list[dict[str, Any]] = [{"choices": [choice]} for choice in choices]
    return [*events, {"choices": [], "usage": usage}]


@st.composite
def sse_bodies(draw: st.DrawFn, answer: ScriptedAnswer) -> bytes:
    """Return an answer as server-sent events, in one of the ways servers write them.

    Line ends are LF or CRLF, comments stand between events, and [DONE] may be
    missing.
    """
    end = draw(st.sampled_from((b"\n", b"\r\n")))
    space = draw(st.sampled_from((b" ", b"")))
    lines: list[bytes] = []
    for event in _openai_events(answer):
        if draw(st.integers(0, 5)) == 0:
            lines += [b": ping", b""]
        lines += [b"data:" + space + _encoded(draw, event), b""]
    if draw(st.booleans()):
        lines += [b"data:" + space + b"[DONE]", b""]
    return b"".join(line + end for line in lines)


@st.composite
def json_line_bodies(draw: st.DrawFn, answer: ScriptedAnswer) -> bytes:
    """Return an answer as Ollama's lines of JSON."""
    messages: list[dict[str, Any]] = [
        *({"content": "", "thinking": piece} for piece in answer.thinking),
        *({"content": piece} for piece in answer.pieces),
    ]
    if answer.calls:
        functions = [
            {"function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
        messages.append({"content": "", "tool_calls": functions})
    lines: list[dict[str, Any]] = [
        {"model": "m", "message": {"role": "assistant", **message}, "done": False}
        for message in messages
    ]
    lines.append(
        {
            "model": "m",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": answer.finish_reason,
            "prompt_eval_count": 20,
            "eval_count": 5,
        }
    )
    return b"".join(_encoded(draw, line) + b"\n" for line in lines)


@st.composite
def cuts(draw: st.DrawFn, body: bytes, max_cuts: int = 12) -> list[bytes]:
    """Return a body in pieces, cut at any bytes: in a line end or a character too."""
    if len(body) < 2:
        return [body]
    place = st.integers(1, len(body) - 1)
    places = draw(st.sets(place, min_size=1, max_size=max_cuts))
    return [
        body[start:stop] for start, stop in pairwise([0, *sorted(places), len(body)])
    ]


# --- Homes ----------------------------------------------------------------------

_DOMAINS: Final = ("light", "sensor", "switch", "cover", "lock", "media_player")
_DEVICE_CLASSES: Final = (None, "temperature", "timestamp", "window", "outlet")


@dataclass(frozen=True)
class PlannedArea:
    """An area; floor is an index into the floors of its home."""

    name: str
    aliases: frozenset[str]
    floor: int | None


@dataclass(frozen=True)
class PlannedEntity:
    """An entity; area is an index into the areas of its home."""

    domain: str
    name: str
    aliases: tuple[str, ...]
    area: int | None
    state: str
    device_class: str | None
    unit: str | None
    is_exposed: bool
    is_hidden: bool


@dataclass(frozen=True)
class PlannedHome:
    """What a home's registries are to hold."""

    floors: tuple[str, ...]
    areas: tuple[PlannedArea, ...]
    entities: tuple[PlannedEntity, ...]


def _normalized(name: str) -> str:
    """Return what must be unique in the area and the floor registry.

    Home Assistant ignores case and spaces (helpers/normalized_name_base_registry.py,
    2026.11); other white space is ignored here, so that names stay unique once it
    is collapsed.
    """
    return "".join(name.casefold().split())


@st.composite
def homes(draw: st.DrawFn, max_entities: int = 5) -> PlannedHome:
    """Return a home with odd names, aliases and states.

    Its texts have no lone surrogates: the registries come from JSON, which Home
    Assistant does not read with them.
    """
    name = texts(surrogates=False)
    # An area without a name gets the id "", which breaks Home Assistant's registries.
    unique = st.lists(name.filter(bool), max_size=3, unique_by=_normalized)
    aliases = st.lists(name, max_size=2)
    floors = draw(unique)
    floor = st.none() | st.integers(0, len(floors) - 1) if floors else st.none()
    areas = [
        PlannedArea(area_name, frozenset(draw(aliases)), draw(floor))
        for area_name in draw(unique)
    ]
    area = st.none() | st.integers(0, len(areas) - 1) if areas else st.none()
    entity = st.builds(
        PlannedEntity,
        domain=st.sampled_from(_DOMAINS),
        name=name,
        aliases=aliases.map(tuple),
        area=area,
        state=name.map(lambda text: text[:MAX_LENGTH_STATE_STATE]),
        device_class=st.sampled_from(_DEVICE_CLASSES),
        unit=st.none() | name,
        is_exposed=st.booleans(),
        is_hidden=st.booleans(),
    )
    entities = draw(st.lists(entity, max_size=max_entities))
    return PlannedHome(tuple(floors), tuple(areas), tuple(entities))


@callback
def furnish(hass: HomeAssistant, home: PlannedHome) -> dict[str, PlannedEntity]:
    """Put a home in place of the present one; return its entities by their ids."""
    entities, areas = er.async_get(hass), ar.async_get(hass)
    floors = fr.async_get(hass)
    for entity_id in list(entities.entities):
        entities.async_remove(entity_id)
    # Home Assistant would restore their areas, options and ids.
    entities.deleted_entities.clear()
    for entity_id in hass.states.async_entity_ids():
        hass.states.async_remove(entity_id)
    for area_id in list(areas.areas):
        areas.async_delete(area_id)
    for floor_id in list(floors.floors):
        floors.async_delete(floor_id)
    floor_ids = [floors.async_create(name).floor_id for name in home.floors]
    area_ids = [
        areas.async_create(
            area.name,
            aliases=set(area.aliases),
            floor_id=None if area.floor is None else floor_ids[area.floor],
        ).id
        for area in home.areas
    ]
    return {
        _add(
            hass, number, entity, None if entity.area is None else area_ids[entity.area]
        ): entity
        for number, entity in enumerate(home.entities)
    }


@callback
def _add(
    hass: HomeAssistant, number: int, entity: PlannedEntity, area_id: str | None
) -> str:
    """Add an entity and its state; return its id."""
    registry = er.async_get(hass)
    entity_id = registry.async_get_or_create(
        entity.domain,
        "test",
        str(number),
        original_name=entity.name,
        suggested_object_id=f"thing_{number}",
        hidden_by=er.RegistryEntryHider.USER if entity.is_hidden else None,
    ).entity_id
    registry.async_update_entity(
        entity_id, area_id=area_id, aliases=[er.COMPUTED_NAME, *entity.aliases]
    )
    attributes = {
        ATTR_FRIENDLY_NAME: entity.name,
        ATTR_DEVICE_CLASS: entity.device_class,
        "unit_of_measurement": entity.unit,
        "media_title": entity.name,
    }
    hass.states.async_set(
        entity_id, entity.state, {k: v for k, v in attributes.items() if v is not None}
    )
    async_expose_entity(hass, conversation.DOMAIN, entity_id, entity.is_exposed)
    return entity_id

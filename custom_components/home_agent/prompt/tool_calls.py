"""Turn the tool calls of a model into those of Home Assistant's chat log."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.helpers import llm
from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads

from ..servers.messages import JsonObject, ToolCall, ToolSpec

type ChatLogDelta = (
    conversation.AssistantContentDeltaDict | conversation.ToolResultContentDeltaDict
)

INCOMPLETE: Final = (
    "The call was not made: its arguments are not a complete JSON object."
)
TOO_DEEP: Final = "The call was not made: its arguments are nested too deeply."
NOT_OFFERED: Final = "The call was not made: there is no tool of this name."
NO_MORE_CALLS: Final = "The call was not made: the limit of tool calls was reached."

# No tool wants more levels, and JSON writers fail at some hundred.
_MAX_DEPTH: Final = 20


def tool_deltas(
    calls: Sequence[ToolCall], offered: Sequence[ToolSpec], *, may_call: bool
) -> list[ChatLogDelta]:
    """Return the deltas that make the chat log run tool calls.

    A call is refused if its arguments are not a complete JSON object, if its tool was
    not offered, or if may_call is False. Then the reason is the result of the
    call, which the model gets with its next request.
    """
    schemas = {tool["name"]: tool["parameters"] for tool in offered}
    inputs: list[llm.ToolInput] = []
    refusals: list[ChatLogDelta] = []
    for call in calls:
        reason = None
        if not may_call:
            reason = NO_MORE_CALLS
        elif call.name not in schemas:
            reason = NOT_OFFERED
        elif call.arguments is None:
            reason = INCOMPLETE
        elif _is_too_deep(call.arguments):
            reason = TOO_DEEP
        arguments = {} if reason else call.arguments or {}
        tool_input = llm.ToolInput(
            tool_name=call.name,
            tool_args=_repaired(arguments, schemas.get(call.name, {})),
            # Home Assistant does not run external calls, so a refused one is marked so.
            external=reason is not None,
        )
        # Results refer to the id of their call. Some servers count from zero in each
        # answer, or give one id to all calls of an answer.
        if call.id and call.id not in {earlier.id for earlier in inputs}:
            tool_input.id = call.id
        inputs.append(tool_input)
        if reason is not None:
            refusals.append(
                {
                    "role": "tool_result",
                    "tool_call_id": tool_input.id,
                    "tool_name": call.name,
                    "result": llm.ToolResult(data={"error": reason}, error=True),
                }
            )
    return [{"tool_calls": inputs}, *refusals]


def _repaired(arguments: JsonObject, schema: JsonObject) -> JsonObject:
    """Return arguments without the usual faults of small models.

    They pass null or "" where an argument should be left out, and write lists and
    objects as strings (seen with llama3.1 8B, see Home Assistant's Ollama integration).
    """
    properties = schema.get("properties") or {}
    return {
        key: value if _takes_text(properties.get(key)) else _parsed(value)
        for key, value in arguments.items()
        if value is not None and value != ""
    }


def _takes_text(schema: Mapping[str, Any] | None) -> bool:
    """Return whether a parameter with this JSON schema may be a string."""
    if not schema:
        return False
    types = schema.get("type")
    if types == "string" or (isinstance(types, list) and "string" in types):
        return True
    return any(map(_takes_text, (*schema.get("anyOf", ()), *schema.get("oneOf", ()))))


def _parsed(value: Any) -> Any:
    """Return the list or object that a string holds, or the value as it is."""
    if isinstance(value, str) and (value[:1], value[-1:]) in (("[", "]"), ("{", "}")):
        try:
            parsed = json_loads(value)
        except JSON_DECODE_EXCEPTIONS:
            return value
        return value if _is_too_deep(parsed) else parsed
    return value


def _is_too_deep(value: Any) -> bool:
    """Return whether lists and objects are nested deeper than _MAX_DEPTH."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for container in level
            if isinstance(container, list | dict)
            for item in (
                container.values() if isinstance(container, dict) else container
            )
        ]
        if not level:
            return False
    return True

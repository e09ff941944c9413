"""The sentences that the stand-in of the demo understands."""

import json
from typing import Any

import pytest

from tests.servers import ChatCall, RuleBrain, ToolUse

HOME: tuple[tuple[str, str, str, str, dict[str, str]], ...] = (
    ("Kitchen Light", "light", "off", "Kitchen", {}),
    ("Counter Light", "light", "on", "Kitchen", {}),
    ("Coffee Machine", "switch", "off", "Kitchen", {}),
    ("Living Room Blinds", "cover", "open", "Living Room", {}),
    ("Living Room Thermostat", "climate", "heat", "Living Room", {}),
    ("Front Door", "lock", "locked", "Hallway", {}),
    ("Bedside Lamp", "light", "off", "Bedroom", {}),
    (
        "Bedroom Temperature",
        "sensor",
        "19.5",
        "Bedroom",
        {"device_class": "temperature", "unit_of_measurement": "°C"},
    ),
    (
        "Office Temperature",
        "sensor",
        "22.1",
        "Office",
        {"device_class": "temperature", "unit_of_measurement": "°C"},
    ),
    ("Bedroom Window", "binary_sensor", "on", "Bedroom", {"device_class": "window"}),
    ("Bathroom Window", "binary_sensor", "off", "Bathroom", {"device_class": "window"}),
)
TOOLS = [
    "HassTurnOn",
    "HassTurnOff",
    "HassLightSet",
    "HassSetPosition",
    "HassClimateSetTemperature",
    "homeassistant__GetLiveContext",
]


def listed(*, with_states: bool) -> str:
    """Return the home as Home Assistant's prompt or its live context lists it."""
    lines = []
    for name, domain, state, area, attributes in HOME:
        lines += [f"- names: {name}", f"  domain: {domain}"]
        if with_states:
            lines.append(f"  state: '{state}'")
        lines.append(f"  areas: {area}")
        if with_states and attributes:
            lines.append("  attributes:")
            lines += [f"    {key}: {value}" for key, value in attributes.items()]
    return "\n".join(lines)


def call(*sentences: str, result: dict[str, Any] | None = None) -> ChatCall:
    """Return a request with what the user said so far."""
    messages = [{"role": "system", "content": listed(with_states=False)}]
    for sentence in sentences[:-1]:
        messages += [
            {"role": "user", "content": sentence},
            {"role": "assistant", "content": "Yes."},
        ]
    messages.append({"role": "user", "content": sentences[-1]})
    if result is not None:
        messages.append({"role": "tool", "content": json.dumps(result)})
    return ChatCall("m", messages, TOOLS)


def use(tool: str, /, **arguments: Any) -> ToolUse:
    """Return a tool call."""
    return ToolUse(tool, arguments)


SWITCHED = ["light", "switch"]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("turn on the kitchen light", use("HassTurnOn", name="Kitchen Light")),
        ("Turn the bedside lamp off.", use("HassTurnOff", name="Bedside Lamp")),
        (
            "turn off the lights in the kitchen",
            use("HassTurnOff", area="Kitchen", domain=["light"]),
        ),
        (
            "turn on the kitchen lights",
            use("HassTurnOn", area="Kitchen", domain=["light"]),
        ),
        (
            "close all blinds on the ground floor",
            use("HassTurnOff", floor="Ground Floor", domain=["cover"]),
        ),
        (
            "turn off all lights upstairs",
            use("HassTurnOff", floor="Upper Floor", domain=["light"]),
        ),
        (
            "turn everything off in the basement",
            use("HassTurnOff", floor="Basement", domain=SWITCHED),
        ),
        ("turn off everything", use("HassTurnOff", name="all", domain=SWITCHED)),
        ("unlock the front door", use("HassTurnOff", name="Front Door")),
        (
            "set the kitchen light to 40 percent",
            use("HassLightSet", name="Kitchen Light", brightness=40),
        ),
        (
            "set the living room blinds to 30",
            use("HassSetPosition", name="Living Room Blinds", position=30),
        ),
        (
            "set the living room thermostat to 22",
            use("HassClimateSetTemperature", area="Living Room", temperature=22),
        ),
        (
            "is any window open?",
            use("homeassistant__GetLiveContext", domain="binary_sensor"),
        ),
        (
            "is the front door locked?",
            use("homeassistant__GetLiveContext", domain="lock"),
        ),
        (
            "what is the temperature in the bedroom?",
            use("homeassistant__GetLiveContext", area="Bedroom", domain="sensor"),
        ),
    ],
)
def test_commands(sentence: str, expected: ToolUse) -> None:
    """A floor, a room, everything of a kind, or one thing."""
    assert RuleBrain()(call(sentence)).tools == (expected,)


def test_two_commands_in_a_sentence() -> None:
    """Each part is a tool call."""
    sentence = "turn on the kitchen light and close the living room blinds"
    assert RuleBrain()(call(sentence)).tools == (
        use("HassTurnOn", name="Kitchen Light"),
        use("HassTurnOff", name="Living Room Blinds"),
    )


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        (
            ("turn on the kitchen light", "and the bedside lamp"),
            use("HassTurnOn", name="Bedside Lamp"),
        ),
        (
            ("turn on the bedside lamp", "turn it off again"),
            use("HassTurnOff", name="Bedside Lamp"),
        ),
    ],
)
def test_commands_that_follow(sentences: tuple[str, ...], expected: ToolUse) -> None:
    """What is missing is taken from the sentence before."""
    assert RuleBrain()(call(*sentences)).tools == (expected,)


@pytest.mark.parametrize(
    ("sentences", "answer"),
    [
        (
            ("what is the temperature in the bedroom?",),
            "Bedroom Temperature is 19.5 °C.",
        ),
        (
            ("what is the temperature in the bedroom?", "and in the office?"),
            "Office Temperature is 22.1 °C.",
        ),
        (("how warm is it in the office?",), "Office Temperature is 22.1 °C."),
        (("is any window open?",), "Bedroom Window is open."),
        (("which lights are on?",), "Counter Light is on."),
        (("is the front door locked?",), "Front Door is locked."),
        (("is any window open in the bathroom?",), "Nothing is open."),
    ],
)
def test_questions(sentences: tuple[str, ...], answer: str) -> None:
    """The answer comes from the live context, also for a question that follows."""
    result = {"data": {"result": listed(with_states=True)}, "error": False}
    assert RuleBrain()(call(*sentences, result=result)).content == answer


def test_what_was_done() -> None:
    """The answer names what an action has reached."""
    done = [{"name": "Kitchen Light", "type": "entity", "id": "light.kitchen_light"}]
    result = {"data": {"success": done, "failed": []}, "error": False}
    reply = RuleBrain()(call("turn on the kitchen light", result=result))
    assert reply.content == "Done: Kitchen Light."

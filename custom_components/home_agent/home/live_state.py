"""What an entity is like at this moment, in the words of a model."""

from typing import Final

from homeassistant.components.light import ATTR_BRIGHTNESS, DOMAIN as LIGHT_DOMAIN
from homeassistant.components.sensor import (
    DOMAIN as SENSOR_DOMAIN,
    SensorDeviceClass,
    async_rounded_state,
)
from homeassistant.const import ATTR_DEVICE_CLASS, ATTR_UNIT_OF_MEASUREMENT
from homeassistant.core import HomeAssistant, State, callback
from homeassistant.util import dt as dt_util

# What else people ask about; each with what is written behind its value.
_ATTRIBUTES: Final = {
    "current_temperature": "°",
    "temperature": "°",
    "humidity": " %",
    "current_position": " %",
    "percentage": " %",
    "volume_level": "",
    "media_title": "",
    "media_artist": "",
}
# A state is a word or two; a longer text is not worth its tokens.
_LONGEST: Final = 80


@callback
def live_state(hass: HomeAssistant, entity_id: str) -> str | None:
    """Return state and attributes of an entity in one short line.

    None for an entity without a state. Values are those that tools take: a
    brightness in percent, a sensor as Home Assistant shows it.
    """
    if (state := hass.states.get(entity_id)) is None:
        return None
    parts = [_value(hass, state)]
    brightness = state.attributes.get(ATTR_BRIGHTNESS)
    if state.domain == LIGHT_DOMAIN and isinstance(brightness, int):
        percent = max(round(brightness / 255 * 100), 1) if brightness else 0
        parts.append(f"brightness {percent} %")
    for name, unit in _ATTRIBUTES.items():
        value = state.attributes.get(name)
        if value is not None and not isinstance(value, list | dict):
            parts.append(f"{name.replace('_', ' ')} {_line(str(value))}{unit}")
    return ", ".join(parts)


def _value(hass: HomeAssistant, state: State) -> str:
    """Return a state with its unit, as Home Assistant shows it."""
    value = state.state
    if state.domain == SENSOR_DOMAIN:
        value = async_rounded_state(hass, state.entity_id, state)
    if state.attributes.get(ATTR_DEVICE_CLASS) == SensorDeviceClass.TIMESTAMP and (
        time := dt_util.parse_datetime(value)
    ):
        value = dt_util.as_local(time).isoformat(timespec="minutes")
    if unit := state.attributes.get(ATTR_UNIT_OF_MEASUREMENT):
        value = f"{value} {unit}"
    return _line(value)


def _line(text: str) -> str:
    """Return a text in one line that is not too long.

    Texts from outside, such as titles, must not look like lines of our own.
    """
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"

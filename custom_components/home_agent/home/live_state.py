"""The state of an entity at this moment, as one line for a model."""

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

from .text import MAX_STATE_LENGTH, one_line

# The attributes that people ask about, each with the unit written after its value.
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


@callback
def live_state(hass: HomeAssistant, entity_id: str) -> str | None:
    """Return an entity's state and main attributes as one line.

    For example "on, brightness 40 %"; None for an entity without a state. Numbers
    are those that Home Assistant's tools take (brightness in percent) or that its
    pages show (sensors, rounded and with their unit). Each value is at most
    MAX_STATE_LENGTH characters long.
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
    """Return a value as one line: a media title may hold line breaks."""
    return one_line(text, MAX_STATE_LENGTH)

"""Numbers in a section of a form: whether they are too small or too large.

Home Assistant validates a form before its step, and shows an error of a field inside
a section as a path, such as data['advanced']['llm_temperature'] (2026.11,
data_entry_flow.py). So the step checks these numbers itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, override

from homeassistant.data_entry_flow import section
from homeassistant.helpers.selector import NumberSelector
import probatio as vol


class SectionNumberSelector(NumberSelector):
    """A field for a number whose limits the browser shows and the step checks."""

    @override
    def __call__(self, data: Any) -> float:
        """Return the number, whatever the limits are."""
        number: float = vol.Coerce(float)(data)
        return number


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """A number in a section that is too small or too large."""

    section: str
    key: str
    minimum: float
    maximum: float


def first_out_of_range(
    fields: Mapping[vol.Marker, Any], user_input: Mapping[str, Any]
) -> OutOfRange | None:
    """Return the first number that is out of its range, None if all are right."""
    for marker, field in fields.items():
        if not isinstance(field, section):
            continue
        values = user_input.get(marker.schema, {})
        for inner, number in field.schema.schema.items():
            value = values.get(inner.schema)
            if not isinstance(number, SectionNumberSelector) or value is None:
                continue
            minimum, maximum = number.config["min"], number.config["max"]
            if not minimum <= value <= maximum:
                return OutOfRange(marker.schema, inner.schema, minimum, maximum)
    return None

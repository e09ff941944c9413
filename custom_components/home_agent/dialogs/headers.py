"""The HTTP headers that users add to the requests to a server."""

from collections.abc import Mapping
import re
from typing import Any, Final

from homeassistant.data_entry_flow import section
import probatio as vol

from ..model.role import Role
from .fields import Fields, flattened
from .selectors import multiline_field

SECTION_HEADERS: Final = "headers"
AUTHORIZATION: Final = "Authorization"

# RFC 9110, 5.6.2 (token) and 5.5 (field values); other letters than ASCII are left out.
_LINE: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:[ \t]*([\x20-\x7e\t]+)")
# The HTTP client sets them by the content of each request.
_OF_THE_CLIENT: Final = {
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


class InvalidHeaders(ValueError):
    """A text is no list of headers."""

    def __init__(self, role: Role) -> None:
        """Keep the errors by field; the web interface shows that of the section."""
        super().__init__("not a list of headers")
        self.errors = {
            role.key("proxy_headers"): "invalid_headers",
            SECTION_HEADERS: "invalid_headers",
        }


def headers_field(role: Role, stored: Mapping[str, Any]) -> Fields:
    """Return the section for the headers; it is open if stored has some."""
    key = role.key("proxy_headers")
    return {
        vol.Optional(SECTION_HEADERS): section(
            vol.Schema({vol.Optional(key): multiline_field()}),
            {"collapsed": not stored.get(key)},
        )
    }


def with_headers(user_input: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """Return the values of a form, with the text of its headers as a mapping.

    A form without the section leaves the headers as they are: there is no such key
    then. Raise InvalidHeaders for another text.
    """
    values = flattened(user_input)
    if SECTION_HEADERS in user_input:
        key = role.key("proxy_headers")
        values[key] = _parsed(values.get(key, ""), role)
    return values


def with_headers_as_text(values: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """Return stored values as the form shows them: a header is a line."""
    key = role.key("proxy_headers")
    headers = values.get(key) or {}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return {**values, key: "\n".join(lines)} if lines else dict(values)


def _parsed(text: str, role: Role) -> dict[str, str]:
    """Return the headers in a text, one in a line; raise InvalidHeaders."""
    headers: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidHeaders(role)
        name, value = match.groups()
        if name.lower() == AUTHORIZATION.lower():
            name = AUTHORIZATION
        known = {header.lower() for header in headers}
        if name.lower() in _OF_THE_CLIENT | known:
            raise InvalidHeaders(role)
        headers[name] = value
    return headers

"""Remove the secrets of requests from texts that servers send back."""

import base64
import binascii
from collections.abc import Iterator, Mapping
import html
import re
from typing import Final
from urllib.parse import quote, quote_plus

from homeassistant.helpers.json import json_dumps

_REDACTED: Final = "***"
# The values of these headers are secrets however short they are.
_CREDENTIAL_HEADERS: Final = {
    "api-key",
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
}
# A value of another header that is as short as this ("X-Version: 1") is no secret.
_LONGEST_HARMLESS: Final = 3
# Servers show the beginning of a key that they refuse ("sk-proj-****wxyz").
_SHOWN_BEGINNING: Final = 8
_LONG_KEY: Final = 2 * _SHOWN_BEGINNING


class Redactor:
    """Replaces the secrets in the headers of requests by "***"."""

    def __init__(self, *all_headers: Mapping[str, str]) -> None:
        """Read the secrets from the headers that go with every request."""
        patterns = {
            pattern
            for headers in all_headers
            for name, value in headers.items()
            for pattern in _patterns(name.lower(), value)
        }
        # The longest first: "Basic abc" must not leave anything of "abc" behind.
        alternatives = "|".join(sorted(patterns, key=len, reverse=True))
        # (?!) matches nothing: without secrets there is nothing to remove.
        self._pattern = re.compile(alternatives or "(?!)", re.IGNORECASE)

    def redact(self, text: str) -> str:
        """Return a text without secrets and without lone surrogates, in one line."""
        text = text.encode(errors="replace").decode()
        return " ".join(self._pattern.sub(_REDACTED, text).split())


def _patterns(name: str, value: str) -> Iterator[str]:
    """Yield regular expressions for the secrets in a header, however encoded."""
    is_credential = name in _CREDENTIAL_HEADERS
    for secret in _secrets(value):
        if not secret or (len(secret) <= _LONGEST_HARMLESS and not is_credential):
            continue
        for form in _forms(secret):
            pattern = re.escape(form)
            # A key such as "x" must not remove every x of a sentence.
            if len(form) <= _LONGEST_HARMLESS:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            yield pattern
        if is_credential and len(secret) >= _LONG_KEY:
            yield re.escape(secret[:_SHOWN_BEGINNING]) + r"[^\s\"'<>,;]*"


def _secrets(value: str) -> Iterator[str]:
    """Yield the value of a header, or its parts if it names a scheme."""
    scheme, _, token = value.partition(" ")
    if scheme.lower() not in ("basic", "bearer"):
        yield value
        return
    yield token
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(token).decode(errors="replace")
        except binascii.Error:
            return
        yield pair
        yield pair.partition(":")[2]


def _forms(secret: str) -> set[str]:
    """Return the ways in which a server may write a secret."""
    encoded = secret.encode(errors="replace")
    return {
        secret,
        quote(encoded, safe=""),
        quote_plus(encoded),
        html.escape(secret),
        json_dumps(encoded.decode())[1:-1],
        base64.b64encode(encoded).decode().rstrip("="),
        base64.urlsafe_b64encode(encoded).decode().rstrip("="),
    }

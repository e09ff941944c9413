"""Remove the secrets of requests from texts that servers send back."""

import base64
from collections.abc import Iterator, Mapping
import html
import re
from typing import Final

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
# A part of a header, such as a value in a cookie, is a secret from this length on.
_SHORTEST_PART: Final = 8
# NAME=VALUE in a header: cookies and the parameters of a scheme.
_NAMED_PART: Final = re.compile(r"[\w.-]+=\"?([^;,\s\"]+)")
# How servers write characters: JSON (PHP escapes "/", .NET most punctuation), the
# "\\x" of Python, addresses and HTML. Backslashes and "%25" that are repeated come
# from a text that was escaped more than once.
_ESCAPES: Final = re.compile(
    r"(?P<utf16>(?:\\+u[0-9a-f]{4})+)"
    r"|(?P<bytes>(?:\\+x[0-9a-f]{2}|%(?:25)*[0-9a-f]{2})+)"
    r"|(?P<html>&(?:\#[0-9]{1,7}|\#x[0-9a-f]{1,6}|[a-z]{2,8});)"
    r"|(?P<blank>\\+[bfnrt])"
    r"|\\+",
    re.IGNORECASE,
)
_BYTE: Final = re.compile(r"[0-9a-f]{2}(?=[\\%]|$)", re.IGNORECASE)
# The longest way to write a character: "\\\\u002B", or three bytes as "%E2%82%AC".
_MAX_WRITTEN: Final = 9


class Redactor:
    """Replaces the secrets in the headers and the address of requests by "***"."""

    def __init__(self, *all_headers: Mapping[str, str], path: str = "") -> None:
        """Read the secrets from the headers that go with every request.

        path is that of the address, without the path of a well-known API.
        """
        patterns = {
            pattern
            for headers in all_headers
            for name, value in headers.items()
            for pattern in _patterns(name.lower(), value)
        }
        patterns.update(*map(_segment_patterns, filter(None, path.split("/"))))
        # The longest first: "Basic abc" must not leave anything of "abc" behind.
        alternatives = "|".join(sorted(patterns, key=len, reverse=True))
        # (?!) matches nothing: without secrets there is nothing to remove.
        self._pattern = re.compile(alternatives or "(?!)", re.IGNORECASE)
        # How many characters the longest secret may have in a text.
        self.longest = _MAX_WRITTEN * max(map(len, patterns), default=0)

    def redact(self, text: str) -> str:
        """Return a text without secrets and without lone surrogates, in one line."""
        text = text.encode(errors="replace").decode()
        kept: list[str] = []
        position = 0
        for start, end in sorted(self._find(text)):
            if start >= position:
                kept += text[position:start], _REDACTED
            position = max(position, end)
        return " ".join(("".join(kept) + text[position:]).split())

    def _find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each secret in a text, with and without escapes.

        A text as it stands is searched too, because what looks like an escape may
        be the beginning of a secret.
        """
        for match in self._pattern.finditer(text):
            yield match.span()
        plain, places = _unescape(text)
        for match in self._pattern.finditer(plain):
            yield places[match.start()][0], places[match.end() - 1][1]


def _patterns(name: str, value: str) -> Iterator[str]:
    """Yield regular expressions for the secrets in a header."""
    is_credential = name in _CREDENTIAL_HEADERS
    for secret in _secrets(value, is_credential=is_credential):
        if len(secret) <= _LONGEST_HARMLESS and not is_credential:
            continue
        for form in filter(str.strip, _forms(secret)):
            # Servers collapse white space, and forms have "+" for a blank.
            pattern = r"[\s+]+".join(map(re.escape, form.split()))
            # A key such as "x" must not remove every x of a sentence.
            if len(form) <= _LONGEST_HARMLESS:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            yield pattern
        if is_credential and len(secret) >= _LONG_KEY:
            yield re.escape(secret[:_SHOWN_BEGINNING]) + r"[^\s\"'<>,;]*"


def _segment_patterns(segment: str) -> Iterator[str]:
    """Yield regular expressions for a part of a path, such as "abc" in "/abc/v1".

    A short one may be a word, which is left in sentences: it is removed with its slash.
    """
    yield rf"/{re.escape(segment)}(?!\w)"
    if len(segment) >= _SHORTEST_PART:
        yield from map(re.escape, _forms(segment))


def _secrets(value: str, *, is_credential: bool) -> Iterator[str]:
    """Yield the value of a header and its parts: after a scheme, and NAME=VALUE."""
    value = value.strip()
    scheme, _, token = value.partition(" ")
    if scheme.lower() in ("basic", "bearer"):
        # Somebody may have entered "Bearer KEY" for a key.
        yield from _secrets(token, is_credential=is_credential)
        if scheme.lower() == "basic":
            yield from _user_and_password(token)
        return
    yield value
    if is_credential or len(token) >= _SHORTEST_PART:
        yield token.strip()
    for part in _NAMED_PART.findall(value):
        if len(part) >= _SHORTEST_PART:
            yield part


def _user_and_password(token: str) -> Iterator[str]:
    """Yield what Basic authorization (RFC 7617) encodes, and the password alone."""
    try:
        pair = base64.b64decode(token).decode(errors="replace")
    except ValueError:
        return
    yield pair
    yield pair.partition(":")[2]


def _forms(secret: str) -> set[str]:
    """Return the ways in which a server may write a secret, without escapes."""
    encoded = secret.encode(errors="replace")
    return {
        secret,
        _unescape(secret)[0],
        base64.b64encode(encoded).decode().rstrip("="),
        base64.urlsafe_b64encode(encoded).decode().rstrip("="),
        encoded.hex(),
    }


def _unescape(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text without escapes, and where each of its characters was.

    A place is (start, end) in the text with escapes.
    """
    plain: list[str] = []
    places: list[tuple[int, int]] = []
    position = 0
    for match in _ESCAPES.finditer(text):
        start, end = match.span()
        meant = _meant(match)
        plain += text[position:start], meant
        places += ((i, i + 1) for i in range(position, start))
        places += [(start, end)] * len(meant)
        position = end
    plain.append(text[position:])
    places += ((i, i + 1) for i in range(position, len(text)))
    return "".join(plain), places


def _meant(escape: re.Match[str]) -> str:
    """Return the characters that an escape stands for."""
    written = escape[0]
    match escape.lastgroup:
        case "utf16":
            units = b"".join(
                map(bytes.fromhex, re.findall("[0-9a-f]{4}", written, re.IGNORECASE))
            )
            return units.decode("utf-16-be", errors="replace")
        case "bytes":
            return bytes.fromhex("".join(_BYTE.findall(written))).decode(
                errors="replace"
            )
        case "html":
            return html.unescape(written)
        case "blank":
            return " "
    # Backslashes in front of a character that stands for itself.
    return ""

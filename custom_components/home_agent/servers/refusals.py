"""What a model server means by an error status."""

from collections.abc import Callable
from email.utils import parsedate_to_datetime
import re
from typing import Any, Final

import aiohttp
from homeassistant.util import dt as dt_util
from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads

from .errors import (
    CannotConnect,
    HostRefused,
    InvalidAuth,
    ModelNotFound,
    ModelServerError,
    PromptTooLong,
    RequestRefused,
    ServerBusy,
    ToolsNotSupported,
    WrongScheme,
    is_about_tools,
    is_prompt_too_long,
)

# Where servers write the reason of an error, and how deep it may be: Mistral has
# {"message": {"detail": [{"loc": [...], "msg": ...}]}}.
_REASON_KEYS: Final = ("error", "message", "detail", "errors", "msg")
_MAX_DEPTH: Final = 5
# Seconds until a server that is not ready is asked again, if it does not say when.
READY_PAUSE: Final = 1.0

# A 403 is about the key or the password only if its text says so ...
_ABOUT_KEY: Final = re.compile(
    r"\b(api[ _-]?)?keys?\b|\b(un)?auth(?!or\b|ors\b)|\btokens?\b|\bcredential"
    r"|\bpassword\b|\bpermissions?(_denied)?\b|\bforbidden\b|\bsign(ed)?[ -]?in\b",
    re.IGNORECASE,
)
# ... and is not about what was asked, or about money.
_ABOUT_SOMETHING_ELSE: Final = re.compile(
    r"moderat|flagged|safety|polic(y|ies)|quota|billing|credit|balance|payment|fund"
    r"|subscription|upgrade|spend|limit|exceeded|region|country|territory|blocked",
    re.IGNORECASE,
)
# LiteLLM without a database answers so, with status 400, to a key that is not its
# master key (1.106.2, proxy/auth/user_api_key_auth.py).
_NO_DATABASE_OF_KEYS: Final = "No connected db."
# llama.cpp (tools/server, "Loading model") and Ollama (server/sched.go, ErrMaxQueue:
# "server busy, please try again.") say so with status 503.
_NOT_READY: Final = re.compile(r"loading model|server busy", re.IGNORECASE)
# Go and nginx answer so to HTTP on a port for HTTPS.
_WANTS_HTTPS: Final = re.compile(
    r"http request (was sent )?to (an )?https", re.IGNORECASE
)


def refusal(
    host: str,
    url: str,
    response: aiohttp.ClientResponse,
    text: str,
    redacted: Callable[[str], str],
) -> ModelServerError:
    """Return the error for an answer with an error status.

    url is that of the request and text the body of the answer; redacted removes
    secrets from a text.
    """
    status = response.status
    if status < 400:
        location = redacted(response.headers.get("Location", ""))
        return CannotConnect(host, f"redirects to {location}", status=status)
    # Decided by what the server said, before a key like "model" is removed.
    reason = error_text(text)
    detail = redacted(reason)
    kind: type[ModelServerError] = ModelServerError
    if is_prompt_too_long(reason):
        kind = PromptTooLong
    elif status == 403 and not text.strip():
        return HostRefused(host, "an empty answer", status=status)
    elif (
        status == 401
        or (status == 403 and _is_about_key(text))
        or (status == 400 and reason == _NO_DATABASE_OF_KEYS)
    ):
        kind = InvalidAuth
    elif is_about_tools(reason):
        kind = ToolsNotSupported
    elif status == 404 and "model" in reason.lower():
        kind = ModelNotFound
    elif status == 400 and url.startswith("http:") and _WANTS_HTTPS.search(reason):
        kind = WrongScheme
    elif status < 500:
        kind = RequestRefused
    elif status == 503 and (
        _NOT_READY.search(reason) or "Retry-After" in response.headers
    ):
        kind = ServerBusy
    return kind(host, detail, status=status)


def seconds_until_ready(
    response: aiohttp.ClientResponse, error: ModelServerError
) -> float | None:
    """Return the seconds after which to send a request again.

    None if the server refused it for another reason than that it is not ready. The
    header Retry-After has seconds or a date (RFC 9110, 10.2.3).
    """
    if not isinstance(error, ServerBusy):
        return None
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return max(float(value), READY_PAUSE)
    try:
        date = parsedate_to_datetime(value)
        left = (date - dt_util.utcnow()).total_seconds()
    except ValueError, TypeError, OverflowError:
        return READY_PAUSE
    return max(left, READY_PAUSE)


def error_text(body: str) -> str:
    """Return the message in the body of an error.

    {"error": "text"} is Ollama's form, {"error": {"message": "text"}} OpenAI's,
    with the name of a refused field in "param"; Gemini puts the latter into a list.
    {"detail": "text"} is FastAPI's and {"message": "text"} Mistral's. Of a list of
    problems each field and message is returned. A body that is no JSON is returned
    whole; of any other JSON nothing is, since it may repeat the prompt.
    """
    try:
        data: Any = json_loads(body)
    except JSON_DECODE_EXCEPTIONS:
        return body
    if isinstance(data, list) and data:
        data = data[0]
    return _reason(data, _MAX_DEPTH)


def _reason(data: Any, depth: int) -> str:
    """Return what a part of an error says, at most so many levels deep.

    FastAPI's problems repeat the input, which may be the whole prompt: so only known
    fields are read.
    """
    if isinstance(data, str):
        return data
    if isinstance(data, list) and depth:
        return "; ".join(filter(None, (_reason(item, depth - 1) for item in data)))
    if not isinstance(data, dict) or not depth:
        return ""
    found = (_reason(data.get(key), depth - 1) for key in _REASON_KEYS)
    reason = next(filter(None, found), "")
    if isinstance(location := data.get("loc"), list):
        reason = ": ".join(filter(None, (".".join(map(str, location)), reason)))
    field = data.get("param")
    if reason and isinstance(field, str) and field not in reason:
        reason = f"{reason} ({field})"
    return reason


def _is_about_key(text: str) -> bool:
    """Return whether a 403 with this body says that the key is wrong."""
    return (
        _ABOUT_KEY.search(text) is not None
        and _ABOUT_SOMETHING_ELSE.search(text) is None
    )

"""One recorded exchange: a request, and the bytes of its answer as they came."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
import json
from pathlib import Path
import re
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

# Every other header may hold a key, a cookie or a name of the user's network.
KEPT_HEADERS = frozenset(
    {
        "accept",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "retry-after",
        "server",
        "transfer-encoding",
        "x-preload-only",
    }
)
REMOVED = "REMOVED"
# The folder of a model's file has the name of a user in it.
_MODEL_FOLDER = re.compile(rb'(?:/[^/"\s]+)+/(?=[^/"\s]+\.gguf|blobs/)')
_SHORTEST_SECRET = 4
# Values of these headers are no secrets: they may stay where an answer repeats them.
_PLAIN_HEADERS = KEPT_HEADERS | {
    "accept-encoding",
    "connection",
    "host",
    "user-agent",
}
_SECRET_PARAMETERS = ("key", "token", "secret", "password")

# Not a type statement: the recorder runs on Python 3.11 too.
End = Literal["complete", "server closed", "client closed"]


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    body is the request's JSON, or its text if it is no JSON, or None. chunks are
    the bytes of the answer, split where the server split them. end says whether
    the answer was complete or who closed the connection before.
    """

    method: str
    path: str
    status: int
    chunks: tuple[bytes, ...]
    request_headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    end: End = "complete"

    @property
    def raw(self) -> bytes:
        """Return the whole answer."""
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        """Return the answer as JSON; raise ValueError if it is none."""
        return json.loads(self.raw)

    @property
    def lines(self) -> list[Any]:
        """Return the lines of an answer with one JSON value in each."""
        return [json.loads(line) for line in self.raw.splitlines()]

    @property
    def events(self) -> list[Any]:
        """Return the JSON of server-sent events; raise ValueError for other data."""
        data = [line[5:].strip() for line in self.raw.splitlines() if line[:1] == b"d"]
        return [json.loads(item) for item in data if item != b"[DONE]"]

    def save(self, path: Path) -> None:
        """Write the exchange to a file of JSON."""
        content = {
            "request": {
                "method": self.method,
                "path": self.path,
                "headers": dict(self.request_headers),
                "body": self.body,
            },
            "answer": {
                "status": self.status,
                "headers": dict(self.headers),
                "end": self.end,
                "chunks": [_shown(chunk) for chunk in self.chunks],
            },
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an exchange from a file."""
        content = json.loads(path.read_text(encoding="utf-8"))
        request, answer = content["request"], content["answer"]
        return cls(
            method=request["method"],
            path=request["path"],
            request_headers=request["headers"],
            body=request["body"],
            status=answer["status"],
            headers=answer["headers"],
            end=answer["end"],
            chunks=tuple(_bytes(chunk) for chunk in answer["chunks"]),
        )


def load_folder(folder: Path) -> dict[str, Exchange]:
    """Return the exchanges of a folder by the names of their files."""
    return {path.stem: Exchange.load(path) for path in sorted(folder.glob("*.json"))}


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are written down, their names in lower case."""
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower() in KEPT_HEADERS
    }


def secrets_of(
    headers: Mapping[str, str], path: str, more: Iterable[str] = ()
) -> list[bytes]:
    """Return what must not be written down, wherever it comes up again.

    A server may repeat a key in the text of an error. The longest come first, so
    that none is left in part.
    """
    values = {
        part
        for name, value in headers.items()
        if name.lower() not in _PLAIN_HEADERS
        for part in (value, *value.split(maxsplit=1)[1:])
    }
    values |= set(more)
    values |= {
        value for name, value in parse_qsl(urlsplit(path).query) if _is_secret(name)
    }
    found = [value.encode() for value in values if len(value) >= _SHORTEST_SECRET]
    return sorted(found, key=len, reverse=True)


def shown_path(path: str) -> str:
    """Return a path without the keys that its query may have."""
    parts = urlsplit(path)
    query = [
        (name, REMOVED if _is_secret(name) else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit(parts._replace(query=urlencode(query)))


def cleaned(chunks: list[bytes], secrets: list[bytes]) -> tuple[bytes, ...]:
    """Return chunks without secrets and without the folders of a machine.

    The chunks become one where something to remove lies across two of them.
    """
    parts = tuple(clean(chunk, secrets) for chunk in chunks)
    whole = clean(b"".join(chunks), secrets)
    return parts if b"".join(parts) == whole else (whole,)


def clean(data: bytes, secrets: list[bytes]) -> bytes:
    """Return data without secrets and without the folders of a machine."""
    for secret in secrets:
        data = data.replace(secret, REMOVED.encode())
    return _MODEL_FOLDER.sub(b"/models/", data)


def request_body(raw: bytes) -> Any:
    """Return the JSON of a request, else its text, None if it is empty."""
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw.decode(errors="replace")


def _is_secret(parameter: str) -> bool:
    """Return whether the name of a query's parameter is that of a secret."""
    return any(word in parameter.lower() for word in _SECRET_PARAMETERS)


def _shown(chunk: bytes) -> str | list[int]:
    """Return a chunk as text, or as numbers where it is cut inside a character."""
    try:
        return chunk.decode()
    except UnicodeDecodeError:
        return list(chunk)


def _bytes(shown: str | list[int]) -> bytes:
    """Return the bytes of a chunk."""
    return shown.encode() if isinstance(shown, str) else bytes(shown)

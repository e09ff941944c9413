"""JSON as Go's encoding/json reads it into a struct: what is refused, and how.

Ollama answers 400 with the text of the decoder's error (server/routes.go,
ShouldBindJSON), so a wrong type in a request is told apart by that text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import json
from typing import Any


class GoError(ValueError):
    """What Go's decoder says."""


@dataclass(frozen=True)
class Scalar:
    """A Go type of one value; kind is what JSON has for it."""

    go: str
    kind: str


@dataclass(frozen=True)
class Slice:
    """A Go slice; go is its type where that has a name of its own."""

    element: GoType
    name: str = ""

    @property
    def go(self) -> str:
        """Return the name of the type."""
        return self.name or f"[]{self.element.go}"


@dataclass(frozen=True)
class Struct:
    """A Go struct.

    refused_as is the name that errors give it where it is not its own. One that
    has_decoder reads itself: errors inside it name the struct around it.
    """

    go: str
    fields: Mapping[str, GoType]
    refused_as: str = ""
    has_decoder: bool = False


@dataclass(frozen=True)
class Decoder:
    """A Go type that reads itself; check raises ValueError for what it refuses."""

    go: str
    check: Callable[[Any], object]


type GoType = Scalar | Slice | Struct | Decoder

STRING = Scalar("string", "string")
BOOL = Scalar("bool", "bool")
INT = Scalar("int", "number")
FLOAT = Scalar("float64", "number")
ANY = Scalar("interface {}", "")
MAP = Scalar("map[string]interface {}", "object")


def decode(raw: bytes, struct: Struct) -> dict[str, Any]:
    """Return the first JSON value of a body as Go reads it into a struct.

    The names of fields are those of the struct, whatever their case in the body;
    what is null or unknown is left out. Raise GoError with Go's text.
    """
    value = _first_value(raw.decode(errors="replace"))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GoError(
            f"json: cannot unmarshal {_kind(value)} into Go value of type {struct.go}"
        )
    found = _Check(struct)
    result: dict[str, Any] = found.known(value, struct)
    if found.type_errors:
        raise GoError(found.type_errors[0])
    return result


def _first_value(text: str) -> Any:
    """Return the first JSON value of a text: what stands behind it is not read."""
    text = text.lstrip()
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as err:
        if err.pos >= len(text):
            raise GoError("unexpected EOF") from err
        shown = f"invalid character '{text[err.pos]}' looking for beginning of value"
        raise GoError(shown) from err
    return value


@dataclass
class _Check:
    """Compares a value with a struct.

    Go notes the first wrong type and reads on; an error of a type that reads
    itself ends the reading, so it comes before all others.
    """

    root: Struct
    type_errors: list[str] = field(default_factory=list)

    def known(
        self, value: dict[str, Any], struct: Struct, path: str = "", owner: str = ""
    ) -> dict[str, Any]:
        """Return the fields of a struct that a value has, after checking them."""
        owner = owner or struct.go.rpartition(".")[2]
        names = {name.lower(): name for name in struct.fields}
        result: dict[str, Any] = {}
        for key, item in value.items():
            name = names.get(key.lower())
            if name is None or item is None:
                continue
            where = f"{path}.{name}" if path else name
            result[name] = self._value(item, struct.fields[name], where, owner)
        return result

    def _value(self, value: Any, kind: GoType, path: str, owner: str) -> Any:
        """Return a value after checking it; the path is that of its field."""
        if value is None:
            return None
        if isinstance(kind, Decoder):
            try:
                kind.check(value)
            except ValueError as err:
                raise GoError(str(err)) from err
            return value
        if not _fits(value, kind):
            shown = _kind(value)
            if kind is INT and isinstance(value, float):
                shown = f"number {value}"
            go = kind.refused_as if isinstance(kind, Struct) else ""
            self.type_errors.append(
                f"json: cannot unmarshal {shown} into Go struct field"
                f" {owner}.{path} of type {go or kind.go}"
            )
            return None
        if isinstance(kind, Slice):
            return [self._value(item, kind.element, path, owner) for item in value]
        if isinstance(kind, Struct):
            return self.known(value, kind, path, owner if kind.has_decoder else "")
        return value


def _fits(value: Any, kind: Scalar | Slice | Struct) -> bool:
    """Return whether JSON of this kind goes into a Go type."""
    shown = _kind(value)
    if isinstance(kind, Slice):
        return shown == "array"
    if isinstance(kind, Struct):
        return shown == "object"
    if kind is INT and isinstance(value, float):
        return False
    return kind.kind in ("", shown)


def _kind(value: Any) -> str:
    """Return Go's word for the kind of a JSON value."""
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"

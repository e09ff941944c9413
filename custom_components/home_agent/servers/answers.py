"""The one place where the shape of a server's answer is checked."""

from collections.abc import Sequence
import json
import math
from typing import Final, Self, cast

from .errors import MalformedAnswer
from .http import HttpClient
from .json_text import parse_json
from .messages import JsonObject

_LARGEST_NUMBER: Final = 1e300
# Figures beyond these are a fault of the server: tokens, and seconds (12 days).
_MOST_TOKENS: Final = 10**9
_MOST_SECONDS: Final = 1e6
_TYPE_NAMES: Final = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a text",
}


class Answer:
    """A JSON object of a server's answer, or one inside it.

    Its readers check the type of a field and raise MalformedAnswer, with the
    path of the field, where the server sent something else. A field that is
    null counts as absent. Numbers are the exception: none of them is worth an
    answer, so whatever is not a number counts as not reported.
    """

    __slots__ = ("_data", "_host", "_path")

    def __init__(self, host: str, data: object, path: str = "") -> None:
        """Check that data, as parsed from JSON, is an object.

        host and path say in an error where it came from; path is "" for the
        whole answer.
        """
        if not isinstance(data, dict):
            where = path or "the answer"
            raise MalformedAnswer(host, f"{where} is {_shown(data)}, not an object")
        self._data: dict[str, object] = data
        self._host = host
        self._path = path

    def text(self, key: str) -> str:
        """Return a text that must be there."""
        if (value := self.optional_text(key)) is None:
            raise self.malformed(key, "a text")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a text, None if it is absent."""
        value = self._data.get(key)
        if value is not None and not isinstance(value, str):
            raise self.malformed(key, "a text")
        return value

    def texts(self, key: str) -> list[str] | None:
        """Return a list of texts, None if it is absent."""
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.malformed(key, "a list of texts")
        return value

    def number(self, key: str) -> float | None:
        """Return a finite number, None if the server does not report one."""
        value = self._data.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value if -_LARGEST_NUMBER < value < _LARGEST_NUMBER else None

    def integer(self, key: str) -> int | None:
        """Return a whole number, None if the server does not report one."""
        value = self.number(key)
        return None if value is None or value != int(value) else int(value)

    def count(self, key: str) -> int | None:
        """Return a number of tokens, None if the server does not report a sane one."""
        value = self.integer(key)
        return None if value is None or not 0 <= value <= _MOST_TOKENS else value

    def seconds(self, key: str, *, per_second: float) -> float | None:
        """Return a duration in seconds, None if the server does not report a sane one.

        per_second is how many of the server's units are a second.
        """
        if (value := self.number(key)) is None:
            return None
        seconds = value / per_second
        return seconds if 0 <= seconds <= _MOST_SECONDS else None

    def flag(self, key: str) -> bool:
        """Return whether a field is true; False if it is absent."""
        value = self._data.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.malformed(key, "true or false")
        return bool(value)

    def optional_object(self, key: str) -> Self | None:
        """Return an object inside this one, None if it is absent."""
        value = self._data.get(key)
        if value is None:
            return None
        return type(self)(self._host, value, self._inside(key))

    def figures(self, key: str) -> Self | None:
        """Return an object of numbers, None if the server does not report one.

        Like a number, it is not worth an answer: any other type counts as absent.
        """
        return self.optional_object(key) if isinstance(self.value(key), dict) else None

    def objects(self, key: str) -> list[Self]:
        """Return a list of objects, an empty one if it is absent."""
        value = self._data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.malformed(key, "a list")
        return [
            type(self)(self._host, item, f"{self._inside(key)}[{position}]")
            for position, item in enumerate(value)
        ]

    def first_token_logprobs(self, key: str) -> dict[str, float]:
        """Return the log probabilities of the likeliest first tokens, by token.

        key is a list with an item for each token of an answer. Ollama (0.12.11 and
        newer) and OpenAI have the same form. {} if there is nothing in this form: like
        a number, it is not worth an answer.
        """
        try:
            tokens = self.objects(key)
            found = tokens[0].objects("top_logprobs") if tokens else []
            return {
                item.text("token"): logprob
                for item in found
                if (logprob := item.number("logprob")) is not None
            }
        except MalformedAnswer:
            return {}

    def value(self, key: str) -> object:
        """Return a field of any type, None if it is absent."""
        return self._data.get(key)

    def vectors(self, key: str, count: int) -> list[list[float]]:
        """Return the list of as many vectors as there are texts."""
        value = self._data.get(key)
        if not isinstance(value, list):
            raise self.malformed(key, "a list of vectors")
        return self.checked_vectors(key, value, count)

    def checked_vectors(
        self, key: str, vectors: Sequence[object], count: int
    ) -> list[list[float]]:
        """Return vectors that can be compared with each other.

        Raise MalformedAnswer if there are not count of them, if they differ in
        length, or if one is empty, all zero, or has a value that is no finite
        number.
        """
        if len(vectors) != count:
            raise self.malformed(key, f"{count} vectors but {len(vectors)}")
        lengths = set()
        for vector in vectors:
            if not isinstance(vector, list) or not _is_usable(vector):
                raise self.malformed(key, "a list of vectors of finite numbers")
            lengths.add(len(vector))
        if len(lengths) > 1:
            raise self.malformed(key, "a list of vectors of one length")
        return cast("list[list[float]]", vectors)

    def malformed(self, key: str, expected: str) -> MalformedAnswer:
        """Return the error for a field that is not what was expected."""
        shown = _shown(self._data.get(key))
        detail = f"{self._inside(key)} is {shown}, not {expected}"
        return MalformedAnswer(self._host, detail)

    def _inside(self, key: str) -> str:
        """Return the path of a field."""
        return f"{self._path}.{key}" if self._path else key


def checked_answer(http: HttpClient, data: object) -> Answer:
    """Return the JSON that a server answered, once it is known to be no error.

    Several servers report an error with status 200 or in the middle of a
    stream, as {"error": "text"} or {"error": {"message": "text"}}.
    """
    answer = Answer(http.host, data)
    error = answer.value("error")
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        raise http.error(str(message or error))
    return answer


def parse_arguments(value: object) -> JsonObject | None:
    """Return the arguments of a tool call, None if they are no JSON object.

    OpenAI's API has them as a text, Ollama's as an object. No arguments at all
    are an empty object. Arguments with NaN or Infinity are no JSON.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = parse_json(value.encode(errors="replace")) if value.strip() else {}
        except ValueError:
            return None
    return value if isinstance(value, dict) and _is_json(value) else None


def _is_json(value: JsonObject) -> bool:
    """Return whether a value can be written as JSON: NaN and Infinity cannot."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError, RecursionError:
        return False
    return True


def _is_usable(vector: list[object]) -> bool:
    """Return whether a vector has finite numbers and is not all zero."""
    try:
        return any(vector) and all(map(math.isfinite, cast("list[float]", vector)))
    except TypeError, OverflowError:
        return False


def _shown(value: object) -> str:
    """Return what kind of JSON value this is, for an error."""
    return "absent or null" if value is None else _TYPE_NAMES.get(type(value), "odd")

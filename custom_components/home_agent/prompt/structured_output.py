"""The structure that an answer must have: its schema, and whether an answer fits."""

import re
from typing import Any, Final

from homeassistant.helpers import llm
from homeassistant.helpers.json import json_dumps
from homeassistant.util.json import JSON_DECODE_EXCEPTIONS, json_loads
import probatio as vol

from ..servers.messages import JsonObject

_INSTRUCTION: Final = (
    "Answer with nothing but JSON that fits this JSON schema, without comments and"
    " without a code block: {schema}"
)
_REPAIR_REQUEST: Final = (
    "Your answer does not fit the JSON schema: {fault}. Answer again with nothing but"
    " the corrected JSON."
)
# Small models put their JSON into a code block all the same.
_CODE_BLOCK: Final = re.compile(r"^\s*```\w*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)

# What some selectors raise for a value whose type they do not check.
_UNCHECKED: Final = (AttributeError, LookupError, TypeError, ValueError)


class StructureMismatch(Exception):
    """An answer does not fit its structure; the text is the reason, for the model."""


class StructuredOutput:
    """The structure of an answer, given by Home Assistant as a schema."""

    def __init__(
        self, structure: vol.Schema, llm_api: llm.APIInstance | None = None
    ) -> None:
        """Take a structure; an LLM API has a serializer of its own for selectors."""
        self._structure = structure
        serializer = llm_api.custom_serializer if llm_api else None
        self.json_schema: JsonObject = vol.to_openapi(
            structure,
            custom_serializer=serializer or llm.selector_serializer,
            openapi_version="3.1.0",
        )

    @property
    def instruction(self) -> str:
        """Return what the model is asked for.

        The server makes the answer fit the schema, but shows it to no model: the
        descriptions of the fields would be lost.
        """
        return _INSTRUCTION.format(schema=json_dumps(self.json_schema))

    def parse(self, answer: str) -> Any:
        """Return the data of an answer; raise a StructureMismatch if it does not fit.

        A number stays as the model wrote it: selectors make 7.0 of 7. They also turn
        any text into a boolean, and digits into a number. That is a mismatch: the
        schema asks for another type.
        """
        if block := _CODE_BLOCK.match(answer):
            answer = block[1]
        try:
            data = json_loads(answer)
        except JSON_DECODE_EXCEPTIONS as err:
            raise StructureMismatch("it is not JSON") from err
        try:
            fitted = self._structure(data)
        except vol.MultipleInvalid as err:
            raise StructureMismatch("; ".join(map(str, err.errors))) from err
        except vol.Invalid as err:
            raise StructureMismatch(str(err)) from err
        except _UNCHECKED as err:
            raise StructureMismatch("a value has the wrong type") from err
        if isinstance(data, dict) and isinstance(fitted, dict):
            wrong = [key for key in data if not _is_same(data[key], fitted.get(key))]
            if wrong:
                raise StructureMismatch(f"wrong type of {', '.join(wrong)}")
            return fitted | data
        return data if data == fitted else fitted

    def fault(self, answer: str) -> str | None:
        """Return why an answer does not fit, None if it does."""
        try:
            self.parse(answer)
        except StructureMismatch as err:
            return str(err)
        return None

    @staticmethod
    def repair_request(fault: str) -> str:
        """Return the message that asks for a corrected answer."""
        return _REPAIR_REQUEST.format(fault=fault)


def _is_same(value: Any, fitted: Any) -> bool:
    """Return whether a value is what a selector has made of it.

    For Python, True equals 1: for a schema, a boolean is no number.
    """
    is_boolean = isinstance(value, bool) is isinstance(fitted, bool)
    return is_boolean and bool(value == fitted)

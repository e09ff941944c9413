"""hassfest's rules for translations/en.json (script/hassfest/translations.py)."""

from collections.abc import Callable
import re
from string import Formatter
from typing import Any, Final

from homeassistant.helpers import config_validation as cv
import probatio as vol

# Small letters and digits, single separators between them.
_KEY: Final = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
_REFERENCE: Final = re.compile(r".\[%|%\].")
_QUOTED_PLACEHOLDER: Final = re.compile(r"'\{\w+\}'")
# An address with a top level domain; an IP address is allowed.
_URL: Final = re.compile(
    r"(?:\b(?:ftps?|scp|https?|mqtts?|socket|socks5)://|www\.)"
    r"[a-z0-9]+(?:[-.][a-z0-9]+)*\.[a-z]{2,5}",
    re.IGNORECASE,
)

type Rule = Callable[[Any], Any]


def key(value: str) -> str:
    """Check a key of a text: an option, a state, a field of an action."""
    if not _KEY.fullmatch(value):
        raise vol.Invalid(f"{value!r} is not a translation key")
    return value


def placeholders(value: str) -> set[str]:
    """Return the placeholders of a text; raise Invalid if the braces are not valid."""
    try:
        names = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
    except ValueError as err:
        raise vol.Invalid(str(err)) from err
    for name in names:
        if not name.isidentifier():
            raise vol.Invalid(f"{{{name}}} is not a placeholder")
    return names


def text(value: object) -> str:
    """Check a text that may have placeholders."""
    checked = cv.string_with_no_html(value)
    placeholders(checked)
    if _QUOTED_PLACEHOLDER.search(checked):
        raise vol.Invalid("a placeholder in single quotes is not filled in")
    if _REFERENCE.search(checked):
        raise vol.Invalid("a reference must be the whole text")
    if checked != checked.strip():
        raise vol.Invalid("the text begins or ends with a space")
    if _URL.search(checked):
        raise vol.Invalid("the address of a web page must be a placeholder")
    return checked


def fixed_text(value: object) -> str:
    """Check a text without placeholders: Home Assistant cannot fill them in."""
    if placeholders(checked := text(value)):
        raise vol.Invalid("placeholders are not filled in here")
    return checked


def _by_key(rule: Rule | dict[Any, Any]) -> Rule:
    """Return a rule for texts by their translation key."""
    return cv.schema_with_slug_keys(rule, slug_validator=key)


def _by_slug(rule: Rule | dict[Any, Any]) -> Rule:
    """Return a rule for texts by a slug, which Home Assistant's own function checks."""
    return cv.schema_with_slug_keys(rule, slug_validator=cv.slug)


def _optional(names: str, rule: Any) -> dict[Any, Any]:
    """Return a schema of optional keys with the same rule."""
    return {vol.Optional(name): rule for name in names.split()}


_FIELDS: Final = {str: text}
_STEP: Final = {
    **_optional("title description submit", text),
    **_optional("data data_description menu_options", _FIELDS),
    **_optional("menu_option_descriptions", _FIELDS),
    **_optional(
        "sections",
        {
            str: {
                **_optional("name description", text),
                **_optional("data data_description", _FIELDS),
            }
        },
    ),
}
_DIALOG: Final = {
    vol.Required("step"): {str: _STEP},
    **_optional("flow_title", text),
    **_optional("error abort progress create_entry", _FIELDS),
}


def _described_fields_exist(dialog: dict[str, Any]) -> dict[str, Any]:
    """Check that each description of a field belongs to a field with a label."""
    for name, step in dialog["step"].items():
        unknown = step.get("data_description", {}).keys() - step.get("data", {}).keys()
        if unknown:
            raise vol.Invalid(f"step {name} has no label for {unknown}")
    return dialog


_CONFIG: Final = vol.All(
    {**_DIALOG, **_optional("initiate_flow", {vol.Required("user"): text})},
    _described_fields_exist,
)
_SUBENTRY: Final = vol.All(
    {
        **_DIALOG,
        vol.Required("entry_type"): text,
        vol.Required("initiate_flow"): {vol.Required("user"): text, str: text},
    },
    _described_fields_exist,
)
_FIX_FLOW: Final = vol.All(_DIALOG, _described_fields_exist)
_ISSUE: Final = vol.All(
    {
        vol.Required("title"): text,
        vol.Exclusive("description", "fixable"): text,
        vol.Exclusive("fix_flow", "fixable"): _FIX_FLOW,
    },
    cv.has_at_least_one_key("description", "fix_flow"),
)
_STATES: Final = _by_key(fixed_text)
_ENTITY: Final = {
    **_optional("name", text),
    **_optional("unit_of_measurement", fixed_text),
    **_optional("state", _STATES),
    **_optional(
        "state_attributes",
        _by_key({**_optional("name", fixed_text), **_optional("state", _STATES)}),
    ),
}
_SELECTOR_FIELD: Final = {vol.Required("name"): str, **_optional("description", text)}
_SELECTOR: Final = {
    **_optional("options choices unit_of_measurement", _by_key(text)),
    **_optional("fields", vol.Any(_by_slug(str), _by_key(_SELECTOR_FIELD))),
}
_ACTION: Final = {
    vol.Required("name"): text,
    vol.Required("description"): text,
    **_optional(
        "fields",
        _by_key(
            {vol.Required("name"): str, **_optional("description example", text)},
        ),
    ),
    **_optional("sections", _by_key(_SELECTOR_FIELD)),
}
TEXTS: Final = vol.Schema(
    {
        **_optional("title", text),
        **_optional("config", _CONFIG),
        **_optional("config_subentries", _by_slug(_SUBENTRY)),
        **_optional("options", _FIX_FLOW),
        **_optional("selector", _by_slug(_SELECTOR)),
        **_optional("system_health", _optional("info", _by_key(text))),
        **_optional("issues", {str: _ISSUE}),
        **_optional("device", _by_key(_optional("name", text))),
        **_optional("entity", _by_slug(_by_key(_ENTITY))),
        **_optional("exceptions", _by_slug(_optional("message", text))),
        **_optional("services", _by_key(_ACTION)),
        **_optional("common", _by_slug(text)),
        **_optional("conversation", {"agent": {vol.Required("done"): text}}),
    }
)

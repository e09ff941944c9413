"""hassfest's rules for icons.json, services.yaml and what the code imports.

Sources: hassfest's icons.py, services.py, dependencies.py and config_schema.py.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from homeassistant.const import Platform
from homeassistant.helpers import config_validation as cv, selector
import probatio as vol

from .texts import key


def _icon(value: object) -> str:
    """Check the name of an icon."""
    checked = cv.string_with_no_html(value)
    if not checked.startswith("mdi:"):
        raise vol.Invalid(f"{checked} does not begin with mdi:")
    return checked


def _ascending(icons: dict[str, str]) -> dict[str, str]:
    """Check the lower limits of a range: numbers in ascending order."""
    limits = [float(limit) for limit in icons]
    if limits != sorted(limits):
        raise vol.Invalid("the limits of a range must ascend")
    return icons


def _states_differ(icons: dict[str, Any]) -> dict[str, Any]:
    """Check that no state repeats the icon that it would have anyway."""
    if icons.get("default") in icons.get("state", {}).values():
        raise vol.Invalid("a state has the same icon as the default")
    return icons


def _by_key(rule: Any) -> Any:
    """Return a rule for values by their translation key."""
    return cv.schema_with_slug_keys(rule, slug_validator=key)


_ICONS_OF_STATES: Final = {
    vol.Optional("default"): _icon,
    vol.Optional("state"): _by_key(_icon),
    vol.Optional("range"): vol.All({str: _icon}, _ascending),
}
_ICONS_OF_AN_ENTITY: Final = vol.All(
    {
        **_ICONS_OF_STATES,
        vol.Optional("state_attributes"): _by_key(
            vol.All(_ICONS_OF_STATES, _states_differ)
        ),
    },
    _states_differ,
)
_ICONS_OF_SECTIONS: Final = {"step": {str: {"sections": {str: _icon}}}}
ICONS: Final = vol.Schema(
    {
        vol.Optional("entity"): cv.schema_with_slug_keys(_by_key(_ICONS_OF_AN_ENTITY)),
        vol.Optional("services"): _by_key(
            {
                vol.Optional("service"): _icon,
                vol.Optional("sections"): _by_key(_icon),
            }
        ),
        vol.Optional("config"): _ICONS_OF_SECTIONS,
        vol.Optional("options"): _ICONS_OF_SECTIONS,
        vol.Optional("issues"): {str: {"fix_flow": _ICONS_OF_SECTIONS}},
    }
)


def _present(value: object) -> object:
    """Check that there is a value."""
    if value is None:
        raise vol.Invalid("a value is missing")
    return value


_FIELD: Final = {
    vol.Optional("example"): _present,
    vol.Optional("default"): _present,
    vol.Optional("required"): bool,
    vol.Optional("selector"): selector.validate_selector,
}
# An action without a target must not filter its fields.
ACTIONS: Final = vol.Schema(
    {
        cv.slug: vol.Any(
            {
                vol.Optional("fields"): {
                    str: vol.Any(
                        _FIELD,
                        {
                            vol.Optional("collapsed"): bool,
                            vol.Required("fields"): {str: _FIELD},
                        },
                    )
                }
            },
            None,
        )
    }
)

# Integrations that may be imported without naming them in the manifest, besides the
# platforms. hassfest has some more; none of them is needed here.
_ALWAYS_THERE: Final = {"conversation", "homeassistant", "script", "automation"}


def undeclared_imports(package: Path, manifest: dict[str, Any]) -> set[str]:
    """Return the integrations that the code imports and the manifest does not name.

    A platform file of another integration (repairs.py) may import that integration.
    """
    allowed = {*Platform, *_ALWAYS_THERE}
    allowed |= {*manifest["dependencies"], *manifest["after_dependencies"]}
    return {
        domain
        for path in package.rglob("*.py")
        for domain in _imported_integrations(ast.parse(path.read_text()))
        if domain not in allowed and not (package / f"{domain}.py").is_file()
    }


def _imported_integrations(module: ast.Module) -> Iterator[str]:
    """Yield the integrations of Home Assistant that a module imports."""
    prefix = "homeassistant.components"
    for node in ast.walk(module):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith(f"{prefix}."):
                yield name.removeprefix(f"{prefix}.").partition(".")[0]


def has_config_schema(module: ast.Module) -> bool:
    """Return whether a package with async_setup says what may stand in YAML for it."""
    names = {
        target.id
        for node in module.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    functions = {
        node.name for node in module.body if isinstance(node, ast.AsyncFunctionDef)
    }
    return "async_setup" not in functions or "CONFIG_SCHEMA" in names

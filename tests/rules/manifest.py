"""The rules of hassfest and HACS for manifest.json and hacs.json.

Sources: hassfest's manifest.py, codeowners.py and requirements.py; HACS's
utils/validate.py.
"""

import json
from pathlib import Path
import re
from typing import Any, Final
from urllib.parse import urlsplit

from awesomeversion import (
    AwesomeVersion,
    AwesomeVersionException,
    AwesomeVersionStrategy,
)
from homeassistant import components
import probatio as vol

_CORE_PAGES: Final = "https://www.home-assistant.io/integrations"
_VERSIONS: Final = [
    AwesomeVersionStrategy.BUILDVER,
    AwesomeVersionStrategy.CALVER,
    AwesomeVersionStrategy.PEP440,
    AwesomeVersionStrategy.SEMVER,
    AwesomeVersionStrategy.SIMPLEVER,
]
_REQUIREMENT: Final = re.compile(r"[\w.,\[\]-]+(?:[=<>!~]+\S+)?")


def _url(value: str) -> str:
    """Check an address that a browser can open."""
    if urlsplit(value).scheme != "https" or not urlsplit(value).netloc:
        raise vol.Invalid(f"{value} is not an https address")
    return value


def _documentation(value: str) -> str:
    """Check that the documentation is the integration's own."""
    if value.startswith(_CORE_PAGES):
        raise vol.Invalid("this is the documentation of an integration of the core")
    return _url(value)


def _version(value: str) -> str:
    """Check a version; Home Assistant does not load an integration without one."""
    try:
        AwesomeVersion(value, ensure_strategy=_VERSIONS)
    except AwesomeVersionException as err:
        raise vol.Invalid(str(err)) from err
    return value


def _code_owner(value: str) -> str:
    """Check the name of a user or an organization on GitHub."""
    if not re.fullmatch(r"@[A-Za-z0-9-]+(?:/[A-Za-z0-9-]+)?", value):
        raise vol.Invalid(f"{value} is not a name on GitHub")
    return value


def _requirement(value: str) -> str:
    """Check a requirement: a custom integration need not pin it."""
    if not _REQUIREMENT.fullmatch(value):
        raise vol.Invalid(f"{value!r} is not a requirement")
    return value


def _known(group: str) -> list[str] | None:
    """Return the values that the installed Home Assistant has an icon for.

    None before 2026.11, which reads neither categories nor connectivity.
    """
    path = Path(components.__path__[0]) / "homeassistant" / "icons.json"
    icons: dict[str, Any] = json.loads(path.read_text()).get(group)
    if icons is None:
        return None
    return [
        name
        for key, icon in icons.items()
        for name in (key, *(f"{key}.{sub}" for sub in icon.get("subcategory", ())))
    ]


def _one_of(group: str) -> Any:
    """Return a rule for a value that Home Assistant shows with an icon."""
    return str if (known := _known(group)) is None else vol.In(known)


# Only the keys that Home Agent can have: it is not found by discovery.
MANIFEST: Final = vol.Schema(
    {
        vol.Required("domain"): str,
        vol.Required("name"): str,
        vol.Required("codeowners"): vol.All([_code_owner], vol.Length(min=1)),
        vol.Required("documentation"): _documentation,
        # HACS wants these two, hassfest wants the version.
        vol.Required("issue_tracker"): _url,
        vol.Required("version"): _version,
        vol.Required("iot_class"): vol.In(
            {
                *("assumed_state", "calculated", "cloud_polling", "cloud_push"),
                *("local_polling", "local_push"),
            }
        ),
        vol.Optional("after_dependencies"): [str],
        vol.Optional("categories"): [_one_of("integration_category")],
        vol.Optional("config_flow"): bool,
        vol.Optional("connectivity"): [_one_of("integration_connectivity")],
        vol.Optional("dependencies"): [str],
        vol.Optional("import_executor"): bool,
        vol.Optional("integration_type"): vol.In(
            {"device", "entity", "hardware", "helper", "hub", "service", "system"}
        ),
        vol.Optional("loggers"): [str],
        vol.Optional("quality_scale"): vol.In(
            {
                *("bronze", "silver", "gold", "platinum"),
                *("custom", "internal", "legacy", "no_score"),
            }
        ),
        vol.Optional("requirements"): [_requirement],
        vol.Optional("single_config_entry"): bool,
    }
)

# HACS refuses any other key. It also takes country, hacs and render_readme.
HACS: Final = vol.Schema(
    {
        vol.Required("name"): str,
        vol.Optional("content_in_root"): bool,
        vol.Optional("filename"): str,
        vol.Optional("hide_default_branch"): bool,
        vol.Optional("homeassistant"): _version,
        vol.Optional("persistent_directory"): str,
        vol.Optional("zip_release"): bool,
    }
)


def sorted_keys(manifest: dict[str, Any]) -> list[str]:
    """Return the keys in the order that hassfest wants."""
    return ["domain", "name", *sorted(manifest.keys() - {"domain", "name"})]

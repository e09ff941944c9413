"""The integration keeps the rules of hassfest and HACS, without their actions."""

import ast
from importlib.util import find_spec
import json
from pathlib import Path
import re
import struct
from typing import Any, Final

from homeassistant import components
from homeassistant.const import Platform
import probatio as vol
import pytest
import yaml

import custom_components.home_agent
from custom_components.home_agent.const import DOMAIN
from tests.rules.files import ACTIONS, ICONS, has_config_schema, undeclared_imports
from tests.rules.manifest import HACS, MANIFEST, sorted_keys
from tests.rules.texts import TEXTS

PACKAGE: Final = Path(custom_components.home_agent.__file__).parent
ROOT: Final = PACKAGE.parent.parent
CORE: Final = Path(components.__path__[0])


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; raise if a key stands in it twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)


MANIFEST_JSON: Final[dict[str, Any]] = read_json(PACKAGE / "manifest.json")
TEXTS_JSON: Final[dict[str, Any]] = read_json(PACKAGE / "translations" / "en.json")
ICONS_JSON: Final[dict[str, Any]] = read_json(PACKAGE / "icons.json")
ACTIONS_YAML: Final[dict[str, Any]] = yaml.safe_load(
    (PACKAGE / "services.yaml").read_text()
)


def test_manifest() -> None:
    """The manifest has what both require, nothing unknown, in hassfest's order."""
    MANIFEST(MANIFEST_JSON)
    assert list(MANIFEST_JSON) == sorted_keys(MANIFEST_JSON)
    # A pinned requirement would conflict with a release of Home Assistant.
    assert not re.search(r"[=<>]", str(MANIFEST_JSON["requirements"]))
    assert MANIFEST_JSON["domain"] == PACKAGE.name == DOMAIN
    assert not (CORE / DOMAIN).exists()


def test_marketplace_of_2026_11_shows_the_integration() -> None:
    """It is sorted by these; 2026.10 does not read them."""
    assert MANIFEST_JSON["categories"] == ["ai_voice.ai_models"]
    assert MANIFEST_JSON["connectivity"] == ["network", "cloud"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("homeassistant", "2026.10.0"),
        ("version", "latest"),
        ("documentation", "https://www.home-assistant.io/integrations/home_agent"),
        ("documentation", "http://example.com"),
        ("codeowners", ["home-agent"]),
        ("codeowners", []),
        ("iot_class", "local"),
        ("integration_type", "agent"),
        ("requirements", ["numpy >= 2"]),
    ],
)
def test_manifest_refused(key: str, value: object) -> None:
    """The rules refuse what hassfest and HACS refuse."""
    with pytest.raises(vol.Invalid):
        MANIFEST({**MANIFEST_JSON, key: value})


def test_texts() -> None:
    """The English texts have the form that hassfest wants."""
    TEXTS(TEXTS_JSON)


@pytest.mark.parametrize(
    "peer", ["ollama", "openai_conversation", "anthropic", "litellm"]
)
def test_texts_of_home_assistant(peer: str) -> None:
    """The rules accept what Home Assistant's own integrations have."""
    TEXTS(json.loads((CORE / peer / "strings.json").read_text()))


@pytest.mark.parametrize(
    "texts",
    [
        # The form that ten texts of this integration had.
        {"selector": {"own_rules_vllm": {"value": "its own settings"}}},
        {"selector": {"mode": {"options": {"Big": "Big"}}}},
        {"selector": {"mode": {"options": {"two__parts": "Two"}}}},
        {"selector": {"number": {"unit_of_measurement": {"tokens/s": "tokens/s"}}}},
        {"config": {"step": {"user": {"data_description": {"host": "A host"}}}}},
        {"config": {"step": {"user": {"hint": "A hint"}}}},
        {"config": {"error": {"unknown": "It failed"}}},
        {"config_subentries": {"role": {"step": {}}}},
        {"issues": {"gone": {"title": "It is gone"}}},
        {"issues": {"gone": {"title": "A", "description": "B", "fix_flow": {}}}},
        {"services": {"load": {"name": "Load"}}},
        {"exceptions": {"failed": "It failed"}},
        {"exceptions": {"failed": {"message": "Read https://example.com first"}}},
        {"exceptions": {"failed": {"message": "'{model}' is missing"}}},
        {"exceptions": {"failed": {"message": "{0} is missing"}}},
        {"exceptions": {"failed": {"message": "{model is missing"}}},
        {"exceptions": {"failed": {"message": "<b>It failed</b>"}}},
        {"exceptions": {"failed": {"message": "It failed "}}},
        {"entity": {"sensor": {"busy": {"state": {"on": "On {host}"}}}}},
        {"spoken": {"done": "Done"}},
    ],
)
def test_texts_refused(texts: dict[str, Any]) -> None:
    """The rules refuse what hassfest refuses."""
    with pytest.raises(vol.Invalid):
        TEXTS(texts)


def test_icons() -> None:
    """The icons have the form that hassfest wants, and they exist."""
    ICONS(ICONS_JSON)
    if (frontend := find_spec("hass_frontend")) is None or frontend.origin is None:
        return
    known = Path(frontend.origin).parent / "static" / "mdi" / "iconList.json"
    names = {icon["name"] for icon in json.loads(known.read_text())}
    used = re.findall(r"mdi:([\w-]+)", json.dumps(ICONS_JSON))
    assert set(used) <= names


@pytest.mark.parametrize(
    "icons",
    [
        {"entity": {"sensor": {"memory": {"default": "memory"}}}},
        {
            "entity": {
                "sensor": {"a": {"default": "mdi:a", "state": {"on": "mdi:a"}}},
            }
        },
        {"entity": {"sensor": {"a": {"range": {"9": "mdi:a", "1": "mdi:b"}}}}},
        {"services": {"load": {"icon": "mdi:a"}}},
    ],
)
def test_icons_refused(icons: dict[str, Any]) -> None:
    """The rules refuse what hassfest refuses."""
    with pytest.raises(vol.Invalid):
        ICONS(icons)


def test_actions() -> None:
    """Each action has a form, a name, a description and an icon, its fields too."""
    ACTIONS(ACTIONS_YAML)
    texts = TEXTS_JSON["services"]
    assert ACTIONS_YAML.keys() == texts.keys() == ICONS_JSON["services"].keys()
    for name, action in ACTIONS_YAML.items():
        assert action["fields"].keys() == texts[name]["fields"].keys()
        for field in texts[name]["fields"].values():
            assert field.keys() == {"name", "description"}
        keys = re.findall(r"'translation_key': '(\w+)'", str(action))
        assert TEXTS_JSON["selector"].keys() >= set(keys)


@pytest.mark.parametrize(
    "field",
    [
        {"selector": {"number": {"min": "few"}}},
        {"selector": {"unheard_of": {}}},
        {"example": None},
        {"filter": {"supported_features": []}},
        {"advanced": "yes"},
    ],
)
def test_actions_refused(field: dict[str, Any]) -> None:
    """The rules refuse what hassfest refuses."""
    with pytest.raises(vol.Invalid):
        ACTIONS({"load": {"fields": {"model": field}}})


def test_imports_are_declared() -> None:
    """Integrations that the code imports are set up before it, or installed."""
    assert not undeclared_imports(PACKAGE, MANIFEST_JSON)
    nothing: dict[str, list[str]] = {"dependencies": [], "after_dependencies": []}
    assert undeclared_imports(PACKAGE, nothing) == {"assist_pipeline"}
    named = {*MANIFEST_JSON["dependencies"], *MANIFEST_JSON["after_dependencies"]}
    assert all((CORE / name).is_dir() for name in named)
    assert has_config_schema(ast.parse((PACKAGE / "__init__.py").read_text()))
    assert not has_config_schema(ast.parse("async def async_setup(): ..."))


@pytest.mark.parametrize(
    "path",
    [path for path in PACKAGE.glob("*.py") if path.stem in set(Platform)],
    ids=lambda path: path.stem,
)
def test_parallel_updates_are_set(path: Path) -> None:
    """Each platform of entities says how many updates may run at once."""
    assert re.search(r"^PARALLEL_UPDATES = \d", path.read_text(), re.MULTILINE)


def test_hacs_json() -> None:
    """It has no key that HACS does not know; a zip file needs its name."""
    hacs = read_json(ROOT / "hacs.json")
    HACS(hacs)
    assert hacs["zip_release"]
    assert hacs["filename"].endswith(".zip")
    release = (ROOT / ".github" / "workflows" / "release.yaml").read_text()
    assert hacs["filename"] in release
    with pytest.raises(vol.Invalid):
        HACS({**hacs, "domains": ["conversation"]})


def test_hacs_finds_what_it_shows() -> None:
    """One integration, a README with content, a license and pictures in the package."""
    folders = [path.parent.name for path in PACKAGE.parent.glob("*/manifest.json")]
    assert folders == [DOMAIN]
    assert len((ROOT / "README.md").read_text()) > 1000
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    validate = yaml.safe_load((ROOT / ".github/workflows/validate.yaml").read_text())
    steps = [step for job in validate["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert "hacs/action@main" in used
    assert "home-assistant/actions/hassfest@master" in used
    assert not any("ignore" in step.get("with", {}) for step in steps)


@pytest.mark.parametrize(
    ("name", "size"),
    [("icon.png", (256, 256)), ("icon@2x.png", (512, 512))],
)
def test_brand_icons(name: str, size: tuple[int, int]) -> None:
    """They are PNG files of the sizes that Home Assistant shows."""
    data = (PACKAGE / "brand" / name).read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == size


def test_brand_logos() -> None:
    """The shorter side of a logo has 128 to 256 pixels; there are no other files."""
    allowed = {
        f"{theme}{kind}{scale}.png"
        for theme in ("", "dark_")
        for kind in ("icon", "logo")
        for scale in ("", "@2x")
    }
    assert {path.name for path in (PACKAGE / "brand").iterdir()} <= allowed
    for name in ("logo.png", "dark_logo.png"):
        data = (PACKAGE / "brand" / name).read_bytes()
        assert 128 <= min(struct.unpack(">II", data[16:24])) <= 256

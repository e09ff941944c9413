"""quality_scale.yaml is complete, and the evidence that it names exists."""

import ast
from pathlib import Path
import re
from typing import Any, Final

from homeassistant import components
import probatio as vol
import pytest
import yaml

import custom_components.home_agent

PACKAGE: Final = Path(custom_components.home_agent.__file__).parent
ROOT: Final = PACKAGE.parent.parent
TIERS: Final = ("Bronze", "Silver", "Gold", "Platinum")
TEXT: Final = (PACKAGE / "quality_scale.yaml").read_text()
RULES: Final[dict[str, dict[str, str]]] = yaml.safe_load(TEXT)["rules"]
# The form that hassfest wants of Home Assistant's own integrations (quality_scale.py).
SCHEMA: Final = vol.Schema(
    {
        str: {
            vol.Required("status"): vol.In({"done", "exempt", "todo"}),
            vol.Required("comment"): vol.All(str, vol.Length(min=1)),
        }
    }
)


def evidence(rule: str) -> list[str]:
    """Return the files, headings and tests that a rule's comment names."""
    return re.findall(r"`([^`]+)`", RULES[rule]["comment"])


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    return {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    }


def names_of_tests(path: Path) -> set[str]:
    """Return the names of the tests in a module."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def test_every_rule_is_there_in_its_tier() -> None:
    """The rules are those that Home Assistant's own platinum integration has."""
    SCHEMA(RULES)
    peer = Path(components.__path__[0]) / "anthropic" / "quality_scale.yaml"
    rules: dict[str, Any] = yaml.safe_load(peer.read_text())["rules"]
    assert RULES.keys() == rules.keys()
    assert tuple(re.findall(r"^  # (\w+)$", TEXT, re.MULTILINE)) == TIERS
    assert tiers(TEXT) == tiers(peer.read_text())


def tiers(text: str) -> dict[str, str]:
    """Return the tier of each rule, by the comments between them."""
    found: dict[str, str] = {}
    tier = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"  # (\w+)", line):
            tier = match[1]
        elif match := re.fullmatch(r"  ([a-z-]+):.*", line):
            found[match[1]] = tier
    return found


@pytest.mark.parametrize("rule", RULES)
def test_evidence(rule: str) -> None:
    """A rule that is kept names what shows it; one that is not says why."""
    named = evidence(rule)
    assert bool(named) is (RULES[rule]["status"] == "done")
    for item in named:
        name, heading, anchor = item.partition("#")
        name, test, function = name.partition("::")
        path = ROOT / name
        assert path.is_file(), item
        assert not heading or anchor in anchors(path), item
        assert not test or function in names_of_tests(path), item
    if RULES[rule]["status"] != "done":
        assert len(RULES[rule]["comment"].split()) >= 4

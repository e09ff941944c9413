"""Every text that is shown exists, and nothing else is kept."""

import ast
import json
from pathlib import Path
import re
import sys
from typing import Any

import pytest
import yaml

import custom_components.home_agent
from custom_components.home_agent import button, sensor
from custom_components.home_agent.dialogs import fields as forms
from custom_components.home_agent.model.role import Role
from custom_components.home_agent.prompt.entity_mode import EntityMode
from custom_components.home_agent.residency import state as residency
from custom_components.home_agent.servers import errors
from custom_components.home_agent.servers.base import ServerKind
from custom_components.home_agent.servers.factory import takes_keep_alive

FOLDER = Path(custom_components.home_agent.__file__).parent
TEXTS: dict[str, Any] = json.loads((FOLDER / "translations/en.json").read_text())


def sources() -> str:
    """Return all code of the integration."""
    return "\n".join(path.read_text() for path in sorted(FOLDER.rglob("*.py")))


def names(fields: forms.Fields) -> set[str]:
    """Return the names of fields that are no sections."""
    return {str(k.schema) for k, v in fields.items() if not hasattr(v, "options")}


def section_names(fields: forms.Fields, name: str) -> set[str]:
    """Return the names of the fields in a section."""
    (found,) = (v for k, v in fields.items() if k.schema == name)
    return {str(marker.schema) for marker in found.schema.schema}


def test_error_texts() -> None:
    """Each exception has its text, and no text is left over."""
    keys = {
        error.key
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.ModelServerError)
    }
    keys |= set(re.findall(r'translation_key="(\w+)"', sources()))
    # These are the keys of lists of choices, and of entities.
    keys -= TEXTS["selector"].keys() | TEXTS["entity"]["sensor"].keys()
    assert keys == TEXTS["exceptions"].keys()


def test_dialog_errors() -> None:
    """Each error of a role has a text, with the section's name before it."""
    own = {key for key in TEXTS["config"]["error"] if not key.startswith(("ex", "em"))}
    for role in (Role.EXTERNAL_LLM, Role.EMBEDDING):
        for key in own:
            text = TEXTS["config"]["error"][f"{role}_{key}"]
            assert text.endswith(TEXTS["config"]["error"][key])
    returned = set(
        re.findall(r'"((?:model|invalid|cannot|host|unknown)_\w+)"', sources())
    )
    assert own <= returned
    for kind, subentry in TEXTS["config_subentries"].items():
        only = {"no_chroma"} if kind == "embedding" else set()
        assert subentry["error"].keys() == own | only


@pytest.mark.parametrize("role", list(Role))
def test_fields_have_labels_and_descriptions(role: Role) -> None:
    """In every dialog of a role."""
    kind = {
        Role.LLM: "conversation",
        Role.EXTERNAL_LLM: "external_llm",
        Role.EMBEDDING: "embedding",
    }[role]
    steps = TEXTS["config_subentries"][kind]["step"]
    fields = forms.model_fields(role, [], required=True, kind=ServerKind.OLLAMA)
    if role is Role.EXTERNAL_LLM:
        fields |= forms.external_llm_fields(ServerKind.OLLAMA)
    elif role is Role.EMBEDDING:
        fields |= forms.embedding_fields()
    advanced = steps["settings"]["sections"]["advanced"]
    assert advanced["data"].keys() == advanced["data_description"].keys()
    assert (
        steps["settings"]["data"].keys() == steps["settings"]["data_description"].keys()
    )
    if role is Role.LLM:
        sampling = names(forms.sampling_fields(role, ServerKind.OLLAMA))
        own = {"max_history", "retrieval_limit", "retrieval_threshold", "tell_time"}
        assert advanced["data"].keys() == sampling | own
        return
    assert steps["settings"]["data"].keys() == names(fields)
    assert advanced["data"].keys() == section_names(fields, "advanced")
    assert steps["server"]["data"].keys() == names(forms.address_fields(role))
    section = TEXTS["config"]["step"]["models"]["sections"][kind]
    expected = names(forms.address_fields(role)) | {
        role.key("model"),
        role.key("keep_alive"),
    }
    assert section["data"].keys() == section["data_description"].keys() == expected


def test_every_kind_of_server_has_its_words() -> None:
    """Its name to choose, and its own rules where keep_alive has no effect."""
    selectors = TEXTS["selector"]
    assert selectors["entity_mode"]["options"].keys() == set(EntityMode)
    kinds = set(ServerKind) - {ServerKind.CLOUD}
    assert selectors["server_kind"]["options"].keys() == {"automatic"} | kinds
    rules = {key for key in selectors if key.startswith("own_rules_")}
    assert rules == {
        f"own_rules_{kind}" for kind in ServerKind if not takes_keep_alive(kind)
    }


def test_keep_alive_says_what_it_is() -> None:
    """What it does, examples, and that it is mainly for Ollama."""
    text = json.dumps(TEXTS)
    descriptions = re.findall(r'"\w*keep_alive": "(How long[^"]*)"', text)
    assert len(descriptions) == 6
    for description in descriptions:
        for part in ("in memory", "30s, 5m or 1h30m", "-1 to never", "Ollama"):
            assert part in description


def test_actions_have_texts_and_icons() -> None:
    """Each action and each of its fields."""
    services = yaml.safe_load((FOLDER / "services.yaml").read_text())
    icons = json.loads((FOLDER / "icons.json").read_text())
    assert services.keys() == TEXTS["services"].keys() == icons["services"].keys()
    for name, service in services.items():
        assert service["fields"].keys() == TEXTS["services"][name]["fields"].keys()


def test_entities_have_names_and_icons() -> None:
    """Each, and each state of a list."""
    icons = json.loads((FOLDER / "icons.json").read_text())["entity"]
    names = TEXTS["entity"]
    assert names.keys() == icons.keys()
    for platform, entities in names.items():
        assert entities.keys() == icons[platform].keys()
        assert all(entity["name"] for entity in entities.values())
    keys = {item.key for item in (*sensor.MODEL_SENSORS, *sensor.TURN_SENSORS)}
    assert names["sensor"].keys() == keys | {
        *("indexed", "memory_held", "memory_rule", "residency"),
    }
    assert names["button"].keys() == {item.key for item in button.BUTTONS}
    states = names["sensor"]["residency"]["state"]
    assert states.keys() == set(residency.ResidencyState)
    rules = names["sensor"]["memory_rule"]["state"]
    assert rules.keys() == set(ServerKind) | {"refused"}
    attribute = names["event"]["residency_change"]["state_attributes"]["event_type"]
    assert attribute["state"].keys() == set(residency.ResidencyEvent)


def test_repairs_have_texts() -> None:
    """Each with the placeholders that are filled in, for each way to fix it."""
    reported = set(re.findall(r'"(\w+)",\s+residency', sources()))
    assert reported == {key.removesuffix("_by_hand") for key in TEXTS["issues"]}
    known = {
        *("cold_starts", "error", "held", "host", "indexed", "keep_alive", "limit"),
        *("minutes", "model", "num_ctx", "others", "seconds", "times", "title"),
        *("tokens", "total"),
    }
    for issue in TEXTS["issues"].values():
        assert ("description" in issue) is not ("fix_flow" in issue)
        assert set(re.findall(r"\{(\w+)\}", json.dumps(issue))) <= known


def test_no_references() -> None:
    """References are resolved when Home Assistant is built; ours would be shown."""
    assert "[%key" not in json.dumps(TEXTS)


def test_manifest() -> None:
    """The order that Home Assistant wants, and nothing pinned."""
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    keys = list(manifest)
    assert keys == ["domain", "name", *sorted(keys[2:])]
    assert not any(re.search(r"[=<>]", item) for item in manifest["requirements"])


def test_no_blocking_client_library() -> None:
    """Only what Home Assistant brings is imported."""
    allowed = {"aiohttp", "homeassistant", "numpy", "probatio", "yarl"}
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in modules:
                top = module.partition(".")[0]
                assert top in allowed | sys.stdlib_module_names, path

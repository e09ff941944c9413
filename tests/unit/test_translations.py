"""Every text that is shown exists, is valid and is plain; no text is left over."""

import ast
from copy import deepcopy
import json
from pathlib import Path
import re
import sys
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.data_entry_flow import section
from homeassistant.generated.languages import LANGUAGES
from homeassistant.helpers.selector import NumberSelector
import pytest

import custom_components.home_agent
from custom_components.home_agent import button, sensor
from custom_components.home_agent.dialogs import fields as forms
from custom_components.home_agent.dialogs.voice_assistants import (
    ISSUE as VOICE_ASSISTANT,
)
from custom_components.home_agent.model.role import Role
from custom_components.home_agent.prompt.entity_mode import EntityMode
from custom_components.home_agent.residency import state as residency
from custom_components.home_agent.servers import errors
from custom_components.home_agent.servers.base import ServerKind
from tests.rules import languages

FOLDER = Path(custom_components.home_agent.__file__).parent
TEXTS: dict[str, Any] = json.loads((FOLDER / "translations/en.json").read_text())


def sources() -> str:
    """Return all code of the integration."""
    return "\n".join(path.read_text() for path in sorted(FOLDER.rglob("*.py")))


def all_texts(value: dict[str, Any]) -> list[str]:
    """Return all texts, however deep they are."""
    return [
        text
        for item in value.values()
        for text in (all_texts(item) if isinstance(item, dict) else [item])
    ]


def names(fields: forms.Fields) -> set[str]:
    """Return the names of the fields that are not sections."""
    return {str(k.schema) for k, v in fields.items() if not hasattr(v, "options")}


def section_names(fields: forms.Fields, name: str) -> set[str]:
    """Return the names of the fields in a section."""
    (found,) = (v for k, v in fields.items() if k.schema == name)
    return {str(marker.schema) for marker in found.schema.schema}


def test_error_texts() -> None:
    """Each exception has a text, and each text belongs to an exception."""
    keys = {
        error.key
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.ModelServerError)
    }
    keys |= set(re.findall(r'translation_key="(\w+)"', sources()))
    # Chosen by an expression, in agent.py and prompt/messages.py.
    keys |= {"answer_too_long", "no_answer"}
    keys |= {"attachment_not_found", "unsupported_attachment"}
    # Chosen in agent.py, conversation.py and spoken.py.
    keys |= {"done", "no_prompt", "turn_failed"}
    # These are the keys of lists of choices, and of entities.
    keys -= TEXTS["selector"].keys() | TEXTS["entity"]["sensor"].keys()
    assert keys == TEXTS["exceptions"].keys()


def test_what_is_spoken_names_no_address() -> None:
    """Nor has it a server's own text: errors of a turn are spoken."""
    found = {
        key: fields
        for key, text in TEXTS["exceptions"].items()
        if (fields := set(re.findall(r"\{(\w+)\}", text["message"])))
    }
    # Actions and tools raise these, not turns.
    only_in_actions = {
        "index_unusable": {"reason"},
        "models_failed": {"models"},
        "no_model_device": {"device"},
    }
    assert found.items() >= only_in_actions.items()
    spoken = [found[key] for key in found.keys() - only_in_actions.keys()]
    assert all(fields <= {"limit", "model", "value"} for fields in spoken)


def test_dialog_errors() -> None:
    """Each error of a role has a text, for a section with its name in front."""
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
        only = {"out_of_range"} | ({"no_chroma"} if kind == "embedding" else set())
        assert subentry["error"].keys() == own | only


@pytest.mark.parametrize("role", list(Role))
def test_fields_have_labels_and_descriptions(role: Role) -> None:
    """Each field has both in every dialog of its role."""
    kind = {
        Role.LLM: "conversation",
        Role.EXTERNAL_LLM: "external_llm",
        Role.EMBEDDING: "embedding",
    }[role]
    steps = TEXTS["config_subentries"][kind]["step"]
    fields = forms.model_fields(role, [], required=True, kind=ServerKind.OLLAMA)
    if role is not Role.LLM:
        fields |= forms.own_server_field(role)
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


def test_fields_of_an_ai_task() -> None:
    """Those of its model, and how it answers."""
    settings = TEXTS["config_subentries"]["ai_task_data"]["step"]["settings"]
    fields = forms.model_fields(Role.LLM, [], required=True, kind=ServerKind.OLLAMA)
    assert settings["data"].keys() == settings["data_description"].keys()
    assert settings["data"].keys() == names(fields)
    own = section_names(forms.ai_task_fields(ServerKind.OLLAMA), "advanced")
    advanced = settings["sections"]["advanced"]
    assert advanced["data"].keys() == advanced["data_description"].keys() == own


def test_every_option_of_a_list_has_a_label() -> None:
    """The presets of a keep_alive are labeled with the value that they stand for."""
    selectors = TEXTS["selector"]
    assert selectors["entity_mode"]["options"].keys() == set(EntityMode)
    kinds = set(ServerKind) - {ServerKind.CLOUD}
    assert selectors["server_kind"]["options"].keys() == {"automatic"} | kinds
    labels = {preset["value"]: preset["label"] for preset in forms.KEEP_ALIVE_PRESETS}
    labels |= selectors["keep_alive"]["options"]
    assert labels.keys() == {"0", "30s", "5m", "30m", "1h", "24h", "-1"}
    for value, label in labels.items():
        assert re.fullmatch(rf"\w[\w ]+ \({value}\)", label)
    assert not selectors["keep_alive"]["options"].keys() & {"-1"}


def units(fields: forms.Fields) -> dict[str, str | None]:
    """Return the unit of each number field, also in sections, None without one."""
    found: dict[str, str | None] = {}
    for marker, field in fields.items():
        if isinstance(field, section):
            found |= units(field.schema.schema)
        elif isinstance(field, NumberSelector):
            found[str(marker.schema)] = field.config.get("unit_of_measurement")
    return found


def test_figures_in_dialogs_have_units(hass: HomeAssistant) -> None:
    """Each number field has a translated unit, except pure numbers."""
    shown = {
        **units(forms.conversation_fields(hass, [], ServerKind.OLLAMA)),
        **units(forms.external_llm_fields(ServerKind.OLLAMA)),
        **units(forms.embedding_fields()),
    }
    without = {name for name, unit in shown.items() if unit is None}
    assert without == {
        f"{role}_{name}"
        for role in ("llm", "external_llm")
        for name in ("temperature", "top_p")
    }
    texts = TEXTS["selector"]["number"]["unit_of_measurement"]
    assert {unit for unit in shown.values() if unit is not None} == texts.keys()


def test_keep_alive_says_what_it_is() -> None:
    """Seven help texts say what it does, give examples, and name Ollama."""
    text = json.dumps(TEXTS["config"]) + json.dumps(TEXTS["config_subentries"])
    descriptions = re.findall(r'"\w*keep_alive": "(How long[^"]*)"', text)
    assert len(descriptions) == 7
    assert set(descriptions) == {
        "How long the model stays loaded after an answer: 5m, 1h30m,"
        " -1 (never unload) or 0 (at once). Empty: 5m. Mainly for Ollama."
    }


def test_units_of_sensors_are_translated() -> None:
    """Words are in the translations; signs of Home Assistant's own are in the code."""
    for sensor_type in (*sensor.MODEL_SENSORS, *sensor.TURN_SENSORS):
        text = TEXTS["entity"]["sensor"][sensor_type.key]
        unit = sensor_type.native_unit_of_measurement
        assert (unit is None) is ("unit_of_measurement" in text)
        assert unit in {None, "B", "s", "%"}
        # Otherwise Home Assistant would not know that the state is a number.
        assert sensor_type.suggested_display_precision is not None


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("translations/*.json")), ids=lambda path: path.stem
)
def test_language(path: Path) -> None:
    """Each language has all texts, with the placeholders, values and form of English.

    A new file in the folder translations is held by this at once.
    """
    assert path.stem in LANGUAGES, "Home Assistant has no language of this name"
    texts = json.loads(path.read_text(encoding="utf-8"))
    assert not languages.faults(TEXTS, texts, is_english=path.stem == "en")


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("translations/*.json")), ids=lambda path: path.stem
)
def test_errors_of_a_first_set_up_say_what_to_do(path: Path) -> None:
    """Somebody who types a wrong address or model reads what to check."""
    texts = json.loads(path.read_text(encoding="utf-8"))
    for part in (texts["config"], *texts["config_subentries"].values()):
        assert "OLLAMA_HOST=0.0.0.0" in part["error"]["cannot_connect"]
        assert "11434" in part["error"]["unknown_server"]
        assert not part["error"]["model_pull_failed"].endswith("{error}")


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("translations/*.json")), ids=lambda path: path.stem
)
def test_every_way_to_learn_about_the_home_is_explained(path: Path) -> None:
    """The help text names each option as the list names it."""
    texts = json.loads(path.read_text(encoding="utf-8"))
    step = texts["config_subentries"]["conversation"]["step"]["settings"]
    explained = step["data_description"]["entity_mode"]
    for label in texts["selector"]["entity_mode"]["options"].values():
        assert label in explained
    assert step["sections"]["advanced"]["name"] in explained


ENGLISH: dict[str, Any] = {
    "exceptions": {
        "gone": {"message": "The model {model} is gone."},
        "index": {"message": "Set `llm_model` on the server, and keep_alive to -1."},
        "zero": {"message": "Unload at once (0)"},
        "long": {"message": "Do this:\n\n- **Stop** it for 5m.\n- Set OLLAMA_HOST."},
    },
    "issues": {
        "gone": {"title": "G", "fix_flow": {"step": {"confirm": {"title": "Gone"}}}}
    },
}
GERMAN: dict[str, Any] = {
    "exceptions": {
        "gone": {"message": "Das Modell {model} ist weg."},
        "index": {"message": "Setze `llm_model` am Server und keep_alive auf -1."},
        "zero": {"message": "Sofort entladen (0)"},
        "long": {"message": "So geht es:\n\n- **Halte** 5m an.\n- Setze OLLAMA_HOST."},
    },
    "issues": {
        "gone": {"title": "W", "fix_flow": {"step": {"confirm": {"title": "Weg"}}}}
    },
}


def test_right_translation() -> None:
    """A translation without faults is accepted."""
    assert not languages.faults(ENGLISH, GERMAN)


@pytest.mark.parametrize(
    ("key", "text", "fault"),
    [
        ("gone", None, "gone.message: is missing"),
        ("other", "Neu.", "other.message: is not in en.json"),
        ("gone", "", "is empty"),
        ("gone", "Das Modell ist weg.", "has the placeholders [], not ['model']"),
        ("gone", "Das Modell {modell} ist weg.", "['modell'], not ['model']"),
        ("gone", "L'{model} ist weg.", "an apostrophe"),
        ("gone", "Das Modell {model} ist ''weg''.", "an apostrophe"),
        ("gone", "Das Modell {model ist weg.", "hassfest refuses it"),
        ("gone", "Das Modell '{model}' ist weg.", "hassfest refuses it"),
        ("gone", " Das Modell {model} ist weg.", "hassfest refuses it"),
        ("gone", "The model {model} is gone.", "is still English"),
        ("gone", "Ja, the {model} ist weg and fort.", "is still English"),
        ("index", "Setze llm_model am Server und keep_alive auf -1.", "in backticks"),
        ("index", "Setze `llm_model` und `keep_alive auf -1.", "not closed"),
        ("index", "Setze `llm_model` und Haltezeit auf -1.", "['keep_alive']"),
        ("index", "Setze `llm_model` und keep_alive auf 1.", "['-1']"),
        ("zero", "Sofort entladen", "['0']"),
        ("long", "So: - **Halte** 5m an. - Setze OLLAMA_HOST.", "other list items"),
        ("long", "So: - **Halte** 5m an. - Setze OLLAMA_HOST.", "other paragraphs"),
        ("long", "So:\n\n- Halte 5m an.\n- Setze OLLAMA_HOST.", "other bold texts"),
        ("long", "So:\n\n- **Halte** 5 m an.\n- Setze HOST.", "'5m', 'OLLAMA_HOST'"),
    ],
)
def test_wrong_translation(key: str, text: str | None, fault: str) -> None:
    """Each kind of fault is found, and named with the text that has it."""
    texts = deepcopy(GERMAN)
    texts["exceptions"].pop(key, None)
    if text is not None:
        texts["exceptions"][key] = {"message": text}
    assert fault in "\n".join(languages.faults(ENGLISH, texts))


def test_labels_are_quoted_as_they_are_shown() -> None:
    """A text that sends the user to a field names it as its dialog does."""
    field = {"step": {"user": {"data": {"warm_up": "Keep ready"}}}}
    english = {"config": field, "common": {"hint": 'Turn off "Keep ready" there.'}}
    field = {"step": {"user": {"data": {"warm_up": "Bereithalten"}}}}
    german = {"config": field, "common": {"hint": "Schalte dort „Bereithalten“ aus."}}
    assert not languages.faults(english, german)
    german["common"] = {"hint": "Schalte dort „Warmlaufen“ aus."}
    assert languages.faults(english, german)


@pytest.mark.parametrize("title", ["W" * 31, "{model} ist weg", "ありません" * 4])
def test_titles_of_repair_dialogs_fit_one_line(title: str) -> None:
    """On a phone, 30 characters fit; a second line would cover the severity."""
    texts = deepcopy(GERMAN)
    texts["issues"]["gone"]["fix_flow"]["step"]["confirm"]["title"] = title
    assert languages.faults(ENGLISH, texts)


@pytest.mark.parametrize(
    "phrase",
    [
        *("anew", "for ever", "load ahead", "evicted", "rounds", "pushed out"),
        *("own rules", "whoever", "beside it", "is told", "we ", "of ours", "shall"),
    ],
)
def test_plain_words(phrase: str) -> None:
    """No text has a phrase that readers would have to interpret."""
    found = [text for text in all_texts(TEXTS) if phrase in text.lower()]
    assert not found


def test_unloading_is_explained_for_every_kind_of_server() -> None:
    """keep_alive where it has an effect, else the server with its setting, if any."""
    shown = {kind: forms.unloading_controlled_by(kind, "name") for kind in ServerKind}
    assert {kind for kind, text in shown.items() if text == "keep_alive"} == {
        ServerKind.DOCKER_MODEL_RUNNER,
        ServerKind.LM_STUDIO,
        ServerKind.OLLAMA,
    }
    assert {kind for kind, text in shown.items() if text == "name"} == {
        ServerKind.CLOUD,
        ServerKind.LITELLM,
        ServerKind.OPENAI_COMPATIBLE,
        ServerKind.TABBYAPI,
        ServerKind.VLLM,
    }
    steps = [
        TEXTS["config"]["step"]["models"],
        *(sub["step"]["settings"] for sub in TEXTS["config_subentries"].values()),
    ]
    for step in steps:
        assert "an idle model is unloaded: {unloading}." in step["description"]


def test_entities_have_names_and_icons() -> None:
    """Each entity has them, and each of its states has a text."""
    icons = json.loads((FOLDER / "icons.json").read_text())["entity"]
    names = TEXTS["entity"]
    assert names.keys() == icons.keys()
    for platform, entities in names.items():
        assert entities.keys() == icons[platform].keys()
        assert all(entity["name"] for entity in entities.values())
    keys = {item.key for item in (*sensor.MODEL_SENSORS, *sensor.TURN_SENSORS)}
    assert names["sensor"].keys() == keys | {
        *("indexed", "loaded_until", "memory_held", "residency"),
    }
    assert names["sensor"]["loaded_until"]["state"].keys() == {sensor.NEVER}
    assert names["button"].keys() == {item.key for item in button.BUTTONS}
    states = names["sensor"]["residency"]["state"]
    assert states.keys() == set(residency.ResidencyState)
    attribute = names["event"]["residency_change"]["state_attributes"]["event_type"]
    assert attribute["state"].keys() == set(residency.ResidencyEvent)


def test_repairs_have_texts() -> None:
    """Each repair has texts, which use only placeholders that are filled in."""
    raised = r'"(\w+)",\s+(?:self\._)?residency'
    reported = set(re.findall(raised, sources()))
    # Those of an entry, and the one whose name is a constant.
    reported |= {*re.findall(r'entry,\s+"(version_\w+)"', sources()), VOICE_ASSISTANT}
    assert reported == {key.removesuffix("_by_hand") for key in TEXTS["issues"]}
    known = {
        *("assistants", "collections", "file"),
        *("cold_starts", "error", "held", "host", "indexed", "keep_alive", "limit"),
        *(
            "kept",
            "minutes",
            "model",
            "models",
            "num_ctx",
            "others",
            "seconds",
            "times",
            "title",
        ),
        *("longest", "tokens", "total", "waiting"),
    }
    for issue in TEXTS["issues"].values():
        assert ("description" in issue) is not ("fix_flow" in issue)
        assert set(re.findall(r"\{(\w+)\}", json.dumps(issue))) <= known


def test_the_dialog_for_a_new_key_names_each_role() -> None:
    """The keys of all roles have a label and a description."""
    step = TEXTS["config"]["step"]["reauth_confirm"]
    keys = {role.key("api_key") for role in Role}
    assert step["data"].keys() == step["data_description"].keys() == keys


def test_no_references() -> None:
    """Home Assistant resolves references of its own texts only, and shows others."""
    assert "[%key" not in json.dumps(TEXTS)


def test_no_blocking_client_library() -> None:
    """Only modules that Home Assistant installs are imported."""
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

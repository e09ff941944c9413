"""The documentation and the project's files name only what exists."""

from collections.abc import Iterator
import json
from pathlib import Path
import re
import subprocess
import sys
from typing import Any, Final
from urllib.parse import unquote
from zipfile import ZipFile

import pytest
import yaml

from custom_components.home_agent import const
from custom_components.home_agent.servers.base import ServerKind
from scripts.package import version_of

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "custom_components" / "home_agent"
REPOSITORY: Final = "https://github.com/home-agent/home-agent"
PAGES: Final = sorted(
    (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/*.md"))
)
KEYS_PAGE: Final = ROOT / "docs/reference/CONFIGURATION.md"
WORKFLOWS: Final = sorted(ROOT.glob(".github/workflows/*.yaml"))
FORMS: Final = [
    path
    for path in sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))
    if path.name != "config.yml"
]

_CODE_BLOCK: Final = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_YAML_EXAMPLE: Final = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
_LINK: Final = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def page_name(path: Path) -> str:
    """Return the path of a page below the project's folder."""
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    """Return a page without its code blocks."""
    return _CODE_BLOCK.sub("", path.read_text(encoding="utf-8"))


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings.

    Lower case, without punctuation, a hyphen for each blank; a heading that
    stands twice gets -1 behind it.
    """
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text_of(path), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        base = anchor = plain.replace(" ", "-")
        number = 0
        while anchor in anchors:
            number += 1
            anchor = f"{base}-{number}"
        anchors.add(anchor)
    return anchors


def links() -> Iterator[tuple[Path, str]]:
    """Yield each page with each of its links."""
    for page in PAGES:
        for link in _LINK.findall(text_of(page)):
            yield page, link


def our_links() -> Iterator[tuple[Path, str]]:
    """Yield each file that names our repository, with what stands behind it."""
    files = (
        *PAGES,
        *PACKAGE.rglob("*.py"),
        *PACKAGE.rglob("*.json"),
        *ROOT.glob("blueprints/**/*.yaml"),
        *ROOT.glob(".github/**/*.y*ml"),
    )
    for path in files:
        text = path.read_text(encoding="utf-8")
        for link in re.findall(rf"{re.escape(REPOSITORY)}([^\s\"'`>)]*)", text):
            yield path, link


def is_there(target: Path, anchor: str) -> bool:
    """Return whether a file exists, and has the anchor if one is named."""
    if not target.exists():
        return False
    return not anchor or anchor in anchors_of(target)


def test_links_between_pages_lead_somewhere() -> None:
    """Each relative link, to a file and to a heading in it."""
    checked = 0
    broken = []
    for page, link in links():
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        checked += 1
        if not is_there(target, anchor):
            broken.append(f"{page_name(page)}: {link}")
    assert not broken
    assert checked > 40


def test_links_to_our_repository_lead_somewhere() -> None:
    """Files are named by their path in the main branch."""
    broken = []
    checked = 0
    for path, link in our_links():
        if (place := link.removeprefix("/blob/main/")) == link:
            assert link in ("", "/issues"), (page_name(path), link)
            continue
        name, _, anchor = place.partition("#")
        checked += 1
        if not is_there(ROOT / name, anchor):
            broken.append(f"{page_name(path)}: {link}")
    assert not broken
    assert checked >= 5


def test_one_address_of_the_repository() -> None:
    """Nobody is sent to another place by one of the files."""
    manifest = json.loads((PACKAGE / "manifest.json").read_text())
    assert manifest["documentation"] == REPOSITORY
    assert manifest["issue_tracker"] == f"{REPOSITORY}/issues"


def translated_keys() -> set[str]:
    """Return the names of all fields in the dialogs."""
    found: set[str] = set()

    def collect(node: Any) -> None:
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            if key == "data":
                found.update(value)
            collect(value)

    texts = json.loads((PACKAGE / "translations/en.json").read_text())
    collect(texts["config"])
    collect(texts["config_subentries"])
    return found


def documented_keys() -> set[str]:
    """Return the configuration keys of the reference: the first column."""
    return {
        key
        for row in re.findall(r"^\| ([^|]*`[^|]*) \|", text_of(KEYS_PAGE), re.MULTILINE)
        for key in re.findall(r"`([a-z]\w+)`", row)
        if key not in {"5m", "1h30m"}
    }


def constant_keys() -> set[str]:
    """Return the configuration keys of const.py."""
    return {
        value
        for name, value in vars(const).items()
        if name.startswith("CONF_") and value != const.CONF_SUBENTRY_ID
    }


def test_every_page_is_linked_from_the_readme() -> None:
    """A page that nobody finds helps nobody."""
    linked = set(_LINK.findall(text_of(ROOT / "README.md")))
    pages = {page_name(path) for path in ROOT.glob("docs/**/*.md")}
    assert pages <= linked


def test_documented_keys_exist() -> None:
    """A key that no code reads would be a promise."""
    assert documented_keys() <= constant_keys() | translated_keys()


def test_every_key_is_documented() -> None:
    """An option is added in the reference too."""
    assert constant_keys() | translated_keys() <= documented_keys()


def test_documented_defaults_are_those_of_the_code() -> None:
    """The reference's second column, where const.py has a default."""
    rows = dict(
        re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", text_of(KEYS_PAGE), re.MULTILINE)
    )
    defaults = {
        "llm_keep_alive": const.DEFAULT_LLM_KEEP_ALIVE,
        "external_llm_keep_alive": const.DEFAULT_EXTERNAL_LLM_KEEP_ALIVE,
        "embedding_keep_alive": const.DEFAULT_EMBEDDING_KEEP_ALIVE,
        "llm_num_ctx": const.DEFAULT_NUM_CTX,
        "llm_idle_timeout": const.DEFAULT_IDLE_TIMEOUT,
        "external_llm_num_ctx": const.DEFAULT_NUM_CTX,
        "max_history": const.DEFAULT_MAX_HISTORY,
        "retrieval_threshold": const.DEFAULT_RETRIEVAL_THRESHOLD,
        "retrieval_limit": const.DEFAULT_RETRIEVAL_LIMIT,
        "embedding_batch_size": const.DEFAULT_EMBEDDING_BATCH_SIZE,
    }
    assert {key: rows[key] for key in defaults} == {
        key: str(value) for key, value in defaults.items()
    }


def test_environment_variables_are_documented() -> None:
    """In the reference, and no other anywhere."""
    variables = {
        "HOME_AGENT_LLM_KEEP_ALIVE",
        "HOME_AGENT_EXTERNAL_LLM_KEEP_ALIVE",
        "HOME_AGENT_EMBEDDING_KEEP_ALIVE",
    }
    pattern = r"HOME_AGENT_(?!TEST_)[A-Z_]+"
    code = (PACKAGE / "keep_alive.py").read_text(encoding="utf-8")
    assert set(re.findall(pattern, code)) == variables
    assert set(re.findall(pattern, text_of(KEYS_PAGE))) == variables
    for page in PAGES:
        assert set(re.findall(pattern, text_of(page))) <= variables


def test_every_kind_of_server_is_documented() -> None:
    """In the list of llm_server_kind, and no other."""
    (row,) = re.findall(
        r"^\| `llm_server_kind` \|.*$", text_of(KEYS_PAGE), re.MULTILINE
    )
    kinds = set(re.findall(r"`(\w+)`", row)) - {"llm_server_kind"}
    assert kinds == set(ServerKind)


def test_benchmarks_that_are_named_exist() -> None:
    """Each figure names the command that made it."""
    named = {
        name
        for page in PAGES
        for name in re.findall(r"benchmarks[./](\w+)", page.read_text(encoding="utf-8"))
        if name not in {"NAME", "txt"}
    }
    assert named
    assert named <= {path.stem for path in (ROOT / "benchmarks").glob("*.py")}


def test_actions_that_are_named_exist() -> None:
    """Also those in examples."""
    services = yaml.safe_load((PACKAGE / "services.yaml").read_text())
    named = {
        name
        for page in PAGES
        for name in re.findall(r"action: home_agent\.(\w+)", page.read_text("utf-8"))
    }
    assert named
    assert named <= services.keys()


def test_yaml_examples_parse() -> None:
    """A user pastes them as they are."""
    examples = [
        example
        for page in PAGES
        for example in _YAML_EXAMPLE.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(examples) > 5
    for example in examples:
        assert isinstance(yaml.safe_load(example), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path: Path) -> None:
    """They parse, may do only what they need, and run scripts that exist."""
    workflow = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key "on" as true.
    assert workflow[True]
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert workflow["jobs"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        if "permissions" in job:
            assert path.name == "release.yaml"
            assert job["permissions"] == {"contents": "write"}
        for step in job["steps"]:
            assert ("uses" in step) is not ("run" in step)
            # What others may write, such as a tag's name, is no part of a command.
            assert "${{" not in step.get("run", "")
            for script in re.findall(r"(?:^|\s)scripts/\w+", step.get("run", "")):
                assert (ROOT / script.strip()).stat().st_mode & 0o111


def test_the_workflows_run_everything() -> None:
    """Lint, the tests, the rules of Home Assistant and HACS, and the release."""
    steps = [
        step.get("run") or step["uses"]
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
    ]
    for wanted in (
        "scripts/lint",
        "scripts/test",
        "home-assistant/actions/hassfest@master",
        "hacs/action@main",
        'python3 -m scripts.package "$TAG" home_agent.zip',
    ):
        assert wanted in steps


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms(path: Path) -> None:
    """They have what GitHub wants of a form, or it shows none at all."""
    form = yaml.safe_load(path.read_text())
    assert form.keys() >= {"name", "description", "body"}
    kinds = {"markdown", "input", "textarea", "dropdown", "checkboxes"}
    ids = [item["id"] for item in form["body"] if item["type"] != "markdown"]
    assert len(set(ids)) == len(ids)
    for item in form["body"]:
        assert item["type"] in kinds
        wanted = "value" if item["type"] == "markdown" else "label"
        assert item["attributes"][wanted]
        if item["type"] == "dropdown":
            assert all(isinstance(name, str) for name in item["attributes"]["options"])


def test_a_bug_report_asks_for_log_and_diagnostics() -> None:
    """Without them most reports cannot be answered."""
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    required = {
        item["id"]
        for item in form["body"]
        if item.get("validations", {}).get("required")
    }
    assert required >= {"log", "diagnostics", "version", "home_assistant", "server"}


def test_a_release_has_its_version_and_all_files(tmp_path: Path) -> None:
    """The zip file that hacs.json names, with the files at its top."""
    hacs = json.loads((ROOT / "hacs.json").read_text())
    assert hacs["zip_release"]
    to = tmp_path / hacs["filename"]
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "scripts.package", "v9.8.7", str(to)],
        cwd=ROOT,
        check=True,
    )
    with ZipFile(to) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("manifest.json"))
    ours = json.loads((PACKAGE / "manifest.json").read_text())
    assert manifest == ours | {"version": "9.8.7"}
    assert list(manifest) == list(ours)
    assert names == {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    ("tag", "version"),
    [("v1.2.3", "1.2.3"), ("1.2.3", "1.2.3"), ("v1.2.3b4", "1.2.3b4")],
)
def test_tags_of_releases(tag: str, version: str) -> None:
    """With or without the letter that is usual on GitHub."""
    assert version_of(tag) == version


@pytest.mark.parametrize("tag", ["latest", "v1.2", "1.2.3; ls", "v1.2.3\n", ""])
def test_tags_that_are_no_versions(tag: str) -> None:
    """Home Assistant would not load an integration with such a version."""
    with pytest.raises(ValueError, match="is not a version"):
        version_of(tag)


def names_in_the_interface() -> set[str]:
    """Return the names of fields, sections, options and entities."""
    texts = json.loads((PACKAGE / "translations/en.json").read_text())
    found: set[str] = set()

    def collect(node: Any) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                if key in {"data", "options"}:
                    found.update(value.values())
                collect(value)
            elif key in {"name", "title", "user"}:
                found.add(value)

    collect(texts)
    return found


def test_settings_and_entities_have_their_names_of_the_interface() -> None:
    """A user looks for the words that a page gives them."""
    names = names_in_the_interface()
    for page, wanted in {
        "CONFIGURATION": {"How the agent learns about your home", "Keep ready"},
        "MODEL_MEMORY": {"Unloads at", "In GPU memory", "Model loaded or unloaded"},
    }.items():
        text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
        assert all(name in text for name in wanted)
        assert wanted <= names
    agent = (ROOT / "docs/CONFIGURATION.md").read_text(encoding="utf-8")
    labels = re.findall(r"^- \*\*([A-Z][^*]+)\*\*", agent, re.MULTILINE)
    labels = [label for label in labels if not label.startswith("A number")]
    assert len(labels) > 8
    assert set(labels) <= names

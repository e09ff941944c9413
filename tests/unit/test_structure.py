"""The structure of the code: who may import whom, and how long things may be."""

import ast
from pathlib import Path
from typing import Final

import pytest

import custom_components.home_agent

PACKAGE: Final = Path(custom_components.home_agent.__file__).parent
# Every room may also import these, and itself.
SHARED: Final = {"const", "keep_alive", "listeners", "spoken"}
# A room is a folder, or a module at the top of the package.
ALLOWED: Final[dict[str, set[str]]] = {
    "const": set(),
    "listeners": set(),
    "spoken": set(),
    "keep_alive": {"const"},
    "servers": set(),
    "home": set(),
    "model": {"servers"},
    "coordinator": {"servers"},
    "vector_store": {"servers"},
    "index_sync": {"model", "home", "vector_store", "servers"},
    "vector_db_manager": {"index_sync", "model", "vector_store", "servers"},
    "search": {"vector_db_manager", "home", "vector_store", "servers"},
    "tools": {"search", "vector_db_manager", "model", "home", "servers"},
    "prompt": {"tools", "search", "vector_db_manager", "model", "home", "servers"},
    "agent": {"prompt", "model", "home", "servers"},
    "residency": {
        "coordinator",
        "model",
        "home",
        "prompt",
        "vector_db_manager",
        "servers",
    },
    "runtime": {"residency", "vector_db_manager", "coordinator", "model"},
    "dialogs": {"model", "prompt", "tools", "vector_store", "servers"},
}
MAX_LINES_OF_A_FILE: Final = 400
MAX_LINES_OF_A_FUNCTION: Final = 60
MODULES: Final = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a module's name below the package, such as "servers.ollama"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_by(path: Path) -> set[str]:
    """Return the names of the package's modules that a module imports.

    Imports inside functions and under TYPE_CHECKING count too.
    """
    package = path.relative_to(PACKAGE).parts[:-1]
    names = {name_of(module) for module in MODULES}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = [*package[: len(package) - node.level + 1]]
        base += node.module.split(".") if node.module else []
        for alias in node.names:
            submodule = ".".join([*base, alias.name])
            found.add(submodule if submodule in names else ".".join(base))
    return found - {name_of(path)}


def room_of(name: str) -> str:
    """Return the room of a module."""
    return name.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_imports_only_what_the_table_allows(path: Path) -> None:
    """Platforms, services, config_flow and the package itself may import all."""
    room = room_of(name_of(path))
    if room not in ALLOWED:
        return
    rooms = {room_of(name) for name in imported_by(path)} - {room} - SHARED
    assert rooms <= ALLOWED[room]


def test_the_rooms_of_the_table_are_there() -> None:
    """A folder that the table does not name would be without rules."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= ALLOWED.keys()
    assert ALLOWED.keys() <= {room_of(name_of(path)) for path in MODULES}


def test_no_imports_in_a_circle() -> None:
    """Not even under TYPE_CHECKING."""
    imports = {name_of(path): imported_by(path) for path in MODULES}
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in finished:
            return
        for other in sorted(imports[name]):
            visit(other, (*path, name))
        finished.add(name)

    for name in imports:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    """A longer file has two subjects; a longer function cannot be read at once."""
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_LINES_OF_A_FUNCTION, node.name

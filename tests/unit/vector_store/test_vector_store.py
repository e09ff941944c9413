"""The embedded store: its search, its changes, and what damages it."""

import math
from pathlib import Path
import sqlite3
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from custom_components.home_agent.vector_store import sqlite
from custom_components.home_agent.vector_store.base import (
    DimensionChanged,
    StoreEmpty,
    StoreError,
)
from custom_components.home_agent.vector_store.sqlite import (
    DamagedFile,
    SqliteVectorStore,
)
from custom_components.home_agent.vector_store.table import CompactTable, VectorTable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of an index that is not there yet."""
    return tmp_path / "folder" / "index.db"


def test_search_is_exact(path: Path) -> None:
    """The best come first, of what is allowed, as numpy finds them."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 16)).astype(np.float32)
    store = SqliteVectorStore(path, "model")
    with pytest.raises(StoreEmpty):
        store.search([1.0] * 16, 5, {"1"})
    store.put({str(i): f"text {i}" for i in range(200)}, vectors.tolist())
    query = rng.normal(size=16)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    allowed = {str(i) for i in range(0, 200, 2)}
    expected = [str(i) for i in np.argsort(-cosines) if str(i) in allowed][:7]
    found = store.search(query.tolist(), 7, allowed)
    assert [key for key, _ in found] == expected
    assert [score for _, score in found] == pytest.approx(
        [cosines[int(key)] for key in expected], abs=1e-6
    )
    store.close()


def test_survives_a_restart(path: Path) -> None:
    """What was stored, changed and removed is so the next time."""
    store = SqliteVectorStore(path, "model")
    store.put({"a": "one", "b": "two", "c": "three"}, [[1, 0], [0, 1], [1, 1]])
    store.put({"b": "new"}, [[-1, 0]])
    store.remove(["c"])
    store.close()
    store = SqliteVectorStore(path, "model")
    assert store.texts() == {"a": "one", "b": "new"}
    everything = {"a", "b", "c"}
    assert store.search([1, 0], 9, everything) == [("a", 1.0), ("b", -1.0)]
    store.clear()
    assert store.texts() == {}
    with pytest.raises(StoreEmpty):
        store.search([1, 0], 9, everything)
    store.close()


def test_models_do_not_mix(path: Path) -> None:
    """Each model has its own vectors, until those of other models are dropped."""
    store = SqliteVectorStore(path, "one")
    store.put({"a": "text"}, [[1, 0]])
    store.close()
    store = SqliteVectorStore(path, "two")
    assert store.texts() == {}
    store.put({"a": "text"}, [[1, 0, 0]])
    store.close()
    store = SqliteVectorStore(path, "one")
    assert store.texts() == {"a": "text"}
    store.drop_other_models()
    store.close()
    store = SqliteVectorStore(path, "two")
    assert store.texts() == {}
    store.close()


def test_another_dimension_is_noticed(path: Path) -> None:
    """Vectors of another dimension are refused, until the stored ones are removed."""
    store = SqliteVectorStore(path, "model")
    store.put({"a": "text"}, [[1, 0]])
    with pytest.raises(DimensionChanged):
        store.put({"b": "text"}, [[1, 0, 0]])
    with pytest.raises(DimensionChanged):
        store.search([1, 0, 0], 5, {"a"})
    assert store.texts() == {"a": "text"}
    store.clear()
    store.put({"b": "text"}, [[1, 0, 0]])
    store.close()


@pytest.mark.parametrize(
    "vector",
    [
        [0.0, 0.0],
        [],
        [math.nan, 1.0],
        [math.inf, 1.0],
        [1e300, 1.0],
        [None, 1.0],
        ["x", 1.0],
        [[1.0], [0.0]],
    ],
)
def test_an_unusable_vector_is_refused(path: Path, vector: Any) -> None:
    """By put, whatever stands beside it, and by a search."""
    store = SqliteVectorStore(path, "model")
    store.put({"a": "text"}, [[1, 0]])
    with pytest.raises(StoreError):
        store.put({"b": "x", "c": "y"}, [[0, 1], vector])
    with pytest.raises(StoreError):
        store.search(vector, 5, {"a"})
    assert store.texts() == {"a": "text"}
    assert store.search([1, 0], 5, {"a", "b", "c"}) == [("a", 1.0)]
    store.close()


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"odd",
        np.asarray([math.nan, 1], "<f4").tobytes(),
        np.asarray([math.inf, 1], "<f4").tobytes(),
        np.zeros(2, "<f4").tobytes(),
        np.ones(3, "<f4").tobytes(),
    ],
)
def test_a_damaged_vector_is_removed(
    path: Path, blob: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its text is not stored any more, so the next sync embeds it again."""
    store = SqliteVectorStore(path, "model")
    store.put({"a": "one", "b": "two", "c": "three"}, [[1, 0], [0, 1], [-1, 0]])
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entry SET vector = ? WHERE key = 'b'", (blob,))
    connection.close()
    store = SqliteVectorStore(path, "model")
    assert store.texts() == {"a": "one", "c": "three"}
    assert store.search([1, 0], 5, {"a", "b", "c"}) == [("a", 1.0), ("c", -1.0)]
    store.put({"b": "two"}, [[0, 1]])
    assert "Removing 1 damaged vectors" in caplog.text
    store.close()


def test_nothing_but_damaged_vectors(path: Path) -> None:
    """All are removed, and vectors of any dimension can be stored."""
    store = SqliteVectorStore(path, "model")
    store.put({"a": "one", "b": "two"}, [[1, 0], [0, 1]])
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entry SET vector = x'010203'")
    connection.close()
    store = SqliteVectorStore(path, "model")
    with pytest.raises(StoreEmpty):
        store.search([1, 0], 5, {"a"})
    assert store.texts() == {}
    store.put({"a": "one"}, [[1, 0, 0]])
    store.close()


@pytest.mark.parametrize("damage", ["not SQLite", "newer version", "a table is gone"])
def test_an_unreadable_file_is_renamed(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The index can be made again; the old file is kept."""
    path.parent.mkdir()
    if damage == "not SQLite":
        path.write_bytes(b"no database" * 1000)
    elif damage == "a table is gone":
        SqliteVectorStore(path, "model").close()
        connection = sqlite3.connect(path)
        connection.execute("DROP TABLE entry")
        connection.commit()
        connection.close()
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
        connection.close()
    size = path.stat().st_size
    store = SqliteVectorStore(path, "model")
    store.put({"a": "text"}, [[1, 0]])
    assert store.texts() == {"a": "text"}
    store.close()
    assert path.with_suffix(".corrupt").stat().st_size == size
    assert "Cannot read the index" in caplog.text


def test_a_table_that_changes_finds_what_a_new_one_finds() -> None:
    """Rows come, change and go in any order, searched in between."""
    rng = np.random.default_rng(2)
    table = VectorTable()
    model: dict[str, np.ndarray] = {}
    for _ in range(300):
        keys = [str(key) for key in rng.choice(60, size=rng.integers(1, 8))]
        if rng.random() < 0.6:
            keys = list(dict.fromkeys(keys))
            vectors = rng.normal(size=(len(keys), 8)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            table.put(keys, vectors)
            model |= dict(zip(keys, vectors, strict=True))
        else:
            table.remove(keys)
            for key in keys:
                model.pop(key, None)
        assert len(table) == len(model)
        if not model:
            continue
        query = rng.normal(size=8).astype(np.float32)
        allowed = {key for key in model if int(key) % 3}
        expected = sorted(allowed, key=lambda key: -float(model[key] @ query))[:5]
        assert [key for key, _ in table.search(query, 5, allowed)] == expected


def test_only_what_is_allowed_is_found() -> None:
    """Also when it is the worst of many."""
    table = VectorTable()
    angles = np.linspace(0, 3, 1000)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    table.put([str(number) for number in range(1000)], vectors)
    query = np.asarray([1, 0], np.float32)
    found = table.search(query, 2, {"999", "998", "gone"})
    assert [key for key, _ in found] == ["998", "999"]
    assert table.search(query, 2, set()) == []


def test_kill_9(tmp_path: Path) -> None:
    """A writer that is killed at any moment loses nothing that was acknowledged."""
    command = [sys.executable, "-m", "benchmarks.kill_9", "--times", "15"]
    result = subprocess.run(  # noqa: S603
        command, check=False, capture_output=True, text=True, timeout=50
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "15 kills" in result.stdout


def test_an_older_file_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, with all that is in it; a step that fails changes nothing."""
    store = SqliteVectorStore(path, "model")
    store.put({"a": "text"}, [[1, 0]])
    store.close()
    later = (*sqlite._STEPS, "ALTER TABLE entry ADD COLUMN seen REAL;")
    monkeypatch.setattr(sqlite, "_STEPS", (*later, "CREATE nonsense;"))
    connection = sqlite3.connect(path)
    with pytest.raises(DamagedFile):
        sqlite._open(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    assert version == 2
    monkeypatch.setattr(sqlite, "_STEPS", later)
    store = SqliteVectorStore(path, "model")
    assert store.search([1, 0], 5, {"a"}) == [("a", 1.0)]
    assert connection.execute("SELECT key, seen FROM entry").fetchall() == [("a", None)]
    connection.close()
    store.close()


def test_many_vectors_are_held_compactly(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found, and how like it is, stays exact; while it grows, too."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(600, 32)).astype(np.float32)
    texts = {str(number): "text" for number in range(600)}
    exact = SqliteVectorStore(path, "exact")
    exact.put(texts, vectors.tolist())
    monkeypatch.setattr(sqlite, "LARGEST_EXACT", 500 * 32 * 4)
    compact = SqliteVectorStore(path, "compact")
    query = rng.normal(size=32).tolist()
    some = {str(number): "text" for number in range(400)}
    compact.put(some, vectors[:400].tolist())
    assert compact.search(query, 5, texts)
    assert type(compact._vectors) is VectorTable
    compact.put(
        {str(number): "text" for number in range(400, 600)}, vectors[400:].tolist()
    )
    for store in (exact, compact):
        store.remove(["7", "599"])
        store.put({"8": "changed", "new": "text"}, [(-vectors[8]).tolist(), query])
    for _ in range(20):
        query = rng.normal(size=32).tolist()
        wanted = exact.search(query, 10, texts.keys() | {"new"})
        found = compact.search(query, 10, texts.keys() | {"new"})
        assert [key for key, _ in found] == [key for key, _ in wanted]
        assert [score for _, score in found] == pytest.approx(
            [score for _, score in wanted], abs=1e-6
        )
    assert isinstance(compact._vectors, CompactTable)
    assert compact._vectors._matrix.nbytes < 2 * 600 * 32
    assert compact.search(query, 3, set()) == []
    with pytest.raises(DimensionChanged):
        compact.search([1.0], 3, {"1"})
    exact.close()
    compact.close()

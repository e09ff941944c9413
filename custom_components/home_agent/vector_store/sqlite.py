"""Texts and vectors as rows in SQLite, searched in memory with numpy.

A search compares the question with all vectors: that is exact and, for the size of
a home, faster than an approximate index. One thousand vectors of 384 dimensions
take well under a millisecond (benchmarks/vector_search.py).
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from itertools import compress
import logging
from pathlib import Path
import sqlite3
from typing import Final

from homeassistant.helpers.json import json_dumps
import numpy as np

from .base import DimensionChanged, StoreEmpty, Vector, as_rows, usable_rows
from .table import CompactTable, VectorTable

_LOGGER = logging.getLogger(__name__)

# Up to so many bytes of vectors stay in memory exactly, more in 8 bits a number.
LARGEST_EXACT: Final = 64 * 2**20
# Seconds to wait for another program that has locked the file.
LOCK_TIMEOUT = 5.0
_NUMBER_BYTES: Final = 4
# The primary result codes of a file that must be made again: it is damaged, is no
# SQLite file, or lacks a table (an SQL error). A locked file has another one.
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}

# An index can be made again, so a power cut may lose the newest rows, but must not
# damage the file: WAL mode with synchronous=NORMAL (sqlite.org/pragma.html).
# A "space" holds the entries of one embedding model.
_TABLES: Final = """
CREATE TABLE space (
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES space ON DELETE CASCADE,
    key TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (space, key)
) STRICT;
"""
# What every method reads; it fails if a table is gone.
_TABLES_CHECK: Final = (
    "SELECT space.id, model, entry.id, space, key, text, vector"
    " FROM space JOIN entry LIMIT 0"
)
# Scripts that bring a file from each schema version to the next; the first creates it.
_STEPS: tuple[str, ...] = (_TABLES,)


class DamagedFile(Exception):
    """A file holds no index that can be read; its text says why."""


class SqliteVectorStore:
    """A VectorStore in one file; see vector_store/base.py for the methods.

    Every method blocks, and all must be called from the thread that made the store.
    """

    def __init__(self, path: Path, model: str) -> None:
        """Open the file at path, or create it, for the vectors of one model.

        A file that holds no readable index is renamed to .corrupt, and a new one is
        created. Raise sqlite3.Error or OSError if the file cannot be used now: it is
        locked, or must not be written.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _open(path)
        except DamagedFile as err:
            aside = _corrupt_path(path)
            _LOGGER.warning(
                "Cannot read the index, making a new one (the old file is %s): %s",
                aside,
                err,
            )
            path.replace(aside)
            remove_files(path)
            self._connection = _open(path)
        try:
            self._space = self._find_space(model)
        except sqlite3.Error:
            self._connection.close()
            raise
        self._vectors: VectorTable | None = None  # read by the first call

    def _find_space(self, model: str) -> int:
        """Return the id of a model's space; create it if necessary."""
        with self._connection as connection:
            connection.execute(
                "INSERT OR IGNORE INTO space (model) VALUES (?)", (model,)
            )
        (space,) = self._connection.execute(
            "SELECT id FROM space WHERE model = ?", (model,)
        ).fetchone()
        return int(space)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def texts(self) -> dict[str, str]:
        """Return the text of every key."""
        self._load()  # removes the keys whose vectors are unusable
        return dict(
            self._connection.execute(
                "SELECT key, text FROM entry WHERE space = ?", (self._space,)
            )
        )

    def put(self, texts: Mapping[str, str], vectors: list[list[float]]) -> None:
        """Add or replace texts by key, with one vector for each in the same order.

        Raise DimensionChanged if the vectors' dimension is not the stored ones', and
        StoreError if a vector is unusable.
        """
        matrix = _normalized(as_rows(vectors))
        stored = self._connection.execute(
            "SELECT length(vector) FROM entry WHERE space = ? LIMIT 1", (self._space,)
        ).fetchone()
        if stored and stored[0] != matrix.shape[1] * matrix.itemsize:
            raise DimensionChanged
        with self._connection as connection:
            connection.executemany(
                "INSERT INTO entry (space, key, text, vector) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (space, key) DO UPDATE"
                " SET text = excluded.text, vector = excluded.vector",
                [
                    (self._space, key, text, row.astype("<f4").tobytes())
                    for (key, text), row in zip(texts.items(), matrix, strict=True)
                ],
            )
        if self._vectors is not None:
            self._vectors.put(texts, matrix)
            is_exact = not isinstance(self._vectors, CompactTable)
            if is_exact and len(self._vectors) * matrix[0].nbytes > LARGEST_EXACT:
                self._vectors = None  # the next search reads a CompactTable

    def remove(self, keys: Iterable[str]) -> None:
        """Remove keys with their texts and vectors."""
        gone = list(keys)
        with self._connection as connection:
            connection.executemany(
                "DELETE FROM entry WHERE space = ? AND key = ?",
                [(self._space, key) for key in gone],
            )
        if self._vectors is not None:
            self._vectors.remove(gone)

    def clear(self) -> None:
        """Remove all keys of this model."""
        self._vectors = None
        with self._connection as connection:
            connection.execute("DELETE FROM entry WHERE space = ?", (self._space,))

    def other_model(self) -> str | None:
        """Return the other model with the most keys, None without one."""
        row = self._connection.execute(
            "SELECT model FROM space JOIN entry ON entry.space = space.id"
            " WHERE space.id != ? GROUP BY space.id ORDER BY count(*) DESC LIMIT 1",
            (self._space,),
        ).fetchone()
        return row[0] if row else None

    def drop_other_models(self) -> None:
        """Remove the keys of all other models."""
        with self._connection as connection:
            connection.execute("DELETE FROM space WHERE id != ?", (self._space,))

    def search(
        self, vector: list[float], limit: int, allowed: Container[str]
    ) -> list[tuple[str, float]]:
        """Return at most limit allowed keys with their cosine similarity, -1 to 1.

        The nearest to the vector come first. Raise StoreEmpty without stored vectors,
        DimensionChanged if the vector's dimension is not theirs, and StoreError if it
        is unusable.
        """
        vectors = self._load()
        if not len(vectors):
            raise StoreEmpty
        return vectors.search(_normalized(as_rows([vector]))[0], limit, allowed)

    def checkpoint(self) -> None:
        """Bring all data from the write-ahead log into the file."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _load(self) -> VectorTable:
        """Return the vectors in memory; the first call reads them from the file."""
        if self._vectors is None:
            keys, matrix = self._read_vectors()
            is_compact = matrix.nbytes > LARGEST_EXACT
            vectors = CompactTable(self._exact) if is_compact else VectorTable()
            if keys:
                vectors.put(keys, matrix)
            self._vectors = vectors
        return self._vectors

    def _read_vectors(self) -> tuple[list[str], Vector]:
        """Return all keys and their vectors as rows.

        Remove the keys whose vectors are damaged, so that they are embedded again.
        """
        rows: list[tuple[str, bytes]] = self._connection.execute(
            "SELECT key, vector FROM entry WHERE space = ? ORDER BY id",
            (self._space,),
        ).fetchall()
        sizes = Counter(len(blob) for _, blob in rows)
        size = max(sizes, key=sizes.__getitem__, default=0)
        if not size or size % _NUMBER_BYTES:
            whole = []
        else:
            whole = [row for row in rows if len(row[1]) == size]
        matrix = np.frombuffer(b"".join(blob for _, blob in whole), "<f4")
        matrix = matrix.reshape(len(whole), -1) if whole else matrix.reshape(0, 0)
        is_usable = usable_rows(matrix)
        if not is_usable.all():
            matrix = matrix[is_usable]
        keys = list(compress((key for key, _ in whole), is_usable))
        if len(keys) < len(rows):
            _LOGGER.warning(
                "Removing %d damaged vectors from the index", len(rows) - len(keys)
            )
            self.remove({key for key, _ in rows}.difference(keys))
        return keys, matrix

    def _exact(self, keys: list[str]) -> Vector:
        """Return the stored vectors of keys, one row for each, in the same order."""
        rows = self._connection.execute(
            "SELECT key, vector FROM entry WHERE space = ?"
            " AND key IN (SELECT value FROM json_each(?))",
            (self._space, json_dumps(keys)),
        )
        stored = dict(rows)
        blob = b"".join(stored[key] for key in keys)
        return np.frombuffer(blob, "<f4").reshape(len(keys), -1)


def remove_index(path: Path) -> None:
    """Remove an index: its file, and the damaged one that it replaced; blocks."""
    remove_files(path)
    _corrupt_path(path).unlink(missing_ok=True)


def remove_files(path: Path) -> None:
    """Remove a store's file, its write-ahead log and shared memory; blocks."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _corrupt_path(path: Path) -> Path:
    """Return the path to which a damaged file is renamed."""
    return path.with_suffix(".corrupt")


def _open(path: Path) -> sqlite3.Connection:
    """Return a connection to the file, migrated to the newest schema version.

    Raise DamagedFile if it is no SQLite file, is damaged, lacks a table or was written
    by a newer version of Home Agent, and another sqlite3.Error if it cannot be used
    now.
    """
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection)
    except sqlite3.DatabaseError as err:
        connection.close()
        # The extended codes have the primary one in their lowest byte
        # (sqlite.org/rescode.html).
        if err.sqlite_errorcode & 0xFF in _DAMAGE:
            raise DamagedFile(str(err)) from err
        raise
    except DamagedFile:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Check a file and bring its tables to the newest schema version."""
    (check,) = connection.execute("PRAGMA quick_check").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if check != "ok" or version > len(_STEPS):
        raise DamagedFile(f"check {check!r}, version {version}")
    for number, step in enumerate(_STEPS[version:], start=version + 1):
        with connection:
            connection.executescript(
                f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;"
            )
    connection.execute(_TABLES_CHECK)


def _normalized(matrix: Vector) -> Vector:
    """Return the rows scaled to length 1: their dot products are cosines then."""
    result: Vector = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return result

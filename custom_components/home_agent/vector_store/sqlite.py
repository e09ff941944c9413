"""Texts and vectors as rows in SQLite, searched in memory with numpy.

A search compares the question with all vectors: that is exact and, for the size of
a home, faster than an approximate index. One thousand vectors of 384 dimensions
take well under a millisecond (benchmarks/vector_search.py).
"""

from collections.abc import Container, Iterable, Mapping
import logging
from pathlib import Path
import sqlite3
from typing import Final

from homeassistant.helpers.json import json_dumps
import numpy as np

from .base import DimensionChanged
from .table import CompactTable, Vector, VectorTable

_LOGGER = logging.getLogger(__name__)

# Up to so many bytes of vectors stay in memory exactly, more in 8 bits a number.
LARGEST_EXACT: Final = 64 * 2**20

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
# Scripts that bring a file from each schema version to the next; the first creates it.
_STEPS: tuple[str, ...] = (_TABLES,)


class SqliteVectorStore:
    """A VectorStore in one file; see vector_store/base.py for the methods.

    Every method blocks, and all must be called from the thread that made the store.
    """

    def __init__(self, path: Path, model: str) -> None:
        """Open the file at path, or create it, for the vectors of one model.

        A file that SQLite cannot read is renamed to .corrupt, and a new one created.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as err:
            aside = path.with_suffix(".corrupt")
            _LOGGER.warning(
                "Cannot read the index, making a new one (the old file is %s): %s",
                aside,
                err,
            )
            path.replace(aside)
            remove_files(path)
            self._connection = _open(path)
        with self._connection as connection:
            connection.execute(
                "INSERT OR IGNORE INTO space (model) VALUES (?)", (model,)
            )
        (self._space,) = self._connection.execute(
            "SELECT id FROM space WHERE model = ?", (model,)
        ).fetchone()
        self._vectors: VectorTable | None = None  # read by the first search

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def texts(self) -> dict[str, str]:
        """Return the text of every key."""
        return dict(
            self._connection.execute(
                "SELECT key, text FROM entry WHERE space = ?", (self._space,)
            )
        )

    def put(self, texts: Mapping[str, str], vectors: list[list[float]]) -> None:
        """Add or replace texts by key, with one vector for each in the same order.

        Raise DimensionChanged if the vectors' dimension is not the stored ones'.
        """
        matrix = _normalized(np.asarray(vectors, np.float32))
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

    def delete(self) -> None:
        """Close the file and remove it."""
        self.close()
        remove_files(self._path)

    def drop_other_models(self) -> None:
        """Remove the keys of all other models."""
        with self._connection as connection:
            connection.execute("DELETE FROM space WHERE id != ?", (self._space,))

    def search(
        self, vector: list[float], limit: int, allowed: Container[str]
    ) -> list[tuple[str, float]]:
        """Return at most limit allowed keys with their cosine similarity, -1 to 1.

        The nearest to the vector come first. Raise DimensionChanged if the vector's
        dimension is not that of the stored ones.
        """
        vectors = self._load()
        if not len(vectors):
            return []
        return vectors.search(
            _normalized(np.asarray([vector], np.float32))[0], limit, allowed
        )

    def checkpoint(self) -> None:
        """Bring all data from the write-ahead log into the file."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _load(self) -> VectorTable:
        """Return the vectors in memory; the first call reads them from the file."""
        if self._vectors is None:
            rows = self._connection.execute(
                "SELECT key, vector FROM entry WHERE space = ? ORDER BY id",
                (self._space,),
            ).fetchall()
            self._vectors = VectorTable()
            if rows:
                matrix = np.frombuffer(b"".join(row[1] for row in rows), "<f4")
                matrix = matrix.reshape(len(rows), -1)
                if matrix.nbytes > LARGEST_EXACT:
                    self._vectors = CompactTable(self._exact)
                self._vectors.put([key for key, _ in rows], matrix)
        return self._vectors

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


def remove_files(path: Path) -> None:
    """Remove a store's file, its write-ahead log and shared memory; blocks."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    """Return a connection to the file, migrated to the newest schema version.

    Raise sqlite3.DatabaseError if it is no SQLite file, is damaged or was written by
    a newer version of Home Agent.
    """
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        (check,) = connection.execute("PRAGMA quick_check").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if check != "ok" or version > len(_STEPS):
            raise sqlite3.DatabaseError(f"check {check!r}, version {version}")
        for number, step in enumerate(_STEPS[version:], start=version + 1):
            with connection:
                connection.executescript(
                    f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;"
                )
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _normalized(matrix: Vector) -> Vector:
    """Return the rows scaled to length 1: their dot products are cosines then."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    result: Vector = matrix / np.maximum(lengths, 1e-12)
    return result

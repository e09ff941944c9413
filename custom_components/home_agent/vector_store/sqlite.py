"""The embedded store: rows in SQLite, search with numpy.

A scan of all vectors is exact and, for a home, faster than any index: one
thousand vectors of 384 dimensions take well under a millisecond.
"""

from collections.abc import Container, Iterable, Mapping
import logging
from pathlib import Path
import sqlite3
from typing import Final

import numpy as np

from .table import DimensionChanged, Vector, VectorTable

_LOGGER = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1

# What is stored can be made again, so a power cut may cost the last rows, but
# never the file: WAL with synchronous=NORMAL.
_SCHEMA: Final = """
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


class SqliteVectorStore:
    """Texts and their vectors, by key, of one embedding model.

    Every method blocks and all must be called from one thread.
    """

    def __init__(self, path: Path, model: str) -> None:
        """Open the store at path, made when it is not there.

        Vectors of different models cannot be compared, so each model has a
        space of its own. A file that SQLite cannot read is put aside.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as err:
            aside = path.with_suffix(".corrupt")
            _LOGGER.warning("Starting a new index, the old is at %s: %s", aside, err)
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            self._connection = _open(path)
        with self._connection as connection:
            connection.execute(
                "INSERT OR IGNORE INTO space (model) VALUES (?)", (model,)
            )
        (self._space,) = self._connection.execute(
            "SELECT id FROM space WHERE model = ?", (model,)
        ).fetchone()
        self._vectors: VectorTable | None = None  # read when first needed

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
        """Store texts by key with their vectors, in the same order.

        Raise DimensionChanged if the vectors are not as long as those stored.
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

    def remove(self, keys: Iterable[str]) -> None:
        """Remove keys and their vectors."""
        gone = list(keys)
        with self._connection as connection:
            connection.executemany(
                "DELETE FROM entry WHERE space = ? AND key = ?",
                [(self._space, key) for key in gone],
            )
        if self._vectors is not None:
            self._vectors.remove(gone)

    def clear(self) -> None:
        """Remove everything of this model."""
        self._vectors = None
        with self._connection as connection:
            connection.execute("DELETE FROM entry WHERE space = ?", (self._space,))

    def drop_other_models(self) -> None:
        """Remove the vectors of models that are used no more."""
        with self._connection as connection:
            connection.execute("DELETE FROM space WHERE id != ?", (self._space,))

    def search(
        self, vector: list[float], limit: int, allowed: Container[str]
    ) -> list[tuple[str, float]]:
        """Return the allowed keys nearest to a vector with their cosine similarity.

        The best come first. Raise DimensionChanged if the vector is not as long
        as those stored.
        """
        vectors = self._load()
        if not len(vectors):
            return []
        return vectors.search(
            _normalized(np.asarray([vector], np.float32))[0], limit, allowed
        )

    def checkpoint(self) -> None:
        """Write everything into the one file, for a backup of it."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _load(self) -> VectorTable:
        """Return the vectors, read when they are first needed."""
        if self._vectors is None:
            rows = self._connection.execute(
                "SELECT key, vector FROM entry WHERE space = ? ORDER BY id",
                (self._space,),
            ).fetchall()
            self._vectors = VectorTable()
            if rows:
                matrix = np.frombuffer(b"".join(row[1] for row in rows), "<f4")
                self._vectors.put(
                    [key for key, _ in rows], matrix.reshape(len(rows), -1)
                )
        return self._vectors


def _open(path: Path) -> sqlite3.Connection:
    """Return a connection to the file, with the tables in it.

    Raise sqlite3.DatabaseError if it is no SQLite file, is damaged or was
    written by a newer version.
    """
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        (check,) = connection.execute("PRAGMA quick_check").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if check != "ok" or version > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"check {check!r}, version {version}")
        if version == 0:
            with connection:
                connection.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _normalized(matrix: Vector) -> Vector:
    """Return the rows with length 1, so that a product is a cosine."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    result: Vector = matrix / np.maximum(lengths, 1e-12)
    return result

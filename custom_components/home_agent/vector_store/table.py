"""Vectors in memory, as 32-bit or 8-bit numbers, with a search over all of them."""

from collections.abc import Callable, Container, Iterable
from typing import Any, ClassVar, Final, override

import numpy as np
import numpy.typing as npt

from .base import DimensionChanged, Vector

# A search looks at this many times more rows than requested, and again this many
# times more while too many of them are not allowed.
_DEPTH_FACTOR: Final = 4
# The least number of candidates that a CompactTable compares exactly.
_MIN_CANDIDATES: Final = 40
# The number of 8-bit rows that are converted to 32 bits at once.
_BLOCK: Final = 256


class VectorTable:
    """Normalized vectors by key, as rows of one matrix.

    The matrix has spare rows, so that adding a vector rarely copies the others.
    """

    # The type of the numbers in the matrix.
    _type: ClassVar[type[np.generic]] = np.float32

    def __init__(self) -> None:
        """Start empty; the first vectors define the dimension."""
        self._keys: list[str] = []
        self._rows: dict[str, int] = {}
        self._matrix: npt.NDArray[Any] = np.empty((0, 0), self._type)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._keys)

    def put(self, keys: Iterable[str], vectors: Vector) -> None:
        """Add or replace vectors by key; row n of vectors belongs to the n-th key."""
        rows = [self._row(key) for key in keys]
        if len(self._keys) > len(self._matrix):
            # The first call adds no spare rows: it may add all stored vectors.
            self._grow(max(len(self._keys), 2 * len(self._matrix)), vectors.shape[1])
        self._write(rows, vectors)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove vectors; the last row moves into the place of each."""
        for key in keys:
            if (row := self._rows.pop(key, None)) is None:
                continue
            last = self._keys.pop()
            if last != key:
                self._keys[row] = last
                self._rows[last] = row
                self._move(len(self._keys), row)

    def search(
        self, query: Vector, limit: int, allowed: Container[str]
    ) -> list[tuple[str, float]]:
        """Return at most limit allowed keys with their cosine to a normalized query.

        The best come first. Raise DimensionChanged if the query's dimension is not
        that of the table's vectors.
        """
        if query.shape[0] != self._matrix.shape[1]:
            raise DimensionChanged
        count = len(self._keys)
        scores = self._scores(count, query)
        depth = limit
        while True:
            depth = min(_DEPTH_FACTOR * depth, count)
            best = np.argpartition(-scores, depth - 1)[:depth]
            ranking = best[np.argsort(-scores[best], kind="stable")]
            found = [
                (self._keys[row], float(scores[row]))
                for row in ranking.tolist()
                if self._keys[row] in allowed
            ]
            if len(found) >= limit or depth == count:
                return found[:limit]

    def _row(self, key: str) -> int:
        """Return the row of a key; a new key gets the next free row."""
        row = self._rows.setdefault(key, len(self._keys))
        if row == len(self._keys):
            self._keys.append(key)
        return row

    def _grow(self, capacity: int, dimension: int) -> None:
        """Copy the matrix into a larger one."""
        grown = np.empty((capacity, dimension), self._type)
        if len(self._matrix):
            grown[: len(self._matrix)] = self._matrix
        self._matrix = grown

    def _write(self, rows: list[int], vectors: Vector) -> None:
        """Write vectors into rows."""
        self._matrix[rows] = vectors

    def _move(self, source: int, target: int) -> None:
        """Move a row."""
        self._matrix[target] = self._matrix[source]

    def _scores(self, count: int, query: Vector) -> Vector:
        """Return the cosines of the first count rows to a query."""
        result: Vector = self._matrix[:count] @ query
        return result


class CompactTable(VectorTable):
    """Normalized vectors in a quarter of the memory, each number in 8 bits.

    A search compares its best candidates again with the exact vectors. With 40
    candidates for ten results it found the same ten as an exact search (30,000 real
    texts).
    """

    _type = np.int8

    def __init__(self, exact: Callable[[list[str]], Vector]) -> None:
        """Start empty; exact returns the exact normalized vectors of keys, as rows."""
        super().__init__()
        self._exact = exact
        # One number for each row: the value of one step of its 8-bit numbers.
        self._steps: Vector = np.empty(0, np.float32)

    @override
    def search(
        self, query: Vector, limit: int, allowed: Container[str]
    ) -> list[tuple[str, float]]:
        """Return at most limit allowed keys with their cosine to a normalized query."""
        candidates = super().search(
            query, max(_MIN_CANDIDATES, _DEPTH_FACTOR * limit), allowed
        )
        if not candidates:
            return []
        keys = [key for key, _ in candidates]
        scores = (self._exact(keys) @ query).tolist()
        ranking = sorted(zip(keys, scores, strict=True), key=lambda item: -item[1])
        return ranking[:limit]

    @override
    def _grow(self, capacity: int, dimension: int) -> None:
        """Copy the matrix and the steps into larger ones."""
        super()._grow(capacity, dimension)
        grown = np.empty(capacity, np.float32)
        grown[: len(self._steps)] = self._steps
        self._steps = grown

    @override
    def _write(self, rows: list[int], vectors: Vector) -> None:
        """Write vectors into rows."""
        largest = np.abs(vectors).max(axis=1)
        steps = np.maximum(largest, 1e-12) / 127
        self._matrix[rows] = np.rint(vectors / steps[:, None])
        self._steps[rows] = steps

    @override
    def _move(self, source: int, target: int) -> None:
        """Move a row."""
        super()._move(source, target)
        self._steps[target] = self._steps[source]

    @override
    def _scores(self, count: int, query: Vector) -> Vector:
        """Return the approximate cosines of the first count rows to a query.

        The rows are converted to 32 bits in blocks that fit into the processor's
        cache, since numpy multiplies 8-bit matrices slowly.
        """
        scores = np.empty(count, np.float32)
        wide = np.empty((_BLOCK, self._matrix.shape[1]), np.float32)
        for start in range(0, count, _BLOCK):
            end = min(start + _BLOCK, count)
            block = wide[: end - start]
            np.copyto(block, self._matrix[start:end])
            np.matmul(block, query, out=scores[start:end])
        scores *= self._steps[:count]
        return scores

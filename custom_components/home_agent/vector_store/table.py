"""Vectors in memory: rows that come, change and go without the others being moved."""

from collections.abc import Callable, Container, Iterable
from typing import Any, ClassVar, Final, override

import numpy as np
import numpy.typing as npt

from .base import DimensionChanged

type Vector = npt.NDArray[np.float32]

# The ranking is read this many times deeper than asked for, and deeper still while
# too many of the best are not allowed.
_DEEPER: Final = 4
# How many a compact table looks at again at least, and the rows that it widens at once.
_CANDIDATES: Final = 40
_BLOCK: Final = 256


class VectorTable:
    """Normalized vectors by key, in one matrix with room to grow."""

    # Of each number in the matrix.
    _type: ClassVar[type[np.generic]] = np.float32

    def __init__(self) -> None:
        """Begin empty; the first vectors say how long all are."""
        self._keys: list[str] = []
        self._rows: dict[str, int] = {}
        self._matrix: npt.NDArray[Any] = np.empty((0, 0), self._type)

    def __len__(self) -> int:
        """Return how many vectors there are."""
        return len(self._keys)

    def put(self, keys: Iterable[str], vectors: Vector) -> None:
        """Add or change vectors by key, in the same order."""
        rows = [self._row(key) for key in keys]
        if len(self._keys) > len(self._matrix):
            # What is read from a file at once needs no room to grow yet.
            self._grow(max(len(self._keys), 2 * len(self._matrix)), vectors.shape[1])
        self._write(rows, vectors)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove vectors; the last one takes the place of each."""
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
        """Return the allowed keys nearest to a normalized vector, the best first.

        Each with its cosine. Raise DimensionChanged if the vector is not as long
        as the others.
        """
        if query.shape[0] != self._matrix.shape[1]:
            raise DimensionChanged
        count = len(self._keys)
        scores = self._scores(count, query)
        depth = limit
        while True:
            depth = min(_DEEPER * depth, count)
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
        """Return the row of a key, the next free one if it is new."""
        row = self._rows.setdefault(key, len(self._keys))
        if row == len(self._keys):
            self._keys.append(key)
        return row

    def _grow(self, capacity: int, dimension: int) -> None:
        """Make room for more vectors."""
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
        """Return the cosines of the first rows to a query."""
        result: Vector = self._matrix[:count] @ query
        return result


class CompactTable(VectorTable):
    """Vectors in a quarter of the memory, each number in eight bits.

    What they find is looked at again with the exact vectors: of 40 candidates for
    ten, none that belongs to the ten was missing (30,000 real texts).
    """

    _type = np.int8

    def __init__(self, exact: Callable[[list[str]], Vector]) -> None:
        """Begin empty; exact returns the normalized vectors of keys."""
        super().__init__()
        self._exact = exact
        # What a row was multiplied with to fill the eight bits, inverted.
        self._steps: Vector = np.empty(0, np.float32)

    @override
    def search(
        self, query: Vector, limit: int, allowed: Container[str]
    ) -> list[tuple[str, float]]:
        """Return the allowed keys nearest to a normalized vector, the best first."""
        candidates = super().search(query, max(_CANDIDATES, _DEEPER * limit), allowed)
        if not candidates:
            return []
        keys = [key for key, _ in candidates]
        scores = (self._exact(keys) @ query).tolist()
        ranking = sorted(zip(keys, scores, strict=True), key=lambda item: -item[1])
        return ranking[:limit]

    @override
    def _grow(self, capacity: int, dimension: int) -> None:
        """Make room for more vectors."""
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
        """Return the cosines of the first rows to a query, nearly.

        Widened in blocks that stay in the processor's cache: numpy has no product
        of eight-bit numbers that is worth the name.
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

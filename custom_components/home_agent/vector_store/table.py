"""Vectors in memory: rows that come, change and go without the others being moved."""

from collections.abc import Container, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

type Vector = npt.NDArray[np.float32]

# The ranking is read this many times deeper than asked for, and deeper still while
# too many of the best are not allowed.
_DEEPER: Final = 4


class DimensionChanged(ValueError):
    """The model behind a name makes vectors of another length than before."""


class VectorTable:
    """Normalized vectors by key, in one matrix with room to grow."""

    def __init__(self) -> None:
        """Begin empty; the first vectors say how long all are."""
        self._keys: list[str] = []
        self._rows: dict[str, int] = {}
        self._matrix: Vector = np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        """Return how many vectors there are."""
        return len(self._keys)

    def put(self, keys: Iterable[str], vectors: Vector) -> None:
        """Add or change vectors by key, in the same order."""
        rows = [self._row(key) for key in keys]
        if len(self._keys) > len(self._matrix):
            # What is read from a file at once needs no room to grow yet.
            capacity = max(len(self._keys), 2 * len(self._matrix))
            grown = np.empty((capacity, vectors.shape[1]), np.float32)
            if len(self._matrix):
                grown[: len(self._matrix)] = self._matrix
            self._matrix = grown
        self._matrix[rows] = vectors

    def remove(self, keys: Iterable[str]) -> None:
        """Remove vectors; the last one takes the place of each."""
        for key in keys:
            if (row := self._rows.pop(key, None)) is None:
                continue
            last = self._keys.pop()
            if last != key:
                self._keys[row] = last
                self._rows[last] = row
                self._matrix[row] = self._matrix[len(self._keys)]

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
        scores = self._matrix[:count] @ query
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

"""The interface of every store of vectors."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping


class DimensionChanged(ValueError):
    """A vector's dimension is not that of the stored ones: the model was replaced."""


class VectorStore(ABC):
    """Texts and their vectors, by key, of one embedding model.

    Vectors of different models cannot be compared, so each model has a VectorStore
    object of its own; those of one index share a file or server. All methods of a
    store on a server raise a ModelServerError if the server fails.
    """

    @abstractmethod
    async def texts(self) -> dict[str, str]:
        """Return the text of every key."""

    @abstractmethod
    async def put(self, texts: Mapping[str, str], vectors: list[list[float]]) -> None:
        """Add or replace texts by key, with one vector for each in the same order.

        Raise DimensionChanged if the vectors' dimension is not the stored ones'.
        """

    @abstractmethod
    async def remove(self, keys: Iterable[str]) -> None:
        """Remove keys with their texts and vectors; unknown keys do no harm."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove all keys of this model; the next vectors may have any dimension."""

    @abstractmethod
    async def search(
        self, vector: list[float], limit: int, allowed: Collection[str]
    ) -> list[tuple[str, float]]:
        """Return at most limit allowed keys with their cosine similarity, -1 to 1.

        The nearest to the vector come first; the vector need not be normalized. Raise
        DimensionChanged if its dimension is not that of the stored vectors.
        """

    @abstractmethod
    async def other_model(self) -> str | None:
        """Return the other model of this index with the most keys, None without one."""

    @abstractmethod
    async def drop_other_models(self) -> None:
        """Remove the keys of all other models of this index."""

    @abstractmethod
    async def delete(self) -> None:
        """Remove the whole index, of all its models, and close the store."""

    @abstractmethod
    async def checkpoint(self) -> None:
        """Bring all data into the index's one file, for a backup of that file."""

    @abstractmethod
    async def close(self) -> None:
        """Close the file or connection; the store cannot be used afterwards."""

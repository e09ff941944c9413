"""What every store of vectors can be asked."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping


class DimensionChanged(ValueError):
    """The model behind a name makes vectors of another length than before."""


class VectorStore(ABC):
    """Texts and their vectors, by key, of one embedding model.

    Vectors of different models cannot be compared, so a store of another model is
    another one. A store that is reached over the network raises a ModelServerError
    when that fails.
    """

    @abstractmethod
    async def texts(self) -> dict[str, str]:
        """Return the text of every key."""

    @abstractmethod
    async def put(self, texts: Mapping[str, str], vectors: list[list[float]]) -> None:
        """Store texts by key with their vectors, in the same order.

        Raise DimensionChanged if the vectors are not as long as those stored.
        """

    @abstractmethod
    async def remove(self, keys: Iterable[str]) -> None:
        """Remove keys and their vectors."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove everything of this model."""

    @abstractmethod
    async def search(
        self, vector: list[float], limit: int, allowed: Collection[str]
    ) -> list[tuple[str, float]]:
        """Return the allowed keys nearest to a vector with their cosine similarity.

        The best come first. Raise DimensionChanged if the vector is not as long
        as those stored.
        """

    @abstractmethod
    async def other_model(self) -> str | None:
        """Return the other model that most is stored of, None if there is none."""

    @abstractmethod
    async def drop_other_models(self) -> None:
        """Remove what is stored of models that are used no more."""

    @abstractmethod
    async def delete(self) -> None:
        """Remove everything of all models; the store is closed then."""

    @abstractmethod
    async def checkpoint(self) -> None:
        """Write everything into the one file, for a backup of it."""

    @abstractmethod
    async def close(self) -> None:
        """Free what the store holds."""

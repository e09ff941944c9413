"""The interface of every store of vectors, and the error that it raises."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from homeassistant.exceptions import HomeAssistantError
import numpy as np
import numpy.typing as npt

from ..const import DOMAIN

type Vector = npt.NDArray[np.float32]

# Shorter vectors are as good as all zero: no direction is left of them.
_SHORTEST_VECTOR: Final = 1e-12


class StoreError(HomeAssistantError):
    """A store cannot be opened, read or written.

    log_text says why in one line, without a secret.
    """

    def __init__(self, log_text: str) -> None:
        """Keep the reason, which is also shown to the user."""
        super().__init__(
            translation_domain=DOMAIN,
            translation_key="index_unusable",
            translation_placeholders={"reason": log_text},
        )
        self.log_text = log_text


class DimensionChanged(StoreError):
    """A vector's dimension is not that of the stored ones: the model was replaced."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the embedding model makes vectors of another dimension")


class StoreEmpty(StoreError):
    """A search in a store without a vector: none were stored yet, or all were lost."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("no entity is indexed yet")


class StoreClosed(StoreError):
    """A call to a store after it was closed: its config entry is being unloaded."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the embedding model is not loaded")


class VectorStore(ABC):
    """Texts and their vectors, by key, of one embedding model.

    Vectors of different models cannot be compared, so each model has a VectorStore
    object of its own; those of one index share a file or server. All methods raise a
    StoreError, and nothing else, if the file or the server fails.
    """

    def __init__(self, model: str) -> None:
        """Keep the name of the model."""
        self.model = model

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
        StoreEmpty if the store has no vector at all, and DimensionChanged if the
        dimension is not that of the stored vectors.
        """

    @abstractmethod
    async def other_model(self) -> str | None:
        """Return the other model of this index with the most keys, None without one."""

    @abstractmethod
    async def drop_other_models(self) -> None:
        """Remove the keys of all other models of this index."""

    @abstractmethod
    async def checkpoint(self) -> None:
        """Bring all data into the index's one file, for a backup of that file."""

    @abstractmethod
    async def close(self) -> None:
        """Close the file or connection; the store cannot be used afterwards."""


def as_rows(vectors: list[list[float]]) -> Vector:
    """Return vectors as the rows of a matrix.

    Raise StoreError for vectors that cannot be compared: with different dimensions or
    none, with a value that is no finite number, or all zero.
    """
    try:
        # A number that is too large for 32 bits becomes infinite.
        with np.errstate(over="ignore"):
            matrix = np.asarray(vectors, np.float32)
    except (TypeError, ValueError) as err:
        raise StoreError("the vectors are not rows of numbers") from err
    if matrix.ndim != 2 or not matrix.shape[1] or not usable_rows(matrix).all():
        raise StoreError("a vector is empty, all zero or not finite")
    return matrix


def usable_rows(matrix: Vector) -> npt.NDArray[np.bool_]:
    """Return for each row whether it is finite and not all zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(matrix, axis=1)
    # A length that is not a number is not greater than anything.
    result: npt.NDArray[np.bool_] = np.isfinite(lengths) & (lengths > _SHORTEST_VECTOR)
    return result

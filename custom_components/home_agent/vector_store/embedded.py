"""The embedded store: one SQLite file, in a thread of its own."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, override

from ..const import DOMAIN
from .base import VectorStore
from .sqlite import SqliteVectorStore


class EmbeddedStore(VectorStore):
    """A SqliteVectorStore that does not block the event loop."""

    def __init__(self, executor: ThreadPoolExecutor, store: SqliteVectorStore) -> None:
        """Call store in the one thread of executor: its connection belongs to it."""
        self._executor = executor
        self._store = store

    @classmethod
    async def open(cls, path: Path, model: str) -> Self:
        """Return the store of a model in the file at path, made if it is not there."""
        executor = ThreadPoolExecutor(1, thread_name_prefix=f"{DOMAIN}_index")
        loop = asyncio.get_running_loop()
        store = await loop.run_in_executor(executor, SqliteVectorStore, path, model)
        return cls(executor, store)

    @override
    async def texts(self) -> dict[str, str]:
        """Return the text of every key."""
        return await self._run(self._store.texts)

    @override
    async def put(self, texts: Mapping[str, str], vectors: list[list[float]]) -> None:
        """Store texts by key with their vectors."""
        await self._run(self._store.put, texts, vectors)

    @override
    async def remove(self, keys: Iterable[str]) -> None:
        """Remove keys and their vectors."""
        await self._run(self._store.remove, keys)

    @override
    async def clear(self) -> None:
        """Remove everything of this model."""
        await self._run(self._store.clear)

    @override
    async def search(
        self, vector: list[float], limit: int, allowed: Collection[str]
    ) -> list[tuple[str, float]]:
        """Return the allowed keys nearest to a vector with their cosine similarity."""
        return await self._run(self._store.search, vector, limit, allowed)

    @override
    async def other_model(self) -> str | None:
        """Return the other model that most is stored of, None if there is none."""
        return await self._run(self._store.other_model)

    @override
    async def drop_other_models(self) -> None:
        """Remove what is stored of models that are used no more."""
        await self._run(self._store.drop_other_models)

    @override
    async def delete(self) -> None:
        """Remove the file; nothing is left to be closed then."""
        await self._run(self._store.delete)
        await self._shut_down()

    @override
    async def checkpoint(self) -> None:
        """Write everything into the one file, for a backup of it."""
        await self._run(self._store.checkpoint)

    @override
    async def close(self) -> None:
        """Close the file and end the thread."""
        await self._run(self._store.close)
        await self._shut_down()

    async def _shut_down(self) -> None:
        """End the thread, which may take a moment."""
        await asyncio.to_thread(self._executor.shutdown)

    async def _run[*Ts, T](self, target: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a blocking call in the store's own thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, target, *args)

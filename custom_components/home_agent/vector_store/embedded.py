"""The embedded store: one SQLite file, read and written in one thread."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, override

from ..const import DOMAIN
from .base import VectorStore
from .sqlite import SqliteVectorStore


class EmbeddedStore(VectorStore):
    """Runs a SqliteVectorStore outside the event loop."""

    def __init__(self, executor: ThreadPoolExecutor, store: SqliteVectorStore) -> None:
        """Call store in the one thread of executor, which owns its connection."""
        self._executor = executor
        self._store = store

    @classmethod
    async def open(cls, path: Path, model: str) -> Self:
        """Return the store of a model in the file at path, which may be a new one."""
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
        """Add or replace texts by key with their vectors."""
        await self._run(self._store.put, texts, vectors)

    @override
    async def remove(self, keys: Iterable[str]) -> None:
        """Remove keys with their texts and vectors."""
        await self._run(self._store.remove, keys)

    @override
    async def clear(self) -> None:
        """Remove all keys of this model."""
        await self._run(self._store.clear)

    @override
    async def search(
        self, vector: list[float], limit: int, allowed: Collection[str]
    ) -> list[tuple[str, float]]:
        """Return the nearest allowed keys with their cosine similarity."""
        return await self._run(self._store.search, vector, limit, allowed)

    @override
    async def other_model(self) -> str | None:
        """Return the other model with the most keys, None without one."""
        return await self._run(self._store.other_model)

    @override
    async def drop_other_models(self) -> None:
        """Remove the keys of all other models."""
        await self._run(self._store.drop_other_models)

    @override
    async def delete(self) -> None:
        """Close and remove the file, and end the thread."""
        await self._run(self._store.delete)
        await self._shut_down()

    @override
    async def checkpoint(self) -> None:
        """Bring all data into the one file, for a backup of it."""
        await self._run(self._store.checkpoint)

    @override
    async def close(self) -> None:
        """Close the file and end the thread."""
        await self._run(self._store.close)
        await self._shut_down()

    async def _shut_down(self) -> None:
        """End the thread without blocking the event loop."""
        await asyncio.to_thread(self._executor.shutdown)

    async def _run[*Ts, T](self, target: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return the result of a blocking call, made in the store's own thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, target, *args)

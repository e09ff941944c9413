"""The embedded store: one SQLite file, read and written in one thread."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
import sqlite3
from typing import Self, override

from ..const import DOMAIN
from .base import StoreClosed, StoreError, VectorStore
from .sqlite import SqliteVectorStore


class EmbeddedStore(VectorStore):
    """Runs a SqliteVectorStore outside the event loop."""

    def __init__(
        self, executor: ThreadPoolExecutor, store: SqliteVectorStore, model: str
    ) -> None:
        """Call store in the one thread of executor, which owns its connection."""
        super().__init__(model)
        self._executor = executor
        self._store = store
        self._is_closed = False

    @classmethod
    async def open(cls, path: Path, model: str) -> Self:
        """Return the store of a model in the file at path, which may be a new one.

        A caller that is cancelled leaves no open file and no thread behind.
        """
        executor = ThreadPoolExecutor(1, thread_name_prefix=f"{DOMAIN}_index")
        opening = executor.submit(SqliteVectorStore, path, model)
        try:
            with _store_errors():
                store = await asyncio.wrap_future(opening)
        except BaseException:
            executor.submit(_close_opened, opening)
            executor.shutdown(wait=False)
            raise
        return cls(executor, store, model)

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
    async def checkpoint(self) -> None:
        """Bring all data into the one file, for a backup of it."""
        await self._run(self._store.checkpoint)

    @override
    async def close(self) -> None:
        """Close the file and end the thread, even if closing the file fails."""
        if self._is_closed:
            return
        closing = asyncio.get_running_loop().run_in_executor(
            self._executor, self._store.close
        )
        self._is_closed = True
        try:
            with _store_errors():
                await closing
        finally:
            # Without blocking the event loop.
            await asyncio.to_thread(self._executor.shutdown)

    async def _run[*Ts, T](self, target: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return the result of a blocking call, made in the store's own thread."""
        if self._is_closed:
            raise StoreClosed
        loop = asyncio.get_running_loop()
        with _store_errors():
            return await loop.run_in_executor(self._executor, target, *args)


@contextmanager
def _store_errors() -> Iterator[None]:
    """Raise a StoreError for every way in which a file can fail."""
    try:
        yield
    except OSError as err:
        # Its own text has the path.
        raise StoreError(f"{type(err).__name__}: {err.strerror}") from err
    except (sqlite3.Error, ValueError) as err:
        raise StoreError(f"{type(err).__name__}: {err}") from err


def _close_opened(opening: Future[SqliteVectorStore]) -> None:
    """Close the store that nobody waits for any more, if it was opened."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()

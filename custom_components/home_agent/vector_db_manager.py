"""Embeddings: which entities are indexed, and what is like a question."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import batched, compress
import logging
from typing import Any, Final

from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
from homeassistant.helpers.debounce import Debouncer
from homeassistant.helpers.event import async_call_later
from homeassistant.helpers.start import async_at_started

from .const import (
    CONF_EMBEDDING_BATCH_SIZE,
    CONF_EMBEDDING_KEEP_ALIVE,
    DEFAULT_EMBEDDING_BATCH_SIZE,
    DOMAIN,
)
from .home.exposed import (
    async_get_exposed_entities,
    async_track_exposed_entities,
    is_exposed,
)
from .keep_alive import KeepAlive
from .model.embedding_prompts import EmbeddingPrompts, embedding_prompts
from .model.listeners import Listeners
from .model.role import ModelRole, Role
from .model.turn import Turn
from .servers.errors import ModelNotFound, ModelServerError
from .vector_store.base import DimensionChanged, VectorStore
from .vector_store.engine import async_open_store

_LOGGER = logging.getLogger(__name__)

# Changes come in crowds: a renamed area changes all its entities at once.
SYNC_COOLDOWN: Final = 5.0
# What was hidden is gone within a second, whether the server is there or not.
REMOVAL_COOLDOWN: Final = 0.5
# After a failure: first soon, then less and less often.
RETRY_FIRST: Final = timedelta(minutes=1)
RETRY_LAST: Final = timedelta(hours=1)
# A model that only answers until the index of the next one is made.
FORMER_KEEP_ALIVE: Final = KeepAlive.parse("1m")


class IndexOutdated(Exception):
    """The index was made by another model, or is not used any more."""


@dataclass(frozen=True, slots=True)
class Index:
    """What one model has indexed, and what it wants to read."""

    model: str
    prompts: EmbeddingPrompts
    store: VectorStore


@dataclass(frozen=True, slots=True)
class QuestionVector:
    """A question as a vector, and the index that it can be looked up in."""

    values: list[float]
    index: Index


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How many of the exposed entities are indexed.

    failures counts the attempts in a row that the server has failed, error is
    what it said the last time.
    """

    indexed: int = 0
    total: int = 0
    failures: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a pass over the exposed entities changed in the index."""

    indexed: int
    embedded: int
    removed: int


class VectorDBManager:
    """Embeds the exposed entities and finds them again."""

    def __init__(self, hass: HomeAssistant, config: Mapping[str, Any]) -> None:
        """Make a manager from a flat configuration."""
        self.hass = hass
        self._config = config
        self._role = ModelRole(hass, config, Role.EMBEDDING)
        self._batch_size = int(
            config.get(CONF_EMBEDDING_BATCH_SIZE, DEFAULT_EMBEDDING_BATCH_SIZE)
        )
        self._index: Index | None = None
        # Another model's, which is whole: it answers until ours is whole too.
        self._former: Index | None = None
        self._opening = asyncio.Lock()
        self._one_sync = asyncio.Lock()
        # Cleared while a backup is made.
        self._writable = asyncio.Event()
        self._writable.set()
        # No store is closed while something is removed from it.
        self._removing = asyncio.Lock()
        self.progress = IndexProgress()
        self.progressed = Listeners[()]()
        self._syncing: asyncio.Task[Any] | None = None
        self._tracking = False
        self._is_stopped = False
        self._unsubscribe: list[CALLBACK_TYPE] = []
        self._retry_in = RETRY_FIRST
        self._cancel_retry: CALLBACK_TYPE | None = None
        self._debouncer = Debouncer(
            hass,
            _LOGGER,
            cooldown=SYNC_COOLDOWN,
            immediate=False,
            function=self._async_sync_or_retry,
            background=True,
        )
        self._remover = Debouncer(
            hass,
            _LOGGER,
            cooldown=REMOVAL_COOLDOWN,
            immediate=False,
            function=self._async_remove_hidden,
            background=True,
        )

    async def async_start(self) -> None:
        """Keep the index up to date once Home Assistant is started."""
        self._tracking = True
        self._unsubscribe = [
            async_at_started(self.hass, self._async_on_started),
            async_track_exposed_entities(self.hass, self._exposed_changed),
        ]

    async def async_stop(self) -> None:
        """End the indexing and close the store."""
        self._tracking = False
        self._is_stopped = True
        while self._unsubscribe:
            self._unsubscribe.pop()()
        self._debouncer.async_shutdown()
        self._remover.async_shutdown()
        self._async_cancel_retry()
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.wait([self._syncing])
        await self._async_leave_former()
        async with self._removing:
            if self._index is not None:
                index, self._index = self._index, None
                await index.store.close()

    async def async_delete(self) -> None:
        """Remove the index from its store, which may be on a server.

        Raise a ModelServerError if that is away.
        """
        index = await self._async_open()
        await self._async_leave_former()
        self._index = None
        await index.store.delete()

    async def generate_embedding(
        self, text: str, *, keep_alive: str | int | None = None
    ) -> list[float]:
        """Return the vector of one text."""
        (vector,) = await self.generate_embeddings([text], keep_alive=keep_alive)
        return vector

    async def generate_embeddings(
        self, texts: list[str], *, keep_alive: str | int | None = None
    ) -> list[list[float]]:
        """Return the vectors of texts, in the same order, in one request.

        keep_alive takes the place of the configured one. Raise a
        ModelServerError if the server fails.
        """
        value = KeepAlive.for_role(CONF_EMBEDDING_KEEP_ALIVE, self._config, keep_alive)
        with Turn(self._role) as turn:
            return await turn.embed(self._role.model, texts, value)

    async def async_embed_question(self, question: str) -> QuestionVector:
        """Return a question as a vector.

        While a new model makes its index, the one before it answers. Raise a
        ModelServerError if the question cannot be embedded, and IndexOutdated if its
        entry has been unloaded.
        """
        if self._is_stopped:
            raise IndexOutdated
        index = await self._async_open()
        if (former := self._former) is not None:
            text = f"{former.prompts.question}{question}"
            try:
                with Turn(self._role) as turn:
                    (values,) = await turn.embed(
                        former.model, [text], FORMER_KEEP_ALIVE
                    )
            except ModelNotFound:
                await self._async_leave_former()
            else:
                return QuestionVector(values, former)
        text = f"{index.prompts.question}{question}"
        return QuestionVector(await self.generate_embedding(text), index)

    async def async_nearest(
        self, question: QuestionVector, limit: int, allowed: Collection[str]
    ) -> list[str]:
        """Return the allowed entities nearest to a question, first the best.

        Raise IndexOutdated if the index was made by another model, and a
        ModelServerError if it is on a server that is away.
        """
        if question.index not in (self._index, self._former):
            raise IndexOutdated
        try:
            found = await question.index.store.search(question.values, limit, allowed)
        except DimensionChanged as err:
            self._schedule_sync()
            raise IndexOutdated from err
        return [entity_id for entity_id, _ in found]

    async def async_sync(self) -> SyncResult:
        """Make the index agree with the exposed entities.

        Only texts that changed are embedded. Raise a ModelServerError if the
        server fails; what was embedded until then is kept.
        """
        async with self._one_sync:
            return await self._async_sync(anew=False)

    async def async_reindex(self) -> SyncResult:
        """Embed all exposed entities anew; raise as async_sync does."""
        async with self._one_sync:
            return await self._async_sync(anew=True)

    async def _async_sync(self, *, anew: bool) -> SyncResult:
        """Make the index agree, from the beginning if it shall be made anew."""
        index = await self._async_open()
        store = index.store
        wanted = {
            entity_id: f"{index.prompts.document}{entity.text}"
            for entity_id, entity in async_get_exposed_entities(self.hass).items()
            if not entity.is_secondary
        }
        stored = await store.texts()
        if gone := stored.keys() - wanted.keys():
            await self._async_write(store.remove, gone)
        changed = {
            entity_id: text
            for entity_id, text in wanted.items()
            if anew or stored.get(entity_id) != text
        }
        self._tell(indexed=len(wanted) - len(changed), total=len(wanted))
        try:
            await self._async_embed(store, changed)
        except DimensionChanged:
            _LOGGER.warning(
                "%s makes other vectors than before: indexing all entities anew",
                self._role.model,
            )
            await self._async_write(store.clear)
            changed = wanted
            self._tell(indexed=0)
            await self._async_embed(store, changed)
        await self._async_leave_former()
        await self._async_write(store.drop_other_models)
        self._tell(failures=0, error="")
        return SyncResult(len(wanted), len(changed), len(gone))

    async def _async_embed(self, store: VectorStore, texts: Mapping[str, str]) -> None:
        """Embed texts by key in batches, each stored before the next.

        Between two batches a conversation on the same server goes first.
        """
        for batch in batched(texts.items(), self._batch_size, strict=False):
            await self._role.wait_until_idle()
            vectors = await self.generate_embeddings([text for _, text in batch])
            # What was hidden meanwhile does not come into the index again.
            shown = [is_exposed(self.hass, entity_id) for entity_id, _ in batch]
            if any(shown):
                rows = list(compress(vectors, shown))
                texts_shown = dict(compress(batch, shown))
                await self._async_write(store.put, texts_shown, rows)
            self._tell(indexed=self.progress.indexed + len(batch))

    @callback
    def _tell(self, **changes: Any) -> None:
        """Tell the progress."""
        self.progress = replace(self.progress, **changes)
        self.progressed.notify()

    async def async_hold_writes(self) -> None:
        """Write everything into the one file, and nothing more until released."""
        self._writable.clear()
        if self._index is not None:
            await self._index.store.checkpoint()

    @callback
    def release_writes(self) -> None:
        """Go on writing."""
        self._writable.set()

    async def _async_write[*Ts](
        self, write: Callable[[*Ts], Awaitable[None]], *args: *Ts
    ) -> None:
        """Write into a store, unless a backup is being made: then after it."""
        await self._writable.wait()
        await write(*args)

    async def _async_open(self) -> Index:
        """Return the index, opened when first needed.

        Raise a ModelServerError if it is on a server that is away.
        """
        async with self._opening:
            if self._index is None:
                index = await self._async_open_model(self._role.model)
                if former := await index.store.other_model():
                    self._former = await self._async_open_model(former)
                self._index = index
            return self._index

    async def _async_open_model(self, model: str) -> Index:
        """Return what a model has indexed."""
        store = await async_open_store(self.hass, self._config, model)
        return Index(model, embedding_prompts(model), store)

    async def _async_leave_former(self) -> None:
        """Let the model before answer no more."""
        async with self._removing:
            if self._former is not None:
                former, self._former = self._former, None
                await former.store.close()

    async def _async_on_started(self, hass: HomeAssistant) -> None:
        """Index in the background as soon as everything is there."""
        self._schedule_sync()

    @callback
    def _exposed_changed(self) -> None:
        """Make the index agree with what is exposed now."""
        self._schedule_sync()
        if self._index is not None and self._tracking:
            self._remover.async_schedule_call()

    async def _async_remove_hidden(self) -> None:
        """Remove what is not exposed any more from the index."""
        await self._writable.wait()
        async with self._removing:
            for index in filter(None, (self._index, self._former)):
                try:
                    stored = await index.store.texts()
                    gone = [key for key in stored if not is_exposed(self.hass, key)]
                    if gone:
                        await index.store.remove(gone)
                except ModelServerError as err:
                    _LOGGER.debug("Cannot remove from the index: %s", err.log_text)

    @callback
    def _schedule_sync(self) -> None:
        """Index soon, once for all changes until then."""
        if self.hass.is_running and self._tracking:
            self._debouncer.async_schedule_call()

    async def _async_sync_or_retry(self) -> None:
        """Index; after a failure, try again later."""
        self._async_cancel_retry()
        self._syncing = asyncio.current_task()
        try:
            result = await self.async_sync()
        except ModelServerError as err:
            if self._retry_in == RETRY_FIRST:
                _LOGGER.warning("Cannot index the entities now: %s", err.log_text)
            self._cancel_retry = async_call_later(
                self.hass, self._retry_in, self._async_retry
            )
            self._retry_in = min(2 * self._retry_in, RETRY_LAST)
            self._tell(failures=self.progress.failures + 1, error=err.log_text)
            return
        finally:
            self._syncing = None
        self._retry_in = RETRY_FIRST
        if result.embedded or result.removed:
            _LOGGER.debug("Indexed the exposed entities: %s", result)

    @callback
    def _async_retry(self, _now: Any) -> None:
        """Try again."""
        self._cancel_retry = None
        self._schedule_sync()

    @callback
    def _async_cancel_retry(self) -> None:
        """Forget the next try."""
        if self._cancel_retry is not None:
            self._cancel_retry()
            self._cancel_retry = None


@callback
def embedding_manager(
    hass: HomeAssistant, subentry_id: str | None = None
) -> VectorDBManager | None:
    """Return the embeddings to search with, None where there are none.

    Those of the entry that a subentry belongs to, else the first: all indexes
    hold the same entities.
    """
    entries = hass.config_entries.async_loaded_entries(DOMAIN)
    entries.sort(key=lambda entry: subentry_id not in entry.subentries)
    for entry in entries:
        managers: dict[str, VectorDBManager] = entry.runtime_data.vector_db_managers
        for manager in managers.values():
            return manager
    return None

"""Embeddings of the exposed entities: kept up to date, and searched."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import batched, compress
import logging
from time import monotonic
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
from .model.embedding_prompts import embedding_prompts
from .model.listeners import Listeners
from .model.reauth import async_start_role_reauth
from .model.role import ModelRole, Role
from .model.turn import Turn
from .servers.errors import InvalidAuth, ModelNotFound, ModelServerError
from .vector_store.base import DimensionChanged, VectorStore
from .vector_store.indexes import Index, Indexes, IndexProgress, SyncResult

_LOGGER = logging.getLogger(__name__)

# Seconds from the first change to a sync: a renamed area changes many entities.
SYNC_COOLDOWN: Final = 5.0
# Seconds from hiding an entity to its removal from the index; needs no sync.
REMOVAL_COOLDOWN: Final = 0.5
# The wait after the first failed sync; it doubles with each further one.
RETRY_FIRST: Final = timedelta(minutes=1)
RETRY_LAST: Final = timedelta(hours=1)
# The previous model embeds questions only until the current model's index is complete.
PREVIOUS_MODEL_KEEP_ALIVE: Final = KeepAlive.parse("1m")


class IndexOutdated(Exception):
    """A vector cannot be looked up: its index was replaced or has been closed."""


@dataclass(frozen=True, slots=True)
class QuestionVector:
    """A question's embedding, and the index that it can be looked up in."""

    values: list[float]
    index: Index


class VectorDBManager:
    """Embeds the exposed entities, and finds those that are similar to a question."""

    def __init__(self, hass: HomeAssistant, config: Mapping[str, Any]) -> None:
        """Make a manager from a flat configuration; connect to nothing yet."""
        self.hass = hass
        self._config = config
        self._role = ModelRole(hass, config, Role.EMBEDDING)
        self._batch_size = int(
            config.get(CONF_EMBEDDING_BATCH_SIZE, DEFAULT_EMBEDDING_BATCH_SIZE)
        )
        self.indexes = Indexes(hass, config, self._role.model)
        self._sync_lock = asyncio.Lock()
        self.progress = IndexProgress()
        self.progressed = Listeners[()]()
        self._scheduled_sync: asyncio.Task[Any] | None = None
        self._is_tracking = False
        self._is_stopped = False
        self._unsubscribe: list[CALLBACK_TYPE] = []
        self._retry_in = RETRY_FIRST
        self._cancel_retry: CALLBACK_TYPE | None = None
        self._sync_debouncer = self._debouncer(
            SYNC_COOLDOWN, self._async_scheduled_sync
        )
        self._removal_debouncer = self._debouncer(
            REMOVAL_COOLDOWN, self._async_remove_hidden
        )

    def _debouncer(
        self, cooldown: float, function: Callable[[], Awaitable[None]]
    ) -> Debouncer[Awaitable[None]]:
        """Return what calls a function once, cooldown seconds after a first change."""
        return Debouncer(
            self.hass,
            _LOGGER,
            cooldown=cooldown,
            immediate=False,
            function=function,
            background=True,
        )

    async def async_start(self) -> None:
        """Keep the index up to date from Home Assistant's start until async_stop."""
        self._is_tracking = True
        self._unsubscribe = [
            async_at_started(self.hass, self._async_on_started),
            async_track_exposed_entities(self.hass, self._exposed_changed),
        ]

    async def async_stop(self) -> None:
        """Stop tracking, cancel a running scheduled sync, and close the indexes."""
        self._is_tracking = False
        self._is_stopped = True
        while self._unsubscribe:
            self._unsubscribe.pop()()
        self._sync_debouncer.async_shutdown()
        self._removal_debouncer.async_shutdown()
        self._async_cancel_retry()
        if self._scheduled_sync is not None:
            self._scheduled_sync.cancel()
            await asyncio.wait([self._scheduled_sync])
        await self.indexes.async_close()

    async def async_delete(self) -> None:
        """Delete the index from its store.

        Raise a ModelServerError if the store is on a server that fails.
        """
        await self.indexes.async_delete()

    async def generate_embedding(
        self, text: str, *, keep_alive: str | int | None = None
    ) -> list[float]:
        """Return the vector of one text; see generate_embeddings."""
        (vector,) = await self.generate_embeddings([text], keep_alive=keep_alive)
        return vector

    async def generate_embeddings(
        self, texts: list[str], *, keep_alive: str | int | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, in the same order, by one request.

        All vectors have the model's dimension; whether their length is 1 depends on
        the model. keep_alive replaces the configured one. Raise a ModelServerError if
        the server fails.
        """
        value = KeepAlive.for_role(CONF_EMBEDDING_KEEP_ALIVE, self._config, keep_alive)
        return await self._async_request(self._role.model, texts, value)

    async def _async_request(
        self, model: str, texts: Sequence[str], keep_alive: KeepAlive
    ) -> list[list[float]]:
        """Return the vectors of texts by a model of the role's server.

        Ask the user for a new key if the server refuses the one it has.
        """
        try:
            with Turn(self._role.with_model(model)) as turn:
                return await turn.embed(texts, keep_alive)
        except InvalidAuth:
            async_start_role_reauth(self.hass, self._config, Role.EMBEDDING)
            raise

    async def async_embed_question(self, question: str) -> QuestionVector:
        """Return a question's vector.

        The previous model makes it until the current model's index is complete. Raise
        a ModelServerError if the question cannot be embedded, IndexOutdated after
        async_stop.
        """
        if self._is_stopped:
            raise IndexOutdated
        current = await self.indexes.async_open()
        if (previous := self.indexes.previous) is not None:
            try:
                (values,) = await self._async_request(
                    previous.model,
                    [_as_question(previous.model, question)],
                    PREVIOUS_MODEL_KEEP_ALIVE,
                )
            except ModelNotFound:
                _LOGGER.debug(
                    "The server has no %s any more: searching the incomplete index"
                    " of %s",
                    previous.model,
                    current.model,
                )
                await self.indexes.async_close_previous()
            else:
                return QuestionVector(values, previous)
        text = _as_question(current.model, question)
        return QuestionVector(await self.generate_embedding(text), current)

    async def async_nearest(
        self, question: QuestionVector, limit: int, allowed: Collection[str]
    ) -> list[str]:
        """Return at most limit allowed entity ids, the nearest to a question first.

        Raise IndexOutdated if the question's index has been replaced or closed, and a
        ModelServerError if the index is on a server that fails.
        """
        if question.index not in (self.indexes.current, self.indexes.previous):
            raise IndexOutdated
        try:
            found = await question.index.store.search(question.values, limit, allowed)
        except DimensionChanged as err:
            self._schedule_sync()
            raise IndexOutdated from err
        return [entity_id for entity_id, _ in found]

    async def async_sync(self) -> SyncResult:
        """Make the index agree with the exposed entities.

        Only entities whose text changed are embedded, or all if the dimension of the
        model's vectors changed. Raise a ModelServerError if a server fails; what was
        embedded until then stays in the index.
        """
        return await self._async_sync(embed_all=False)

    async def async_reindex(self) -> SyncResult:
        """Embed all exposed entities again; raise what async_sync raises."""
        return await self._async_sync(embed_all=True)

    async def _async_sync(self, *, embed_all: bool) -> SyncResult:
        """Wait for a sync that is running, then sync all or the changed entities."""
        async with self._sync_lock:
            started = monotonic()
            result = await self._async_update_index(embed_all=embed_all)
            _LOGGER.debug(
                "Sync finished in %.3f s: %d entities indexed, %d embedded, %d removed",
                monotonic() - started,
                result.indexed,
                result.embedded,
                result.removed,
            )
            return result

    async def _async_update_index(self, *, embed_all: bool) -> SyncResult:
        """Remove hidden entities from the index, and embed new and changed ones."""
        index = await self.indexes.async_open()
        store, write = index.store, self.indexes.async_write
        document_prompt = embedding_prompts(index.model).document
        wanted = {
            entity_id: f"{document_prompt}{entity.text}"
            for entity_id, entity in async_get_exposed_entities(self.hass).items()
            if not entity.is_secondary
        }
        stored = await store.texts()
        if removed := stored.keys() - wanted.keys():
            await write(store.remove, removed)
        changed = {
            entity_id: text
            for entity_id, text in wanted.items()
            if embed_all or stored.get(entity_id) != text
        }
        _LOGGER.debug(
            "Sync started: %d of %d entities to embed with %s, %d removed",
            len(changed),
            len(wanted),
            index.model,
            len(removed),
        )
        self._report(indexed=len(wanted) - len(changed), total=len(wanted))
        try:
            await self._async_embed(store, changed)
        except DimensionChanged:
            _LOGGER.warning(
                "%s makes vectors of another dimension than before: indexing all"
                " entities again",
                index.model,
            )
            await write(store.clear)
            changed = wanted
            self._report(indexed=0)
            await self._async_embed(store, changed)
        await self.indexes.async_close_previous()
        await write(store.drop_other_models)
        self._report(failures=0, error="")
        return SyncResult(len(wanted), len(changed), len(removed))

    async def _async_embed(self, store: VectorStore, texts: Mapping[str, str]) -> None:
        """Embed texts by entity id in batches, and store each before the next.

        Before each batch, wait until other models on the same server run no turn.
        """
        for batch in batched(texts.items(), self._batch_size, strict=False):
            await self._role.wait_until_idle()
            vectors = await self.generate_embeddings([text for _, text in batch])
            # The user may have hidden an entity while it was embedded.
            shown = [is_exposed(self.hass, entity_id) for entity_id, _ in batch]
            if any(shown):
                rows = list(compress(vectors, shown))
                texts_shown = dict(compress(batch, shown))
                await self.indexes.async_write(store.put, texts_shown, rows)
            self._report(indexed=self.progress.indexed + len(batch))

    @callback
    def _report(self, **changes: Any) -> None:
        """Change the progress and notify its listeners."""
        self.progress = replace(self.progress, **changes)
        self.progressed.notify()

    async def _async_on_started(self, hass: HomeAssistant) -> None:
        """Sync in the background as soon as all entities are there."""
        self._schedule_sync()

    @callback
    def _exposed_changed(self) -> None:
        """Schedule a sync, and the removal of entities that are hidden now."""
        self._schedule_sync()
        if self.indexes.current is not None and self._is_tracking:
            self._removal_debouncer.async_schedule_call()

    async def _async_remove_hidden(self) -> None:
        """Remove the entities that are not exposed any more from the index."""
        await self.indexes.async_remove_unless(partial(is_exposed, self.hass))

    @callback
    def _schedule_sync(self) -> None:
        """Sync once after SYNC_COOLDOWN, for all changes until then."""
        if self.hass.is_running and self._is_tracking:
            self._sync_debouncer.async_schedule_call()

    async def _async_scheduled_sync(self) -> None:
        """Sync; after a failure, schedule another attempt."""
        self._async_cancel_retry()
        self._scheduled_sync = asyncio.current_task()
        try:
            await self.async_sync()
        except ModelServerError as err:
            self._schedule_retry(err)
        else:
            self._retry_in = RETRY_FIRST
        finally:
            self._scheduled_sync = None

    @callback
    def _schedule_retry(self, err: ModelServerError) -> None:
        """Schedule the attempt after a failed one; warn of the first failure only."""
        if self._retry_in == RETRY_FIRST:
            _LOGGER.warning("Cannot index the entities now: %s", err.log_text)
        _LOGGER.debug("The next sync is in %s, since: %s", self._retry_in, err.log_text)
        self._cancel_retry = async_call_later(
            self.hass, self._retry_in, self._async_retry
        )
        self._retry_in = min(2 * self._retry_in, RETRY_LAST)
        self._report(failures=self.progress.failures + 1, error=err.log_text)

    @callback
    def _async_retry(self, _now: Any) -> None:
        """Sync again after a failure."""
        self._cancel_retry = None
        self._schedule_sync()

    @callback
    def _async_cancel_retry(self) -> None:
        """Cancel the attempt that a failure has scheduled."""
        if self._cancel_retry is not None:
            self._cancel_retry()
            self._cancel_retry = None


def _as_question(model: str, question: str) -> str:
    """Return a question as a model expects it, with the model's own prompt."""
    return f"{embedding_prompts(model).question}{question}"


@callback
def embedding_manager(
    hass: HomeAssistant, subentry_id: str | None = None
) -> VectorDBManager | None:
    """Return the manager to search with, None if no embedding model is set up.

    Prefer a manager of the config entry that the subentry belongs to. Otherwise take
    the first of any loaded entry: all indexes hold the same entities.
    """
    entries = hass.config_entries.async_loaded_entries(DOMAIN)
    entries.sort(key=lambda entry: subentry_id not in entry.subentries)
    for entry in entries:
        managers: dict[str, VectorDBManager] = entry.runtime_data.vector_db_managers
        for manager in managers.values():
            return manager
    return None

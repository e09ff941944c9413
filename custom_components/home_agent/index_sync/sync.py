"""One sync of the index with the exposed entities."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import batched, compress
import logging
from time import monotonic
from typing import Any, Final

from homeassistant.core import HomeAssistant, callback
from homeassistant.util import dt as dt_util

from ..home.exposed import is_exposed
from ..home.exposed_tracker import exposed_entity_tracker
from ..listeners import Listeners
from ..model.embedding_prompts import embedding_prompts
from ..servers.errors import ModelServerError
from ..vector_store.base import (
    DimensionChanged,
    StoreClosed,
    StoreEmpty,
    StoreError,
    VectorStore,
)
from .index import Index

_LOGGER = logging.getLogger(__name__)

# Seconds between two comparisons of a new vector with the stored one of the same text.
MODEL_CHECK_INTERVAL: Final = 3600.0
# The least cosine similarity of two vectors that the same model makes of one text. They
# differ a little, because a server rounds and batches differently from time to time.
# The vectors of two models are less similar.
_SAME_MODEL_SIMILARITY: Final = 0.99


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How many of the entities to index are indexed, and why a sync failed.

    failing_since is when the current series of failed syncs began, None after
    a successful sync. error is the log text of the last failure, "" after a successful
    sync.
    """

    indexed: int = 0
    total: int = 0
    failing_since: datetime | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """The result of a sync.

    How many entities the index has now, and how many the sync embedded and removed.
    """

    indexed: int
    embedded: int
    removed: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A stored text that is embedded again to check that the model is the same."""

    key: str
    text: str


class IndexSync:
    """Embeds new and changed entities, and removes those that are no longer exposed.

    is_outdated is true if the configured name now means another model than the one that
    made the stored vectors. They are useless then; the next sync replaces them.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        index: Index,
        embed: Callable[[list[str]], Awaitable[list[list[float]]]],
        wait_until_idle: Callable[[], Awaitable[None]],
        batch_size: int,
    ) -> None:
        """Embed batch_size texts at once, each time after wait_until_idle."""
        self._hass = hass
        self._index = index
        self._embed = embed
        self._wait_until_idle = wait_until_idle
        self._batch_size = batch_size
        self._lock = asyncio.Lock()
        self._sample: Sample | None = None
        self._checked_at = 0.0
        self.is_outdated = False
        self.progress = IndexProgress()
        self.progressed = Listeners[()]()

    async def async_run(self, *, embed_all: bool = False) -> SyncResult:
        """Wait for a sync that is running, then sync the index.

        Only entities whose text changed are embedded, or all if embed_all is true or
        the model changed. Raise a ModelServerError or a StoreError if a server or the
        store fails; what was embedded until then stays in the index.
        """
        async with self._lock:
            started = monotonic()
            try:
                result = await self._async_update(embed_all=embed_all)
            except StoreClosed:
                raise
            except StoreError as err:
                self._report_failure(err.log_text)
                await self._index.async_reopen_later()
                raise
            except ModelServerError as err:
                self._report_failure(err.log_text)
                raise
            except Exception as err:
                self._report_failure(type(err).__name__)
                raise
            self._report(failing_since=None, error="")
            _LOGGER.debug(
                "Sync finished in %.3f s: %d entities indexed, %d embedded, %d removed",
                monotonic() - started,
                result.indexed,
                result.embedded,
                result.removed,
            )
            return result

    async def _async_update(self, *, embed_all: bool) -> SyncResult:
        """Remove entities that are no longer exposed; embed new and changed ones."""
        index = self._index
        store = await index.async_open()
        wanted = self._wanted_texts(store.model)
        stored, removed = await index.async_remove_unless(wanted.__contains__)
        # Questions do not check the sample while its vector may be replaced.
        sample, self._sample = _first_unchanged(stored, wanted), None
        changed = {
            key: text
            for key, text in wanted.items()
            if embed_all or stored.get(key) != text
        }
        if changed and sample is not None and (embed_all or self._is_check_due()):
            await self._async_embed_sample(store, sample)
        if self.is_outdated:
            await self._async_clear(store)
            changed = wanted
        _LOGGER.debug(
            "Sync started: %d of %d entities to embed with %s, %d removed",
            len(changed),
            len(wanted),
            store.model,
            removed,
        )
        self._report(indexed=len(wanted) - len(changed), total=len(wanted))
        try:
            await self._async_embed(store, changed)
        except DimensionChanged:
            await self._async_clear(store)
            changed = wanted
            self._report(indexed=0)
            await self._async_embed(store, changed)
        await index.async_close_previous()
        await index.async_write(store.drop_other_models)
        if len(changed) == len(wanted):
            self._checked_at = monotonic()
        self._sample = _first_unchanged(wanted, wanted)
        return SyncResult(len(wanted), len(changed), removed)

    def _wanted_texts(self, model: str) -> dict[str, str]:
        """Return the texts that the index should hold, by entity."""
        prompt = embedding_prompts(model).document
        return {
            entity_id: f"{prompt}{entity.text}"
            for entity_id, entity in exposed_entity_tracker(self._hass)
            .async_entities()
            .items()
            if not entity.is_secondary
        }

    async def _async_clear(self, store: VectorStore) -> None:
        """Remove all vectors, because another model made them."""
        _LOGGER.warning(
            "The name %s now means another model than the one that made the index:"
            " indexing all entities again",
            store.model,
        )
        await self._index.async_write(store.clear)
        self.is_outdated = False

    async def _async_embed(self, store: VectorStore, texts: Mapping[str, str]) -> None:
        """Embed texts by entity id in batches, and store each before the next.

        Before each batch, wait until other models on the same server run no turn.
        """
        for batch in batched(texts.items(), self._batch_size, strict=False):
            await self._wait_until_idle()
            vectors = await self._embed([text for _, text in batch])
            # An entity may no longer be exposed when its text has been embedded.
            exposed = [is_exposed(self._hass, entity_id) for entity_id, _ in batch]
            if any(exposed):
                rows = list(compress(vectors, exposed))
                exposed_texts = dict(compress(batch, exposed))
                await self._index.async_write(store.put, exposed_texts, rows)
            self._report(indexed=self.progress.indexed + len(batch))

    async def _async_embed_sample(self, store: VectorStore, sample: Sample) -> None:
        """Embed a stored text again, and compare the vector with the stored one."""
        await self._wait_until_idle()
        (vector,) = await self._embed([sample.text])
        await self._async_compare(store, sample, vector)

    @callback
    def due_sample(self) -> Sample | None:
        """Return a stored text that should be embedded with the next question.

        None if there is none, or if the model was checked within the past hour.
        """
        return self._sample if self._is_check_due() else None

    async def async_check_model(
        self, store: VectorStore, sample: Sample, vector: list[float]
    ) -> None:
        """Set is_outdated: whether vector differs from the stored one of the sample.

        Do nothing if a sync has replaced the sample meanwhile.

        Raise StoreError if the stored vector cannot be read.
        """
        if sample is self._sample:
            await self._async_compare(store, sample, vector)

    async def _async_compare(
        self, store: VectorStore, sample: Sample, vector: list[float]
    ) -> None:
        """Set is_outdated to true if vector differs from the stored one, else to false.

        Leave it as it is if the store is empty.
        """
        try:
            found = await store.search(vector, 1, {sample.key})
        except DimensionChanged:
            self.is_outdated = True
        except StoreEmpty:
            return
        else:
            self.is_outdated = bool(found) and found[0][1] < _SAME_MODEL_SIMILARITY
        self._checked_at = monotonic()

    def _is_check_due(self) -> bool:
        """Return whether the model was not checked within the past hour."""
        since = monotonic() - self._checked_at
        return not self._checked_at or since > MODEL_CHECK_INTERVAL

    @callback
    def _report_failure(self, log_text: str) -> None:
        """Report why a sync failed; log a warning for the first failure of a series."""
        since = self.progress.failing_since
        if since is None:
            _LOGGER.warning("Cannot index the entities now: %s", log_text)
            since = dt_util.utcnow()
        self._report(failing_since=since, error=log_text)

    @callback
    def _report(self, **changes: Any) -> None:
        """Change the progress and notify its listeners."""
        self.progress = replace(self.progress, **changes)
        self.progressed.notify()


def _first_unchanged(
    stored: Mapping[str, str], wanted: Mapping[str, str]
) -> Sample | None:
    """Return the first stored text that is still wanted, None if there is none."""
    return next(
        (Sample(key, text) for key, text in stored.items() if wanted.get(key) == text),
        None,
    )

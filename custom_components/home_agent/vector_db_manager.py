"""Embeddings of texts, and the search for the exposed entities that are nearest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
import logging
from typing import Any, Final

from homeassistant.core import HomeAssistant, callback

from .const import (
    CONF_EMBEDDING_BATCH_SIZE,
    CONF_EMBEDDING_KEEP_ALIVE,
    DEFAULT_EMBEDDING_BATCH_SIZE,
    DOMAIN,
)
from .index_sync.index import Index
from .index_sync.schedule import IndexSchedule
from .index_sync.sync import IndexSync
from .keep_alive import KeepAlive
from .model.embedding_prompts import embedding_prompts
from .model.reauth import async_start_role_reauth
from .model.role import ModelRole, Role
from .model.turn import Turn
from .servers.errors import InvalidAuth, ModelNotFound
from .vector_store.base import DimensionChanged, StoreEmpty, StoreError, VectorStore
from .vector_store.engine import async_delete_index

_LOGGER = logging.getLogger(__name__)

# The previous model embeds questions only until the current model's store is complete.
PREVIOUS_MODEL_KEEP_ALIVE: Final = KeepAlive.parse("1m")


class IndexOutdated(StoreError):
    """A vector cannot be looked up: the store was replaced, or is of another model."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the index is being made again")


@dataclass(frozen=True, slots=True)
class QuestionVector:
    """A question's embedding, and the store that it can be looked up in."""

    values: list[float]
    store: VectorStore


class VectorDBManager:
    """Embeds texts, and finds the exposed entities that are similar to a question.

    sync makes its index equal to the exposed entities.
    """

    def __init__(self, hass: HomeAssistant, config: Mapping[str, Any]) -> None:
        """Make a manager from a flat configuration; connect to nothing yet."""
        self.hass = hass
        self._config = config
        self._role = ModelRole(hass, config, Role.EMBEDDING)
        self.index = Index(hass, config, self._role.model)
        self.sync = IndexSync(
            hass,
            self.index,
            self.generate_embeddings,
            self._role.wait_until_idle,
            int(config.get(CONF_EMBEDDING_BATCH_SIZE, DEFAULT_EMBEDDING_BATCH_SIZE)),
        )
        self.schedule = IndexSchedule(hass, self.index, self.sync, self._role.use)

    async def async_stop(self) -> None:
        """Cancel a running scheduled sync, and close the index."""
        await self.schedule.async_stop()
        await self.index.async_close()

    async def async_delete(self) -> None:
        """Delete the index from its store, after async_stop.

        Raise StoreError if the file cannot be removed or the store's server fails.
        """
        await async_delete_index(self.hass, self._config)

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
        return await self._async_request(self._role, texts, value)

    async def _async_request(
        self, role: ModelRole, texts: Sequence[str], keep_alive: KeepAlive
    ) -> list[list[float]]:
        """Return the vectors of texts by the model of a role.

        Ask the user for a new key if the server refuses the one it has.
        """
        try:
            with Turn(role) as turn:
                return await turn.embed(texts, keep_alive)
        except InvalidAuth:
            async_start_role_reauth(self.hass, self._config, Role.EMBEDDING)
            raise

    async def async_embed_question(self, question: str) -> QuestionVector:
        """Return a question's vector.

        The previous model makes it until the current model's store is complete. Raise
        a ModelServerError if the question cannot be embedded, and a StoreError if
        there is no store to look it up in.
        """
        current = await self.index.async_open()
        if (previous := self.index.previous) is not None:
            try:
                return await self._async_embed_by_previous(previous, question)
            except ModelNotFound:
                _LOGGER.debug(
                    "The server has no %s any more: searching the incomplete index"
                    " of %s",
                    previous.model,
                    current.model,
                )
                await self.index.async_close_previous()
        if self.sync.is_outdated:
            raise IndexOutdated
        texts = [_as_question(current.model, question)]
        if (sample := self.sync.due_sample()) is not None:
            texts.append(sample.text)
        values, *of_sample = await self.generate_embeddings(texts)
        if sample is not None:
            await self.sync.async_check_model(current, sample, *of_sample)
            if self.sync.is_outdated:
                self.schedule.request_sync()
                raise IndexOutdated
        return QuestionVector(values, current)

    async def _async_embed_by_previous(
        self, previous: VectorStore, question: str
    ) -> QuestionVector:
        """Return a question's vector by the previous model; raise as the request."""
        # Its own role, so that the request counts as a use of that model.
        model = {Role.EMBEDDING.key("model"): previous.model}
        role = ModelRole(self.hass, {**self._config, **model}, Role.EMBEDDING)
        (values,) = await self._async_request(
            role, [_as_question(previous.model, question)], PREVIOUS_MODEL_KEEP_ALIVE
        )
        return QuestionVector(values, previous)

    async def async_nearest(
        self, question: QuestionVector, limit: int, allowed: Collection[str]
    ) -> list[str]:
        """Return at most limit allowed entity ids, the nearest to a question first.

        Raise StoreError if they cannot be looked up; a sync then repairs the index.
        """
        store = question.store
        if store not in (self.index.current, self.index.previous):
            raise IndexOutdated
        try:
            found = await store.search(question.values, limit, allowed)
        except DimensionChanged:
            if store is self.index.previous:
                await self.index.async_close_previous()
            else:
                self.sync.is_outdated = True
            self.schedule.request_sync()
            raise
        except StoreEmpty:
            if self.sync.progress.total:
                # It was not empty: the store has lost its data.
                self.schedule.request_sync()
            raise
        except StoreError:
            self.schedule.request_sync()
            raise
        return [entity_id for entity_id, _ in found]


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

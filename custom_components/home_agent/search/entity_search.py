"""Find exposed entities by two rankings: embeddings (dense) and words (lexical)."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
import logging
from time import monotonic
from typing import Any, Final, Self

from homeassistant.core import HomeAssistant, State, callback
from homeassistant.util.hass_dict import HassKey

from ..const import DOMAIN
from ..home.exposed import ExposedEntity, is_exposed
from ..home.exposed_tracker import exposed_entity_tracker
from ..home.text import MAX_NAME_LENGTH, one_line
from ..servers.errors import ModelServerError
from ..vector_db_manager import IndexOutdated, QuestionVector, VectorDBManager
from ..vector_store.base import DimensionChanged, StoreClosed, StoreEmpty, StoreError
from .lexical_ranking import LexicalRanking

_LOGGER = logging.getLogger(__name__)

# The constant k of reciprocal rank fusion, as Cormack, Clarke and Buettcher (SIGIR
# 2009) chose it: the larger, the less the first ranks count more than the next ones.
_RRF_K: Final = 60
# How many entities of each ranking are read.
_RANKING_DEPTH: Final = 100
# The share of the results that is reserved for the asking area: with it, questions
# such as "is the window open" find 0.82 instead of 0.53 of the right entities, and
# questions about other areas 0.76 instead of 0.78 (benchmarks/recall.py).
_ASKING_AREA_SHARE: Final = 0.3

# Longer questions are cut: a full-text search takes seconds for thousands of words.
_MAX_QUESTION_LENGTH: Final = 2000


class SearchMode(StrEnum):
    """Which rankings a search used: both, the lexical or the dense one."""

    HYBRID = "hybrid"
    LEXICAL = "lexical"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityFilter:
    """Which entities a search may return; an empty field allows all.

    areas are names, aliases or ids of areas, or names of floors, in any case; states
    are compared with the entities' states at the time of the search. all_categories
    also allows diagnostic and configuration entities, which are left out otherwise.
    """

    domains: Sequence[str] = ()
    areas: Sequence[str] = ()
    device_classes: Sequence[str] = ()
    states: Sequence[str] = ()
    all_categories: bool = False

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the filter that a tool's or an action's arguments ask for.

        The keys domain, area, device_class, state and all_categories are optional;
        all but the last hold sequences of strings.
        """
        return cls(
            domains=arguments.get("domain", ()),
            areas=arguments.get("area", ()),
            device_classes=arguments.get("device_class", ()),
            states=arguments.get("state", ()),
            all_categories=arguments.get("all_categories", False),
        )

    @property
    def is_specific(self) -> bool:
        """Return whether the filter alone says which entities are wanted."""
        return any((self.domains, self.areas, self.device_classes, self.states))

    def allows(self, entity: ExposedEntity, state: State | None) -> bool:
        """Return whether the search may return an entity with this state."""
        return (
            (self.all_categories or not entity.is_secondary)
            and (not self.domains or entity.domain in self.domains)
            and (not self.areas or self._is_in_areas(entity))
            and (not self.device_classes or entity.device_class in self.device_classes)
            and (not self.states or (state is not None and state.state in self.states))
        )

    def _is_in_areas(self, entity: ExposedEntity) -> bool:
        """Return whether an entity is in one of the areas."""
        # The entity's own names are single lines too.
        areas = {one_line(area, MAX_NAME_LENGTH).casefold() for area in self.areas}
        return any(place.casefold() in areas for place in entity.places)


_NO_FILTER: Final = EntityFilter()


@dataclass(frozen=True, slots=True)
class EntityMatch:
    """An entity that a search found.

    score is the sum of reciprocal ranks, see reciprocal_rank_fusion; 0 for an entity
    that no ranking has and that only the filter found.
    """

    entity: ExposedEntity
    score: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The entities that a search found, the best first, and the rankings it used."""

    matches: list[EntityMatch]
    mode: SearchMode


@dataclass(slots=True)
class _Question:
    """A question, all exposed entities by id, and its vector if there is one."""

    exposed: dict[str, ExposedEntity]
    text: str
    vector: QuestionVector | None = None


class EntitySearch:
    """Searches the exposed entities; all config entries share one instance."""

    def __init__(self, hass: HomeAssistant) -> None:
        """Search the home of hass."""
        self._hass = hass
        self._lexical = LexicalRanking(hass)

    async def async_search(
        self,
        query: str,
        limit: int,
        *,
        manager: VectorDBManager | None = None,
        where: EntityFilter = _NO_FILTER,
        asking_area_id: str | None = None,
        embedding_timeout: float | None = None,
    ) -> SearchResult:
        """Return at most limit exposed entities that fit a question best.

        A share of the results is reserved for the area with the id asking_area_id,
        where the question was asked. The search uses the lexical ranking only (the
        result's mode says so) without a manager, while the manager's server or index
        fails or its index is being remade, and if embedding the question takes longer
        than embedding_timeout, in seconds. Entities that a filter allows are found even
        if neither ranking has them. Nothing is raised for a failed server or index.
        """
        started = monotonic()
        query = one_line(query, _MAX_QUESTION_LENGTH)
        states = self._hass.states
        exposed = exposed_entity_tracker(self._hass).async_entities()
        allowed = {
            key
            for key, entity in exposed.items()
            if where.allows(entity, states.get(key))
        }
        question = _Question(exposed, query)
        if manager is not None:
            question.vector = await self._async_vector(
                manager, query, embedding_timeout
            )
        scores, mode = await self._async_rank(question, manager, allowed)
        best = list(scores)[:limit]
        if asking_area_id is not None:
            nearby = {key for key in allowed if exposed[key].area_id == asking_area_id}
            nearby_scores, _ = await self._async_rank(question, manager, nearby)
            best = _with_reserved_share(best, list(nearby_scores), limit)
        if where.is_specific:
            best += sorted(allowed.difference(best))[: limit - len(best)]
        # The user may have hidden an entity while the search was waiting.
        matches = [
            EntityMatch(exposed[key], scores.get(key, 0.0))
            for key in best
            if states.get(key) and is_exposed(self._hass, key)
        ]
        _LOGGER.debug(
            "Search found %d of %d allowed entities (at most %d) in %.3f s, mode %s,"
            " asking area %s",
            len(matches),
            len(allowed),
            limit,
            monotonic() - started,
            mode,
            asking_area_id,
        )
        return SearchResult(matches, mode)

    async def _async_rank(
        self,
        question: _Question,
        manager: VectorDBManager | None,
        allowed: set[str],
    ) -> tuple[dict[str, float], SearchMode]:
        """Return the scores of allowed entities, the best first, and the mode.

        A question whose dense ranking fails loses its vector, so that the next call
        for the same question does not try and fail again.
        """
        dense: list[str] | None = None
        if manager is not None and question.vector is not None:
            dense = await self._async_dense_ranking(manager, question.vector, allowed)
        if dense is None:
            question.vector = None
        lexical = await self._lexical.async_search(
            question.exposed, question.text, _RANKING_DEPTH, allowed
        )
        mode = SearchMode.HYBRID
        if dense is None:
            mode = SearchMode.LEXICAL
        elif lexical is None:
            mode = SearchMode.EMBEDDINGS
        _LOGGER.debug(
            "Rankings of %d allowed entities: dense %s, lexical %s",
            len(allowed),
            "not used" if dense is None else len(dense),
            "not used" if lexical is None else len(lexical),
        )
        rankings = [ranking for ranking in (dense, lexical) if ranking is not None]
        return dict(reciprocal_rank_fusion(rankings)), mode

    async def _async_vector(
        self, manager: VectorDBManager, query: str, timeout: float | None
    ) -> QuestionVector | None:
        """Return the vector of a question, None if there is none within timeout."""
        # Closing the connection would make a server stop loading the model, so the
        # request goes on after the timeout.
        embedding = self._hass.async_create_background_task(
            manager.async_embed_question(query), "embed a question"
        )
        try:
            await asyncio.wait([embedding], timeout=timeout)
        finally:
            if not embedding.done():
                embedding.add_done_callback(_log_late_failure)
        if not embedding.done():
            _LOGGER.debug("No dense ranking: embedding took longer than %s s", timeout)
            return None
        try:
            return embedding.result()
        except (ModelServerError, StoreError) as err:
            _log_no_dense_ranking(err)
        return None

    async def _async_dense_ranking(
        self, manager: VectorDBManager, vector: QuestionVector, allowed: set[str]
    ) -> list[str] | None:
        """Return the allowed entities by cosine similarity, None if that fails."""
        try:
            return await manager.async_nearest(vector, _RANKING_DEPTH, allowed)
        except (ModelServerError, StoreError) as err:
            _log_no_dense_ranking(err)
            return None


def _with_reserved_share(best: list[str], nearby: list[str], limit: int) -> list[str]:
    """Return the best keys with the reserved share of those nearby among them.

    Keys from nearby that are not among the best take the places of the last ones.
    """
    reserved = nearby[: round(_ASKING_AREA_SHARE * limit)]
    added = [key for key in reserved if key not in best]
    return [*best[: limit - len(added)], *added]


def _log_no_dense_ranking(err: ModelServerError | StoreError) -> None:
    """Log why a search has no dense ranking: a state that passes is no warning."""
    passes = isinstance(err, (DimensionChanged, StoreEmpty, StoreClosed, IndexOutdated))
    level = logging.DEBUG if passes else logging.WARNING
    _LOGGER.log(level, "Searching without embeddings: %s", err.log_text)


def _log_late_failure(embedding: asyncio.Future[QuestionVector]) -> None:
    """Log why a question was not embedded after its search had gone on without it."""
    if embedding.cancelled() or (err := embedding.exception()) is None:
        return
    if isinstance(err, (ModelServerError, StoreError)):
        text = err.log_text
    else:
        text = type(err).__name__
    _LOGGER.debug("A question was not embedded: %s", text)


def reciprocal_rank_fusion(rankings: Iterable[list[str]]) -> list[tuple[str, float]]:
    """Return all ranked keys with their scores, the best first.

    A key's score is the sum of 1 / (60 + rank) over the rankings, with ranks from 1
    (Cormack, Clarke and Buettcher, SIGIR 2009). Ranks and not similarities are
    added, since BM25 and cosines cannot be compared. Ties keep the order of the
    rankings.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, start=1):
            scores[key] = scores.get(key, 0.0) + 1 / (_RRF_K + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


_DATA: Final[HassKey[EntitySearch]] = HassKey(f"{DOMAIN}_entity_search")


@callback
def entity_search(hass: HomeAssistant) -> EntitySearch:
    """Return the search that all config entries share."""
    return hass.data.setdefault(_DATA, EntitySearch(hass))

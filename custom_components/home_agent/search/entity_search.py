"""Find exposed entities by two ballots: what is meant, and the words that are said."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
import logging
import sqlite3
from typing import Any, Final, Self

from homeassistant.core import HomeAssistant, State, callback
from homeassistant.util.hass_dict import HassKey

from ..const import DOMAIN
from ..home.exposed import (
    ExposedEntity,
    async_get_exposed_entities,
    async_track_exposed_entities,
    is_exposed,
)
from ..home.text import MAX_NAME_LENGTH, one_line
from ..servers.errors import ModelServerError
from ..vector_db_manager import IndexOutdated, QuestionVector, VectorDBManager
from .lexical import LexicalIndex

_LOGGER = logging.getLogger(__name__)

# Reciprocal rank fusion: how much the first ranks count more than the next ones,
# and how deep each ballot is read.
_RRF: Final = 60
_DEPTH: Final = 100
# The share of places for the room that a question is asked in: such as "is the window
# open" then find 0.82 instead of 0.53 of what they are about, and questions about other
# rooms 0.76 instead of 0.78 (benchmarks/recall.py).
_SEATS: Final = 0.3


class SearchMode(StrEnum):
    """By which ballots a search was made."""

    HYBRID = "hybrid"
    LEXICAL = "lexical"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityFilter:
    """What is searched in; an empty one is everything but diagnostics and settings.

    areas are names, aliases or ids, as anybody writes them; states are those of
    this moment.
    """

    domains: Sequence[str] = ()
    areas: Sequence[str] = ()
    device_classes: Sequence[str] = ()
    states: Sequence[str] = ()
    all_categories: bool = False

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the filter of a tool's or an action's arguments, all optional."""
        return cls(
            domains=arguments.get("domain", ()),
            areas=arguments.get("area", ()),
            device_classes=arguments.get("device_class", ()),
            states=arguments.get("state", ()),
            all_categories=arguments.get("all_categories", False),
        )

    @property
    def narrows(self) -> bool:
        """Return whether it says what is looked for."""
        return any((self.domains, self.areas, self.device_classes, self.states))

    def allows(self, entity: ExposedEntity, state: State | None) -> bool:
        """Return whether an entity in a state is searched in."""
        return (
            (self.all_categories or not entity.is_secondary)
            and (not self.domains or entity.domain in self.domains)
            and (not self.areas or self._is_in_areas(entity))
            and (not self.device_classes or entity.device_class in self.device_classes)
            and (not self.states or (state is not None and state.state in self.states))
        )

    def _is_in_areas(self, entity: ExposedEntity) -> bool:
        """Return whether an entity is in one of the areas."""
        areas = {one_line(area, MAX_NAME_LENGTH).casefold() for area in self.areas}
        return any(place.casefold() in areas for place in entity.places)


_EVERYTHING: Final = EntityFilter()


@dataclass(frozen=True, slots=True)
class EntityMatch:
    """An entity found for a question; a higher score fits better."""

    entity: ExposedEntity
    score: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was found, the best first, and by which ballots."""

    matches: list[EntityMatch]
    mode: SearchMode


@dataclass(slots=True)
class _Question:
    """A question, the entities it is asked of, and its vector if there is one."""

    exposed: dict[str, ExposedEntity]
    text: str
    vector: QuestionVector | None = None


class EntitySearch:
    """Searches the exposed entities; one for all who search."""

    def __init__(self, hass: HomeAssistant) -> None:
        """Begin without an index; the first search makes it."""
        self._hass = hass
        self._index: LexicalIndex | None = None
        self._indexed: dict[str, ExposedEntity] = {}
        self._has_fts5 = True
        self._exposed: dict[str, ExposedEntity] | None = None
        self._is_tracking = False
        self._one_at_a_time = asyncio.Lock()

    async def async_search(
        self,
        query: str,
        limit: int,
        *,
        manager: VectorDBManager | None = None,
        where: EntityFilter = _EVERYTHING,
        here: str | None = None,
        patience: float | None = None,
    ) -> SearchResult:
        """Return the exposed entities that fit a question best.

        here is the area that the question is asked in: its best entities get some
        of the places. Without a manager, or while its server is away, its index is
        made anew or its answer takes longer than patience, in seconds, only words
        count; the mode says so. What a filter lets through is found even if no
        word fits.
        """
        states = self._hass.states
        exposed = self.async_exposed()
        allowed = {
            key
            for key, entity in exposed.items()
            if where.allows(entity, states.get(key))
        }
        question = _Question(exposed, query)
        if manager is not None:
            question.vector = await self._async_vector(manager, query, patience)
        ranking, mode = await self._async_rank(question, manager, allowed)
        best = list(ranking)[:limit]
        if here is not None:
            room = {key for key in allowed if exposed[key].area_id == here}
            nearby, _ = await self._async_rank(question, manager, room)
            seats = list(nearby)[: round(_SEATS * limit)]
            late = [key for key in seats if key not in best]
            best = [*best[: limit - len(late)], *late]
        if where.narrows:
            best += sorted(allowed.difference(best))[: limit - len(best)]
        # What was hidden while we waited is not found any more.
        matches = [
            EntityMatch(exposed[key], ranking.get(key, 0.0))
            for key in best
            if states.get(key) and is_exposed(self._hass, key)
        ]
        return SearchResult(matches, mode)

    @callback
    def async_exposed(self) -> dict[str, ExposedEntity]:
        """Return the exposed entities, described anew when they have changed."""
        if not self._is_tracking:
            # As long as Home Assistant runs: all entries search here.
            async_track_exposed_entities(self._hass, self._changed)
            self._is_tracking = True
        if self._exposed is None:
            self._exposed = async_get_exposed_entities(self._hass)
        return self._exposed

    @callback
    def _changed(self) -> None:
        """Forget what the exposed entities are."""
        self._exposed = None

    async def _async_rank(
        self,
        question: _Question,
        manager: VectorDBManager | None,
        allowed: set[str],
    ) -> tuple[dict[str, float], SearchMode]:
        """Return the scores of allowed entities, the best first, by all ballots."""
        meant: list[str] | None = None
        if manager is not None and question.vector is not None:
            try:
                meant = await manager.async_nearest(question.vector, _DEPTH, allowed)
            except IndexOutdated:
                _LOGGER.debug("Searching by words only: the index is made anew")
            except ModelServerError as err:
                _LOGGER.warning("Searching by words only: %s", err.log_text)
        said = await self._async_said(question.exposed, question.text, allowed)
        mode = SearchMode.HYBRID
        if meant is None:
            mode = SearchMode.LEXICAL
        elif said is None:
            mode = SearchMode.EMBEDDINGS
        ballots = [ballot for ballot in (meant, said) if ballot is not None]
        return dict(fused(ballots)), mode

    async def _async_vector(
        self, manager: VectorDBManager, query: str, patience: float | None
    ) -> QuestionVector | None:
        """Return the vector of a question, None where there is none in time."""
        # Hanging up would end the load of a cold model: it goes on without us.
        asked = self._hass.async_create_background_task(
            manager.async_embed_question(query), "embed a question"
        )
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(asked)
        except TimeoutError:
            _LOGGER.debug("Searching by words only: no vector in %s s", patience)
            asked.add_done_callback(_forgotten)
        except ModelServerError as err:
            _LOGGER.warning("Searching by words only: %s", err.log_text)
        except IndexOutdated:
            _LOGGER.debug("Searching by words only: the entry was unloaded")
        return None

    async def _async_said(
        self, exposed: dict[str, ExposedEntity], query: str, allowed: set[str]
    ) -> list[str] | None:
        """Return the ballot of the words, None without FTS5."""
        run = self._hass.async_add_executor_job
        # Another search may be under way in the index that is made anew here.
        async with self._one_at_a_time:
            if exposed is not self._indexed and self._has_fts5:
                old = self._index
                try:
                    self._index = await run(LexicalIndex, exposed)
                except sqlite3.OperationalError as err:
                    _LOGGER.warning("Searching without words: %s", err)
                    self._has_fts5 = False
                self._indexed = exposed
                if old is not None:
                    old.close()
            if self._index is None:
                return None
            return await run(self._index.search, query, _DEPTH, allowed)


def _forgotten(asked: asyncio.Future[QuestionVector]) -> None:
    """Take note of the error of a question that nobody waits for any more."""
    if not asked.cancelled() and (err := asked.exception()):
        _LOGGER.debug("A question was not embedded: %s", err)


def fused(ballots: Iterable[list[str]]) -> list[tuple[str, float]]:
    """Return what ballots have ranked, the best of all together first.

    By reciprocal rank fusion: the ranks count, since the scores of different
    ballots cannot be compared.
    """
    scores: dict[str, float] = {}
    for ballot in ballots:
        for rank, key in enumerate(ballot, start=1):
            scores[key] = scores.get(key, 0.0) + 1 / (_RRF + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


_DATA: Final[HassKey[EntitySearch]] = HassKey(f"{DOMAIN}_entity_search")


@callback
def entity_search(hass: HomeAssistant) -> EntitySearch:
    """Return what searches."""
    return hass.data.setdefault(_DATA, EntitySearch(hass))

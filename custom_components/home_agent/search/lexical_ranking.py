"""The lexical ranking of the exposed entities as they are now."""

import asyncio
from collections.abc import Container
import logging
import sqlite3
from time import monotonic

from homeassistant.core import HomeAssistant

from ..home.exposed import ExposedEntity
from .lexical import LexicalTable

_LOGGER = logging.getLogger(__name__)


class LexicalRanking:
    """Ranks entities by the words that they share with a question.

    Its full-text table is rebuilt when the entities have changed.
    """

    def __init__(self, hass: HomeAssistant) -> None:
        """Start without a table; the first search builds it."""
        self._hass = hass
        self._table: LexicalTable | None = None
        self._entities: dict[str, ExposedEntity] = {}
        # False after the table could not be built, until Home Assistant is restarted.
        self._is_available = True
        self._lock = asyncio.Lock()

    async def async_search(
        self,
        entities: dict[str, ExposedEntity],
        question: str,
        limit: int,
        allowed: Container[str],
    ) -> list[str] | None:
        """Return at most limit allowed entities by BM25.

        None if the table could not be built, as without SQLite's FTS5. entities must
        be the same object as in the previous call if none of them has changed.
        """
        run = self._hass.async_add_executor_job
        # One search at a time: the next one may replace the table.
        async with self._lock:
            if entities is not self._entities and self._is_available:
                await self._async_build_table(entities)
            if self._table is None:
                return None
            return await run(self._table.search, question, limit, allowed)

    async def _async_build_table(self, entities: dict[str, ExposedEntity]) -> None:
        """Replace the table by one of these entities; the caller holds the lock.

        If it cannot be built, there is no table from then on.
        """
        started = monotonic()
        old = self._table
        try:
            self._table = await self._hass.async_add_executor_job(
                LexicalTable, entities
            )
        except sqlite3.Error as err:
            _LOGGER.warning("Searching without the lexical ranking: %s", err)
            self._is_available = False
            self._table = None
        else:
            _LOGGER.debug(
                "Built the full-text table of %d entities in %.3f s",
                len(entities),
                monotonic() - started,
            )
        self._entities = entities
        if old is not None:
            old.close()

"""Words: which entities have those of a question in their names and places."""

from collections.abc import Container, Mapping
import re
import sqlite3
from typing import Final
import unicodedata

from ..home.exposed import ExposedEntity
from .stop_words import STOP_WORDS

# A name says more than a place, and a place more than a kind.
_WEIGHTS: Final = (3.0, 1.5, 1.0)
_WORD: Final = re.compile(r"\w+")
# Scripts that put no space between words: each pair of characters is a word.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0e7f\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff]+"
)


class LexicalIndex:
    """An index of words, in memory; derived from the entities it is made of.

    It may be used from any thread, but by one at a time.
    """

    def __init__(self, entities: Mapping[str, ExposedEntity]) -> None:
        """Index entities; blocks, some milliseconds for each thousand.

        Raise sqlite3.OperationalError where SQLite was built without FTS5.
        """
        self._ids = list(entities)
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.execute(
            "CREATE VIRTUAL TABLE entity USING fts5(names, places, kind,"
            " tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        self._connection.executemany(
            "INSERT INTO entity (rowid, names, places, kind) VALUES (?, ?, ?, ?)",
            (
                (
                    number,
                    plain(" ".join(entity.names)),
                    plain(" ".join((*entity.areas, entity.floor or ""))),
                    plain(f"{entity.domain} {entity.device_class or ''}"),
                )
                for number, entity in enumerate(entities.values())
            ),
        )

    def search(self, query: str, limit: int, allowed: Container[str]) -> list[str]:
        """Return the allowed entities that share a word with a question.

        The best come first, by BM25. Blocks.
        """
        if not (words := query_words(query)):
            return []
        expression = " OR ".join(f'"{word}"' for word in words)
        ranking = f"bm25(entity, {', '.join(map(str, _WEIGHTS))})"
        found: list[str] = []
        rows = self._connection.execute(
            f"SELECT rowid FROM entity WHERE entity MATCH ? ORDER BY {ranking}",  # noqa: S608 - numbers of our own
            (expression,),
        )
        for (number,) in rows:
            if (entity_id := self._ids[number]) in allowed:
                found.append(entity_id)
                if len(found) == limit:
                    break
        return found

    def close(self) -> None:
        """Free the memory."""
        self._connection.close()


def query_words(query: str) -> list[str]:
    """Return the words of a question that are worth looking for.

    Those that stand in every question are left out, unless there are no others.
    """
    words = list(dict.fromkeys(_WORD.findall(plain(query))))
    return [word for word in words if word not in STOP_WORDS] or words


def plain(text: str) -> str:
    """Return a text in small letters, with unspaced scripts cut into pairs."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    return _UNSPACED.sub(lambda match: f" {_pairs(match[0])} ", text)


def _pairs(run: str) -> str:
    """Return the pairs of characters of a run, or the one that it has."""
    if len(run) == 1:
        return run
    return " ".join(run[at : at + 2] for at in range(len(run) - 1))

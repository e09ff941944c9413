"""The lexical ranking: which entities share words with a question."""

from collections.abc import Container, Mapping
import re
import sqlite3
from typing import Final
import unicodedata

from ..home.exposed import ExposedEntity
from .stop_words import STOP_WORDS

# Weights of the columns names, places and kind in BM25: a shared word of a name says
# more than one of a place, and that more than a domain or device class.
_WEIGHTS: Final = (3.0, 1.5, 1.0)
_WORD: Final = re.compile(r"\w+")
# Scripts without spaces between words (Thai, Burmese, Khmer, Japanese, Chinese,
# Korean): each pair of neighboring characters counts as a word.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0e7f\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff]+"
)


class LexicalTable:
    """A full-text table of exposed entities, in memory, that never changes.

    All methods may be called from any thread, but only from one at a time.
    """

    def __init__(self, entities: Mapping[str, ExposedEntity]) -> None:
        """Add entities by id; blocks for some milliseconds per thousand.

        Raise sqlite3.OperationalError if SQLite was built without FTS5.
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
                    normalized(" ".join(entity.names)),
                    normalized(" ".join((*entity.areas, entity.floor or ""))),
                    normalized(f"{entity.domain} {entity.device_class or ''}"),
                )
                for number, entity in enumerate(entities.values())
            ),
        )

    def search(self, query: str, limit: int, allowed: Container[str]) -> list[str]:
        """Return at most limit ids of allowed entities that share a word with query.

        The best come first, by BM25 with weighted columns. Blocks.
        """
        if not (words := query_words(query)):
            return []
        expression = " OR ".join(f'"{word}"' for word in words)
        ranking = f"bm25(entity, {', '.join(map(str, _WEIGHTS))})"
        found: list[str] = []
        rows = self._connection.execute(
            f"SELECT rowid FROM entity WHERE entity MATCH ? ORDER BY {ranking}",  # noqa: S608 - the weights are constants
            (expression,),
        )
        for (number,) in rows:
            if (entity_id := self._ids[number]) in allowed:
                found.append(entity_id)
                if len(found) == limit:
                    break
        return found

    def close(self) -> None:
        """Free the table's memory."""
        self._connection.close()


def query_words(query: str) -> list[str]:
    """Return the distinct words of a question, normalized, without stop words.

    A question of nothing but stop words keeps all its words.
    """
    words = list(dict.fromkeys(_WORD.findall(normalized(query))))
    return [word for word in words if word not in STOP_WORDS] or words


def normalized(text: str) -> str:
    """Return a text normalized for the full-text table.

    NFKC, case-folded, underscores as spaces, and runs of scripts without spaces as
    pairs of neighboring characters.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    return _UNSPACED.sub(lambda match: f" {_pairs(match[0])} ", text)


def _pairs(run: str) -> str:
    """Return a run's pairs of neighboring characters; a single one stays as it is."""
    if len(run) == 1:
        return run
    return " ".join(run[at : at + 2] for at in range(len(run) - 1))

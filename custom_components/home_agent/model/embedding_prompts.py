"""What embedding models want to read before a question, and before what is found.

Most are trained with such words and find less without them: multilingual-e5-small
finds 0.81 instead of 0.77 of what it should (benchmarks/recall.py). No server adds
them. The words are those of each model's own card.
"""

from dataclasses import dataclass
import re
from typing import Final


@dataclass(frozen=True, slots=True)
class EmbeddingPrompts:
    """Words in front of a question, and in front of a text that is indexed."""

    question: str = ""
    document: str = ""


_REPRESENT: Final = "Represent this sentence for searching relevant passages: "
_INSTRUCT: Final = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the"
    " query\nQuery: "
)
# The first that fits counts; a model's name may have a folder and a size around it.
_FAMILIES: Final = (
    ("e5-.*instruct", EmbeddingPrompts(_INSTRUCT)),
    ("(^|[-/_])e5-", EmbeddingPrompts("query: ", "passage: ")),
    ("nomic-embed", EmbeddingPrompts("search_query: ", "search_document: ")),
    ("arctic-embed-?(l-|m-)?v?2", EmbeddingPrompts("query: ")),
    ("arctic-embed|mxbai-embed-large|bge-.*-en", EmbeddingPrompts(_REPRESENT)),
    (
        "embeddinggemma",
        EmbeddingPrompts("task: search result | query: ", "title: none | text: "),
    ),
    ("qwen3-embedding", EmbeddingPrompts(_INSTRUCT)),
)


def embedding_prompts(model: str) -> EmbeddingPrompts:
    """Return the words for a model, none for one that is trained without."""
    for pattern, prompts in _FAMILIES:
        if re.search(pattern, model.lower()):
            return prompts
    return EmbeddingPrompts()

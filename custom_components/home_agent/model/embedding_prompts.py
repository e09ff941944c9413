"""The prompts that embedding models expect before questions and documents.

Most models are trained with such prompts and find less without them:
multilingual-e5-small finds 0.81 instead of 0.77 of the right entities
(benchmarks/recall.py). No model server adds them. The texts are those of each
model's card.
"""

from dataclasses import dataclass
import re
from typing import Final


@dataclass(frozen=True, slots=True)
class EmbeddingPrompts:
    """The texts to put before a question and before a text that is indexed."""

    question: str = ""
    document: str = ""


_REPRESENT: Final = "Represent this sentence for searching relevant passages: "
_INSTRUCT: Final = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the"
    " query\nQuery: "
)
# Patterns of model names with their prompts; the first match counts. A name may
# have a folder before it and a size or version after it.
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
    """Return a model's prompts, empty ones for a model that is trained without."""
    for pattern, prompts in _FAMILIES:
        if re.search(pattern, model.lower()):
            return prompts
    return EmbeddingPrompts()

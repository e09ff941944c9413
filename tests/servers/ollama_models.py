"""The models that a stand-in Ollama has, and the names that find them."""

from collections.abc import Iterable
from dataclasses import dataclass
import hashlib
import re

GIB = 2**30
# types/model/name.go: a host may have a port; a namespace has no dot.
_NAME = re.compile(
    r"(?:(?:(\w[\w.:-]*)/)?(\w[\w-]*)/)?(\w[\w.-]*)(?::(\w[\w.-]*))?", re.ASCII
)


class InvalidName(ValueError):
    """A text that cannot be the name of a model."""


@dataclass(frozen=True)
class StandInModel:
    """A model that the stand-in has.

    size is in bytes, dimension is that of its vectors, context_length the number
    of tokens that it was trained with. file is what the name stands for: models
    with one file are one in memory.
    """

    name: str
    capabilities: tuple[str, ...] = ("completion", "tools")
    size: int = 2 * GIB
    dimension: int = 256
    file: str = ""
    context_length: int = 131072

    @property
    def digest(self) -> str:
        """Return the digest, 64 hexadecimal digits."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def path(self) -> str:
        """Return the path of the model's file, by which the scheduler knows it."""
        return f"/models/blobs/sha256-{self.file or self.digest}"


DEFAULT_MODELS = (
    StandInModel("llama3.2:3b"),
    StandInModel("llama3.2:70b", size=42 * GIB),
    StandInModel("qwen3:8b", ("completion", "tools", "thinking"), 5 * GIB),
    StandInModel("llava:7b", ("completion", "vision"), 5 * GIB),
    StandInModel("nomic-embed-text:latest", ("embedding",), GIB // 4),
)


def full_name(name: str) -> str:
    """Return a name with its registry, namespace and tag.

    Raise InvalidName for what Ollama refuses (types/model/name.go, ParseName).
    """
    match = _NAME.fullmatch(name.strip())
    if match is None:
        raise InvalidName("invalid model name")
    host, namespace, model, tag = match.groups()
    where = f"{host or 'registry.ollama.ai'}/{namespace or 'library'}"
    return f"{where}/{model}:{tag or 'latest'}"


def is_cloud_name(name: str) -> bool:
    """Return whether a name asks for a model in Ollama's cloud."""
    _, _, tag = name.strip().rpartition(":")
    return ":" in name and (tag == "cloud" or tag.endswith("-cloud"))


def find_model(
    name: str, models: Iterable[StandInModel], *, any_case: bool = True
) -> StandInModel | None:
    """Return the model that a name stands for, None if there is none.

    Raise InvalidName for what cannot be a name. /api/embeddings alone compares
    the case of letters too.
    """
    wanted = full_name(name)
    for model in models:
        known = full_name(model.name)
        if wanted == known or (any_case and wanted.lower() == known.lower()):
            return model
    return None

"""The models that a stand-in Ollama has, as it describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import hashlib
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class OllamaModel:
    """A model: what it can do, its size, and how long a load of it takes.

    Two models with the same blob are two tags of one file, which Ollama holds in
    memory once. options are the Modelfile's parameters. dimension is that of its
    embeddings.
    """

    name: str
    capabilities: tuple[str, ...] = ("completion", "tools")
    size: int = 2 * GIB
    load_seconds: float = 0
    family: str = "llama"
    parameter_size: str = "3.2B"
    context_length: int = 131072
    dimension: int = 256
    blob: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return what stands for the model's file."""
        return self.blob or self.name

    @property
    def digest(self) -> str:
        """Return 64 hexadecimal digits."""
        return hashlib.sha256(self.key.encode()).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        """Return what /api/tags, /api/ps and /api/show say of the model."""
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": self.parameter_size,
            "quantization_level": "Q4_K_M",
        }

    @property
    def info(self) -> dict[str, Any]:
        """Return the model_info of /api/show."""
        return {
            "general.architecture": self.family,
            f"{self.family}.context_length": self.context_length,
            f"{self.family}.embedding_length": self.dimension,
        }


DEFAULT_MODELS = (
    OllamaModel("llama3.2:3b"),
    OllamaModel("llama3.2:70b", size=42 * GIB, parameter_size="70.6B"),
    OllamaModel(
        "qwen3:8b",
        ("completion", "tools", "thinking"),
        size=5 * GIB,
        family="qwen3",
        parameter_size="8.2B",
        context_length=40960,
    ),
    OllamaModel(
        "llava:7b",
        ("completion", "vision"),
        size=5 * GIB,
        parameter_size="7B",
        context_length=32768,
    ),
    OllamaModel(
        "nomic-embed-text:latest",
        ("embedding",),
        size=GIB // 4,
        family="nomic-bert",
        parameter_size="137M",
        context_length=2048,
    ),
)

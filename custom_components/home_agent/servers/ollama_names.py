"""Names of Ollama's models, as types/model/name.go reads them (v0.24)."""

from typing import Final

_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_NAMESPACE: Final = "library"
_DEFAULT_TAG: Final = "latest"


def full_name(name: str) -> str:
    """Return a model's name with all of its parts, for comparisons.

    "llama3.2", "LLAMA3.2:latest" and "registry.ollama.ai/library/llama3.2" are one
    model: the registry, the namespace and the tag have defaults, and upper case
    does not matter.
    """
    name = name.strip().lower().rpartition("://")[2]
    path, _, last = name.rpartition("/")
    model, _, tag = last.partition(":")
    host, _, namespace = path.rpartition("/")
    return "/".join(
        (
            host or _DEFAULT_HOST,
            namespace or _DEFAULT_NAMESPACE,
            f"{model}:{tag or _DEFAULT_TAG}",
        )
    )


def is_cloud_model(name: str) -> bool:
    """Return whether a model runs in Ollama's cloud, never in a server's memory.

    Its tag says so (internal/modelref/modelref.go, parseSourceSuffix).
    """
    tag = full_name(name).rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")

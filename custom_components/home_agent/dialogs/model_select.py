"""The field for a model: those of the server, and some that it can download."""

from dataclasses import dataclass
from typing import Final

from homeassistant.helpers.selector import SelectOptionDict, SelectSelector

from ..model.role import Role
from ..servers.base import (
    ModelCapability,
    ModelServer,
    ServerCapability,
    ServerModel,
)
from .selectors import select_field


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of Ollama's library.

    download is the size of its file, memory what a server should have for it with the
    default context size, both in GB.
    """

    name: str
    download: float
    memory: int


# All of them call tools. Sizes by ollama.com/library; a context of 8192 tokens needs
# about 1 GB more. The form of a server without models shows the first one as chosen.
CHAT_MODELS: Final = (
    KnownModel("llama3.2:3b", 2.0, 4),
    KnownModel("qwen3:1.7b", 1.4, 4),
    KnownModel("qwen3:4b", 2.5, 8),
    KnownModel("qwen3:8b", 5.2, 8),
    KnownModel("qwen3:14b", 9.3, 16),
    KnownModel("gpt-oss:20b", 14, 16),
    KnownModel("mistral-small3.2:24b", 15, 24),
    KnownModel("qwen3:30b", 19, 24),
)
EMBEDDING_MODELS: Final = (
    KnownModel("nomic-embed-text", 0.3, 4),
    KnownModel("bge-m3", 1.2, 4),
)


def model_select(
    role: Role, models: list[ServerModel], server: ModelServer | None
) -> SelectSelector:
    """Return the field for a role's model.

    It lists the models of the server that fit the role, then some that the server can
    download, and accepts any other name: the list of a cloud may be incomplete.
    """
    wanted = (
        ModelCapability.EMBEDDING if role is Role.EMBEDDING else ModelCapability.CHAT
    )
    names = sorted(model.name for model in models if model.may(wanted))
    more = _options_to_download(role, server, models)
    if not more:
        return select_field(names, custom_value=True)
    present = [SelectOptionDict(value=name, label=name) for name in names]
    return select_field([*present, *more], custom_value=True)


def _options_to_download(
    role: Role, server: ModelServer | None, models: list[ServerModel]
) -> list[SelectOptionDict]:
    """Return the known models for a role that the server can download.

    The labels need no translation: the help text of the field says that the arrow
    stands for a download, and the other figure for memory.
    """
    if server is None or ServerCapability.PULL not in server.capabilities:
        return []
    known = EMBEDDING_MODELS if role is Role.EMBEDDING else CHAT_MODELS
    return [
        SelectOptionDict(
            value=model.name,
            label=f"{model.name} (⬇ {model.download:g} GB; ≥ {model.memory} GB)",
        )
        for model in known
        if server.find(model.name, models) is None
    ]

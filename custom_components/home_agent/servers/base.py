"""What every model server can be asked."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from enum import Flag, StrEnum, auto
from typing import ClassVar, Final

import aiohttp

from ..const import DEFAULT_IDLE_TIMEOUT
from ..keep_alive import KeepAlive
from .address import is_azure, is_cloud, openai_base, split_credentials
from .errors import NotSupported
from .http import HttpClient
from .messages import (
    ChatAnswer,
    ChatDelta,
    ChatRequest,
    ChatStats,
    JsonObject,
    LoadRequest,
    ToolCall,
)

# For a request that may first load a model: longer than the largest one takes.
LOAD_TIMEOUT: Final = 900.0


class ServerKind(StrEnum):
    """The kinds of server that are talked to in different ways."""

    OLLAMA = "ollama"
    LM_STUDIO = "lm_studio"
    LLAMA_CPP = "llama_cpp"
    LLAMA_CPP_ROUTER = "llama_cpp_router"
    LLAMA_SWAP = "llama_swap"
    LOCALAI = "localai"
    DOCKER_MODEL_RUNNER = "docker_model_runner"
    LEMONADE = "lemonade"
    VLLM = "vllm"
    KOBOLDCPP = "koboldcpp"
    TABBYAPI = "tabbyapi"
    LITELLM = "litellm"
    OPENAI_COMPATIBLE = "openai_compatible"
    CLOUD = "cloud"


class ServerCapability(Flag):
    """What a kind of server lets its users do about a model's residency.

    KEEP_ALIVE: each value of a keep_alive has its effect, by whatever means.
    LIST: it tells which models are in memory. LOAD, UNLOAD: on request, and not
    only because a question came in. WARM: questions may be asked that nobody
    waits for, to load a model and to evaluate a prompt: they cost nothing. PULL: it
    can get a model that it does not have.
    """

    NONE = 0
    KEEP_ALIVE = auto()
    LIST = auto()
    LOAD = auto()
    UNLOAD = auto()
    WARM = auto()
    PULL = auto()


class ModelCapability(StrEnum):
    """What a model is made for."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    TOOLS = "tools"
    THINKING = "thinking"
    VISION = "vision"


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a server.

    A user and a password in url become a header, so that no log, key or error
    that is made from url has them. kind is None until the server was asked.
    api_base is where the OpenAI-compatible API is, None for the usual place.
    keep_alive_refused says that the server was seen to refuse the field;
    declared_own that the user called a server at a public address their own;
    is_local that the address is in the user's network, as far as connect() had
    to find out. idle_timeout is in seconds.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    kind: ServerKind | None = None
    keep_alive_refused: bool = False
    idle_timeout: float = DEFAULT_IDLE_TIMEOUT
    api_base: str | None = None
    declared_own: bool = False
    is_local: bool = False

    def __post_init__(self) -> None:
        """Take user and password out of the address."""
        url, header = split_credentials(self.url)
        if header:
            object.__setattr__(self, "url", url)
            object.__setattr__(self, "headers", {**self.headers, **header})

    @property
    def openai_base(self) -> str:
        """Return the address that endpoints of the OpenAI-compatible API follow."""
        return self.api_base or openai_base(self.url)

    def all_headers(self) -> dict[str, str]:
        """Return the headers of every request, with the key where it goes."""
        headers = dict(self.headers)
        if self.api_key and is_azure(self.url):
            headers["api-key"] = self.api_key
        elif self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers


@dataclass(frozen=True, slots=True)
class ServerModel:
    """A model that a server has; capabilities is None where it does not say."""

    name: str
    capabilities: frozenset[ModelCapability] | None = None

    def may(self, capability: ModelCapability) -> bool:
        """Return whether the model can do it, or whether that is unknown."""
        return self.capabilities is None or capability in self.capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in a server's memory; None is what the server does not tell.

    Sizes are in bytes. expires_at is when the model leaves if nobody asks it; a
    model that is forever never does. is_loading: not there yet, but on its way.
    is_busy: it answers somebody.
    """

    name: str
    size_bytes: int | None = None
    vram_bytes: int | None = None
    expires_at: datetime | None = None
    is_indefinite: bool = False
    context_length: int | None = None
    is_loading: bool = False
    is_busy: bool = False


class ModelServer(ABC):
    """A server of models."""

    kind: ClassVar[ServerKind]
    capabilities: ClassVar[ServerCapability]

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        """Talk to the server of connection over session."""
        self.connection = connection
        self.http = HttpClient(
            session,
            connection.url,
            connection.all_headers(),
            connection.idle_timeout,
        )

    @property
    def keep_alive_refused(self) -> bool:
        """Return whether the server was seen to refuse a keep_alive."""
        return self.connection.keep_alive_refused

    def is_own(self, model: str) -> bool:
        """Return whether a model runs on the user's own machine.

        Then requests that the user did not make cost nothing and stay in the house.
        A kind of server that honors a keep_alive is the user's own wherever it
        stands. Another one must be in the user's network, or the user says so.
        """
        return not is_cloud(self.connection.url) and (
            ServerCapability.KEEP_ALIVE in self.capabilities
            or self.connection.is_local
            or self.connection.declared_own
        )

    def may_be_warmed(self, model: str) -> bool:
        """Return whether to load a model, or evaluate its prompt, ahead of need."""
        return ServerCapability.WARM in self.capabilities and self.is_own(model)

    def may_send_keep_alive(self, model: str) -> bool:
        """Return whether requests for the model may carry a keep_alive."""
        return self.is_own(model)

    def _residency(self, model: str, keep_alive: KeepAlive | None) -> JsonObject:
        """Return the keep_alive of a request: at its top, never in its options."""
        if keep_alive is None or not self.may_send_keep_alive(model):
            return {}
        return {"keep_alive": keep_alive.ollama}

    @abstractmethod
    def chat_stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """Yield the answer as it is made.

        The last delta brings the tool calls and the figures. Raise a
        ModelServerError before, between and instead of deltas; a stream that
        ends without its end mark is a ConnectionLost.
        """

    @abstractmethod
    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer in one piece."""

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the tokens of a request's prompt, None where nobody counts them."""
        return None

    @abstractmethod
    async def embed(
        self, model: str, texts: Sequence[str], keep_alive: KeepAlive | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, in the same order."""

    @abstractmethod
    async def check(self) -> None:
        """Raise a ModelServerError if the server is away or refuses the key."""

    @abstractmethod
    async def list_models(self) -> list[ServerModel]:
        """Return the models that the server has."""

    @abstractmethod
    async def loaded_models(self) -> list[LoadedModel] | None:
        """Return the models in memory, None where the server does not tell."""

    def find(self, name: str, models: Sequence[ServerModel]) -> ServerModel | None:
        """Return the model that requests call name, None if it is not there."""
        names = (name, f"{name}:latest")
        return next((model for model in models if model.name in names), None)

    def is_model(self, name: str, loaded: LoadedModel) -> bool:
        """Return whether a loaded model is the one that requests call name."""
        return loaded.name == name

    @abstractmethod
    async def load(self, request: LoadRequest) -> None:
        """Load a model, if it is not loaded already, and hold it.

        Raise NotSupported where a request that nobody waits for may cost money.
        """

    @abstractmethod
    async def unload(self, model: str) -> None:
        """Unload a model as soon as it is idle.

        Raise NotSupported where the server has no such request.
        """

    async def pull(self, model: str) -> AsyncGenerator[float]:
        """Get a model, and yield how much of it is there, from 0 to 1.

        Raise NotSupported where the server cannot.
        """
        raise NotSupported(self.http.host)
        yield


async def collect(deltas: AsyncGenerator[ChatDelta]) -> ChatAnswer:
    """Return a streamed answer in one piece."""
    content: list[str] = []
    thinking: list[str] = []
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    stats = ChatStats()
    async with aclosing(deltas):
        async for delta in deltas:
            content.append(delta.content)
            thinking.append(delta.thinking)
            tool_calls += delta.tool_calls
            finish_reason = delta.finish_reason or finish_reason
            stats = delta.stats or stats
    return ChatAnswer(
        content="".join(content),
        thinking="".join(thinking),
        tool_calls=tool_calls,
        finish_reason=finish_reason,
        stats=stats,
    )

"""What every model server can do."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from enum import Flag, StrEnum, auto
import re
from typing import ClassVar, Final

import aiohttp

from ..const import DEFAULT_IDLE_TIMEOUT
from ..keep_alive import KeepAlive
from .address import is_azure, is_cloud, openai_base, split_credentials
from .answers import Answer, checked_answer
from .errors import ModelServerError, NotSupported, RequestRefused
from .http import SHORT_TIMEOUT, HttpClient
from .messages import (
    ChatAnswer,
    ChatDelta,
    ChatRequest,
    ChatStats,
    JsonObject,
    LoadRequest,
    ToolCall,
)

# Ollama's words come from Go: time: missing unit in duration "5".
_KEEP_ALIVE_REFUSED: Final = re.compile(r"\bkeep_alive\b|\b(in|invalid) duration\b")
# Ollama (0.24): "invalid JSON schema in format"; llama.cpp: "JSON schema error at
# #/properties/a: ..."; OpenAI: "Invalid schema for response_format 'answer': ...".
_SCHEMA_REFUSED: Final = re.compile(
    r"\bjson[ _]schema\b|\bresponse[ _]format\b|\bgrammar\b", re.IGNORECASE
)
# Seconds for a request that may first load a model: longer than the largest takes.
LOAD_TIMEOUT: Final = 900.0


class ServerKind(StrEnum):
    """The kinds of server, each with a protocol or rules of its own."""

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

    KEEP_ALIVE: each value of a keep_alive has its effect, by a field of the request
    or by requests of its own. LIST: it reports which models are in memory. LOAD,
    UNLOAD: it loads and unloads a model when a request says so, and not only
    because of a question. WARM: requests whose answers nobody waits for may be
    sent, to load a model or to evaluate a prompt, because they cost nothing. PULL:
    it can download a model that it does not have.
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
    that is made from url has them. kind is None as long as it is not detected.
    api_base is the address of the OpenAI-compatible API, None for the usual one.
    keep_alive_refused: the server has refused the field keep_alive before.
    declared_own: the user has called a server at a public address their own.
    is_local: the address is in the user's network, as far as connect() had to find
    out. idle_timeout is in seconds.
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
        """Return the headers of every request, the API key among them."""
        headers = dict(self.headers)
        if self.api_key and is_azure(self.url):
            headers["api-key"] = self.api_key
        elif self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers


@dataclass(frozen=True, slots=True)
class ServerModel:
    """A model that a server has.

    capabilities is None if the server does not report them.
    """

    name: str
    capabilities: frozenset[ModelCapability] | None = None

    def may(self, capability: ModelCapability) -> bool:
        """Return whether the model has a capability, or may have it for all we know."""
        return self.capabilities is None or capability in self.capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in a server's memory; None is what the server does not report.

    name is the server's own name for it; names are those of the names that the
    caller of loaded_models asked about which stand for this model. Sizes are in
    bytes. expires_at is when the server unloads the model if no request uses it
    until then; is_indefinite: it never does. is_loading: the model is not in memory
    yet. is_busy: it is answering a request.
    """

    name: str
    names: frozenset[str] = frozenset()
    size_bytes: int | None = None
    vram_bytes: int | None = None
    expires_at: datetime | None = None
    is_indefinite: bool = False
    context_length: int | None = None
    is_loading: bool = False
    is_busy: bool = False


class ModelServer(ABC):
    """A server of models.

    is_keep_alive_fixed says that a loaded model has the keep_alive with which it was
    loaded: later requests do not change it.
    reports_logprobs says that answers can have the probabilities of their tokens.
    keep_alive_refusal is why the server has refused the keep_alive of a request: its
    error without secrets, None as long as it has refused none.
    """

    kind: ClassVar[ServerKind]
    capabilities: ClassVar[ServerCapability]
    is_keep_alive_fixed: ClassVar[bool] = False
    reports_logprobs: ClassVar[bool] = False

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        """Make a client for the server that connection leads to."""
        self.connection = connection
        self.keep_alive_refusal: str | None = None
        # Models that stay loaded after a request with keep_alive 0: the turn that
        # sent it unloads them.
        self.kept_loaded: set[str] = set()
        self.http = HttpClient(
            session,
            connection.url,
            connection.all_headers(),
            connection.idle_timeout,
        )

    @property
    def keep_alive_refused(self) -> bool:
        """Return whether the server has refused the field keep_alive."""
        return self.connection.keep_alive_refused

    def is_keep_alive_refusal(self, err: ModelServerError) -> bool:
        """Return whether an error says that the value of a keep_alive is invalid."""
        return isinstance(err, RequestRefused) and bool(
            _KEEP_ALIVE_REFUSED.search(err.detail)
        )

    def is_schema_refusal(self, err: ModelServerError) -> bool:
        """Return whether an error says that the schema of an answer is not supported.

        Ollama says so with status 500, others with 400.
        """
        return err.status is not None and bool(_SCHEMA_REFUSED.search(err.detail))

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

    def residency_fields(self, model: str, keep_alive: KeepAlive | None) -> JsonObject:
        """Return the fields by which a request for the model carries a keep_alive.

        They stand at the top of the body, because servers ignore them in "options".
        """
        if keep_alive is None or not self.may_send_keep_alive(model):
            return {}
        return {"keep_alive": keep_alive.ollama}

    @abstractmethod
    def chat_stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """Yield the answer piece by piece.

        The last delta has the tool calls and the figures. Raise a ModelServerError
        before, between and instead of deltas: ConnectionLost if the stream ends
        without its end mark, and nothing but subclasses of ModelServerError
        whatever the server sends.
        """

    @abstractmethod
    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer in one piece; raise a ModelServerError if it fails."""

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the number of tokens of a request's prompt.

        None if the server has no request for that.
        """
        return None

    async def max_context(self, model: str) -> int | None:
        """Return how many tokens the context of a model may have at most.

        That is what the model was trained for. None if the server does not report it.
        """
        return None

    @abstractmethod
    async def embed(
        self, model: str, texts: Sequence[str], keep_alive: KeepAlive | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, in the same order.

        The vectors have one length and finite numbers, and none is all zero; a
        server that sends others is a MalformedAnswer.
        """

    @abstractmethod
    async def check(self) -> None:
        """Raise a ModelServerError if the server is unreachable or refuses the key."""

    @abstractmethod
    async def list_models(self) -> list[ServerModel]:
        """Return the models that the server has."""

    @abstractmethod
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel] | None:
        """Return the models in memory, None if the server does not report them.

        names are the model names that the caller uses in its requests: each
        LoadedModel says which of them stand for it.
        """

    def find(self, name: str, models: Sequence[ServerModel]) -> ServerModel | None:
        """Return the model that a request with this name uses, None if none does."""
        names = (name, f"{name}:latest")
        return next((model for model in models if model.name in names), None)

    @abstractmethod
    async def load(self, request: LoadRequest) -> None:
        """Load a model, if it is not loaded already, and apply its keep_alive.

        Raise NotSupported if the server's requests may cost money.
        """

    @abstractmethod
    async def unload(self, model: str) -> None:
        """Unload a model as soon as it is idle.

        Raise NotSupported if the server has no such request.
        """

    async def pull(self, model: str) -> AsyncGenerator[float]:
        """Download a model, and yield how much of it is there, from 0 to 1.

        Raise NotSupported if the server cannot.
        """
        raise NotSupported(self.http.host)
        yield

    async def _get(self, url: str, timeout: float = SHORT_TIMEOUT) -> Answer:
        """Return the JSON object at url; timeout is in seconds.

        Raise a ModelServerError, also for an error with status 200.
        """
        return checked_answer(self.http, await self.http.get(url, timeout))

    async def _post(
        self, url: str, body: JsonObject, timeout: float | None = None
    ) -> Answer:
        """Send JSON and return the JSON object of the answer.

        timeout, in seconds, replaces the idle timeout. Raise a ModelServerError,
        also for an error with status 200.
        """
        answer = await self.http.post(url, body, timeout=timeout)
        return checked_answer(self.http, answer)


async def collect(deltas: AsyncGenerator[ChatDelta]) -> ChatAnswer:
    """Return a streamed answer in one piece; raise what the stream raises."""
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


def same_names(names: Collection[str], *own_names: str) -> frozenset[str]:
    """Return those of the names that are one of a model's own names."""
    return frozenset(own_names).intersection(names)

"""Find out which kind of server answers at an address.

Servers are recognized by the content of their answers, never by port, host name or
status code: half a dozen kinds of server answer some of Ollama's paths, and LM Studio
answers every unknown path with status 200. All requests are GET requests, since
some servers unload or import models on other methods.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
import logging
import re
from typing import Any, Final

import aiohttp

from .address import is_cloud, openai_base, openai_bases, server_root, shown_host
from .base import Connection, ServerKind
from .errors import (
    CannotConnect,
    HostRefused,
    InvalidAuth,
    ModelServerError,
    ServerBusy,
    UnknownServer,
    WrongScheme,
)
from .http import HttpClient

_LOGGER = logging.getLogger(__name__)

PROBE_TIMEOUT: Final = 5.0

# What servers write into the field owned_by of /v1/models. It is a hint only: it
# names servers that have no path of their own, and servers that imitate Ollama.
_OWNERS: Final = {
    "docker": ServerKind.DOCKER_MODEL_RUNNER,
    "koboldcpp": ServerKind.KOBOLDCPP,
    "lemonade": ServerKind.LEMONADE,
    "llama-swap": ServerKind.LLAMA_SWAP,
    "llamacpp": ServerKind.LLAMA_CPP,
    "organization_owner": ServerKind.LM_STUDIO,
    "tabbyAPI": ServerKind.TABBYAPI,
    "vllm": ServerKind.VLLM,
}
# What Ollama itself writes there.
_OLLAMA_OWNER: Final = "library"
_ONLY_V1: Final = "Ollama, but only its /v1, where keep_alive has no effect,"
_NAMES: Final = {
    ServerKind.DOCKER_MODEL_RUNNER: "Docker Model Runner",
    ServerKind.KOBOLDCPP: "KoboldCpp",
    ServerKind.LEMONADE: "Lemonade",
    ServerKind.LITELLM: "LiteLLM",
    ServerKind.LLAMA_CPP: "llama.cpp",
    ServerKind.LLAMA_CPP_ROUTER: "llama.cpp (router)",
    ServerKind.LLAMA_SWAP: "llama-swap",
    ServerKind.LM_STUDIO: "LM Studio",
    ServerKind.LOCALAI: "LocalAI",
    ServerKind.OLLAMA: "Ollama",
    ServerKind.TABBYAPI: "TabbyAPI",
    ServerKind.VLLM: "vLLM",
}
_VERSION: Final = re.compile(r"[0-9][\w.+-]{0,30}", re.ASCII)
_DIGEST: Final = re.compile(r"(?!0{64})[0-9a-f]{64}")


def server_name(kind: ServerKind, url: str) -> str:
    """Return the name of a kind of server, or the host if that is not known."""
    return _NAMES.get(kind) or shown_host(url)


@dataclass(frozen=True, slots=True)
class Detected:
    """What answers at an address.

    version is "" if the server does not report it. api_base is where the
    OpenAI-compatible API was found, None for the usual place (openai_base).
    """

    kind: ServerKind
    name: str
    version: str = ""
    api_base: str | None = None


async def detect(session: aiohttp.ClientSession, connection: Connection) -> Detected:
    """Find out which kind of server answers at the connection's address.

    No request is sent to a known cloud. Raise CannotConnect if nothing answers,
    InvalidAuth if the key is refused, HostRefused if the host name is, ServerBusy if
    the server is still starting, and UnknownServer if it is not a model server.
    """
    url = connection.url
    if is_cloud(url):
        return Detected(ServerKind.CLOUD, shown_host(url))
    http = HttpClient(session, url, connection.all_headers(), PROBE_TIMEOUT)
    probe = _Probe(http, server_root(url))
    version, tags, (base, models, headers) = await asyncio.gather(
        probe.get("/api/version"), probe.get("/api/tags"), _model_list(probe, url)
    )
    owners = _owners(models)
    if _may_be_ollama(version, tags, owners) and await _is_ollama(probe, tags):
        detected = Detected(ServerKind.OLLAMA, "Ollama", _version(version))
    elif not _is_model_list(models):
        raise _why_nothing(probe, http.host)
    else:
        kind = await _kind_of_openai(probe, owners, headers)
        name = server_name(kind, url)
        if kind is ServerKind.OPENAI_COMPATIBLE and _OLLAMA_OWNER in owners:
            name = _ONLY_V1
        usual = base == openai_base(url)
        detected = Detected(kind, name, api_base=None if usual else base)
    _LOGGER.debug("%s answers like %s", http.host, detected)
    return detected


def _version(answer: Mapping[str, Any]) -> str:
    """Return the version in Ollama's answer, "" if it does not look like a version.

    It is checked because it is logged and shown to the user.
    """
    version = answer["version"]
    is_version = isinstance(version, str) and _VERSION.fullmatch(version)
    return version if is_version else ""


async def _model_list(probe: _Probe, url: str) -> tuple[str, Any, Mapping[str, str]]:
    """Return where the OpenAI-compatible API is, its model list and the headers."""
    bases = openai_bases(url)
    answers = await asyncio.gather(
        *(probe.get_with_headers(f"{base}/models") for base in bases)
    )
    for base, (models, headers) in zip(bases, answers, strict=True):
        if _is_model_list(models):
            return base, models, headers
    return bases[0], *answers[0]


def _is_model_list(models: Any) -> bool:
    """Return whether an answer is a list of models as OpenAI has it."""
    return isinstance(models, dict) and isinstance(models.get("data"), list)


def _may_be_ollama(version: Any, tags: Any, owners: set[str]) -> bool:
    """Return whether the answers can be those of Ollama.

    The version object must have no other key: llama-swap's has more.
    """
    return (
        isinstance(version, dict)
        and set(version) == {"version"}
        and isinstance(tags, dict)
        and not owners & _OWNERS.keys()
    )


async def _is_ollama(probe: _Probe, tags: Any) -> bool:
    """Return whether the lists are those of Ollama and not of an imitation."""
    kobold, local_ai = await asyncio.gather(
        probe.get("/api/extra/version"), probe.get("/.well-known/localai.json")
    )
    if _is_koboldcpp(kobold) or _is_localai(local_ai):
        return False
    if models := tags.get("models"):
        return isinstance(models, list) and all(map(_is_ollama_model, models))
    # Without a model there is no digest to check, but Ollama's root has this text.
    return await probe.text("/") == "Ollama is running"


async def _kind_of_openai(
    probe: _Probe, owners: set[str], headers: Mapping[str, str]
) -> ServerKind:
    """Return the kind of a server that has an OpenAI-compatible API.

    Answers that only one kind of server gives are checked first. The owners of the
    models come last, since a proxy passes on the owners from the servers behind it.
    """
    if any(header.lower().startswith("x-litellm-") for header in headers):
        return ServerKind.LITELLM
    await asyncio.gather(*map(probe.get, {path for path, _, _ in _SIGNS}))
    for path, is_its, kind in _SIGNS:
        if is_its(await probe.get(path)) and (
            kind not in _NEEDS_OWNER or _owner_of(kind) & owners
        ):
            return kind
    return next(
        (_OWNERS[owner] for owner in sorted(owners) if owner in _OWNERS),
        ServerKind.OPENAI_COMPATIBLE,
    )


def _has(*keys: str) -> Callable[[Any], bool]:
    """Return a test for a JSON object with these keys."""
    return lambda answer: isinstance(answer, dict) and all(k in answer for k in keys)


def _has_entry_with(key: str, *marks: str) -> Callable[[Any], bool]:
    """Return a test for a list at key whose first entry has the marks."""

    def test(answer: Any) -> bool:
        items = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(items, list) or not items:
            return False
        return isinstance(items[0], dict) and all(m in items[0] for m in marks)

    return test


_is_koboldcpp = _has("result")
_is_localai = _has("version", "endpoints")
# Paths, and what only one kind of server answers there. The first match counts.
_SIGNS: Final[tuple[tuple[str, Callable[[Any], bool], ServerKind], ...]] = (
    # LiteLLM 1.106.2. The first path needs no key, but a proxy may hide it.
    (
        "/health/liveliness",
        lambda answer: answer == "I'm alive!",
        ServerKind.LITELLM,
    ),
    (
        "/v1/model/info",
        _has_entry_with("data", "model_name", "litellm_params"),
        ServerKind.LITELLM,
    ),
    ("/api/extra/version", _is_koboldcpp, ServerKind.KOBOLDCPP),
    ("/.well-known/localai.json", _is_localai, ServerKind.LOCALAI),
    (
        "/api/v1/models",
        _has_entry_with("models", "key", "loaded_instances"),
        ServerKind.LM_STUDIO,
    ),
    (
        "/api/v0/models",
        _has_entry_with("data", "state", "compatibility_type"),
        ServerKind.LM_STUDIO,
    ),
    ("/running", _has("running"), ServerKind.LLAMA_SWAP),
    (
        "/engines/ps",
        lambda answer: isinstance(answer, list),
        ServerKind.DOCKER_MODEL_RUNNER,
    ),
    ("/v1/health", _has("all_models_loaded"), ServerKind.LEMONADE),
    ("/.well-known/serviceinfo", _has("software"), ServerKind.TABBYAPI),
    (
        "/props",
        lambda answer: isinstance(answer, dict) and answer.get("role") == "router",
        ServerKind.LLAMA_CPP_ROUTER,
    ),
    ("/props", _has("default_generation_settings"), ServerKind.LLAMA_CPP),
    ("/version", _has("version"), ServerKind.VLLM),
)
# Other kinds answer the same, so the owner of the models must match too.
_NEEDS_OWNER: Final = {ServerKind.DOCKER_MODEL_RUNNER, ServerKind.VLLM}


def _owner_of(kind: ServerKind) -> set[str]:
    """Return what a kind of server writes into owned_by."""
    return {owner for owner, owned in _OWNERS.items() if owned is kind}


def _is_ollama_model(model: Any) -> bool:
    """Return whether an entry of /api/tags has a digest as Ollama writes it.

    Models in Ollama's cloud have a remote host in place of a size.
    """
    return (
        isinstance(model, dict)
        and isinstance(digest := model.get("digest"), str)
        and _DIGEST.fullmatch(digest) is not None
        and (_is_positive(model.get("size")) or bool(model.get("remote_host")))
    )


def _is_positive(value: Any) -> bool:
    """Return whether a value is a number above zero."""
    return isinstance(value, int | float) and value > 0


def _owners(models: Any) -> set[str]:
    """Return the owners of the models of a model list."""
    if not _is_model_list(models):
        return set()
    return {
        model["owned_by"]
        for model in models["data"]
        if isinstance(model, dict) and isinstance(model.get("owned_by"), str)
    }


def _why_nothing(probe: _Probe, host: str) -> ModelServerError:
    """Return the error that explains best why no server was found."""
    for kind in (InvalidAuth, HostRefused, WrongScheme, CannotConnect, ServerBusy):
        for error in probe.errors:
            if isinstance(error, kind):
                return error
    if all(error.status == 0 for error in probe.errors) and probe.errors:
        return probe.errors[0]
    return UnknownServer(host, "; ".join(error.detail for error in probe.errors))


class _Probe:
    """Sends GET requests and keeps their failures, to explain them later."""

    def __init__(self, http: HttpClient, root: str) -> None:
        """Probe the server at root."""
        self._http = http
        self._root = root
        self.errors: list[ModelServerError] = []
        self._answers: dict[str, Any] = {}

    async def get(self, path: str) -> Any:
        """Return the JSON at a path below the root, None if there is none.

        The answer is kept, so that a path is requested only once.
        """
        if path not in self._answers:
            self._answers[path], _ = await self.get_with_headers(self._root + path)
        return self._answers[path]

    async def get_with_headers(self, url: str) -> tuple[Any, Mapping[str, str]]:
        """Return the JSON at an address, None if there is none, and the headers."""
        try:
            async with self._http.request("GET", url, timeout=PROBE_TIMEOUT) as answer:
                return await self._http.read_json(answer), answer.headers
        except ModelServerError as err:
            self.errors.append(err)
            return None, {}

    async def text(self, path: str) -> str | None:
        """Return the text at a path, None if there is none."""
        try:
            async with self._http.request(
                "GET", self._root + path, timeout=PROBE_TIMEOUT
            ) as response:
                body = await response.content.read()
                return body.decode(errors="replace").strip()
        except ModelServerError as err:
            self.errors.append(err)
            return None

"""Which kind of server answers at an address.

Decided by what answers, never by the port or the name: half a dozen servers
answer some of Ollama's paths, and one answers every unknown path with 200. So
only the shape of a body counts. All probes are GET requests, since some servers
unload or import models on others.
"""

import asyncio
from dataclasses import dataclass
import re
from typing import Any, Final

import aiohttp

from .address import is_cloud, openai_base, server_root, shown_host
from .base import Connection, ServerKind
from .errors import (
    CannotConnect,
    HostRefused,
    InvalidAuth,
    ModelServerError,
    UnknownServer,
)
from .http import HttpClient

PROBE_TIMEOUT: Final = 5.0

# What servers write into the field owned_by of /v1/models.
_NAMES: Final = {
    "docker": "Docker Model Runner",
    "koboldcpp": "KoboldCpp",
    "lemonade": "Lemonade",
    "library": "Ollama, but only its /v1, where keep_alive has no effect,",
    "llama-swap": "llama-swap",
    "llamacpp": "llama.cpp",
    "organization_owner": "LM Studio",
    "tabbyAPI": "TabbyAPI",
    "vllm": "vLLM",
}
# Owners that only Ollama itself has; any other in _NAMES is somebody else's.
_OLLAMA_OWNER: Final = "library"
_DIGEST: Final = re.compile(r"(?!0{64})[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Detected:
    """What answers at an address: how to talk to it and what to call it."""

    kind: ServerKind
    name: str
    version: str = ""


async def detect(session: aiohttp.ClientSession, connection: Connection) -> Detected:
    """Find out which kind of server answers at the connection's address.

    Raise CannotConnect if nothing does, InvalidAuth if the key is refused, and
    UnknownServer if what answers is no model server.
    """
    url = connection.url
    if is_cloud(url):
        return Detected(ServerKind.CLOUD, shown_host(url))
    http = HttpClient(session, url, connection.all_headers(), PROBE_TIMEOUT)
    probe = _Probe(http, server_root(url))
    version, tags, models = await asyncio.gather(
        probe.get("/api/version"),
        probe.get("/api/tags"),
        probe.get_url(f"{openai_base(url)}/models"),
    )
    owners = _owners(models)
    if await _is_ollama(probe, version, tags, owners):
        return Detected(ServerKind.OLLAMA, "Ollama", version["version"])
    if isinstance(models, dict) and isinstance(models.get("data"), list):
        name = next((_NAMES[o] for o in owners if o in _NAMES), shown_host(url))
        return Detected(ServerKind.OPENAI_COMPATIBLE, name)
    raise _why_nothing(probe, http.host)


async def _is_ollama(probe: _Probe, version: Any, tags: Any, owners: set[str]) -> bool:
    """Return whether the answers are those of Ollama and not of a look-alike."""
    if not isinstance(version, dict) or set(version) != {"version"}:
        return False
    if not isinstance(tags, dict) or owners & (_NAMES.keys() - {_OLLAMA_OWNER}):
        return False
    kobold, local_ai = await asyncio.gather(
        probe.get("/api/extra/version"), probe.get("/.well-known/localai.json")
    )
    if isinstance(kobold, dict) and "result" in kobold:
        return False
    if isinstance(local_ai, dict) and "endpoints" in local_ai:
        return False
    if models := tags.get("models"):
        return isinstance(models, list) and all(map(_is_ollama_model, models))
    # No model yet whose digest could tell: Ollama's own greeting must.
    return await probe.text("/") == "Ollama is running"


def _is_ollama_model(model: Any) -> bool:
    """Return whether an entry of /api/tags has a digest as Ollama's have.

    Models in Ollama's cloud have no size.
    """
    return (
        isinstance(model, dict)
        and isinstance(digest := model.get("digest"), str)
        and _DIGEST.fullmatch(digest) is not None
        and (model.get("size", 0) > 0 or bool(model.get("remote_host")))
    )


def _owners(models: Any) -> set[str]:
    """Return who owns the models of /v1/models."""
    if not isinstance(models, dict) or not isinstance(models.get("data"), list):
        return set()
    return {
        model["owned_by"]
        for model in models["data"]
        if isinstance(model, dict) and isinstance(model.get("owned_by"), str)
    }


def _why_nothing(probe: _Probe, host: str) -> ModelServerError:
    """Return the error that explains best why no server was found."""
    for kind in (InvalidAuth, HostRefused, CannotConnect):
        for error in probe.errors:
            if isinstance(error, kind):
                return error
    if all(error.status == 0 for error in probe.errors) and probe.errors:
        return probe.errors[0]
    return UnknownServer(host, "; ".join(error.detail for error in probe.errors))


class _Probe:
    """GET requests whose failures are kept for later."""

    def __init__(self, http: HttpClient, root: str) -> None:
        """Probe the server at root."""
        self._http = http
        self._root = root
        self.errors: list[ModelServerError] = []

    async def get(self, path: str) -> Any:
        """Return the JSON at a path below the root, None if there is none."""
        return await self.get_url(self._root + path)

    async def get_url(self, url: str) -> Any:
        """Return the JSON at an address, None if there is none."""
        try:
            return await self._http.get(url, PROBE_TIMEOUT)
        except ModelServerError as err:
            self.errors.append(err)
            return None

    async def text(self, path: str) -> str | None:
        """Return the text at a path, None if there is none."""
        try:
            async with self._http.request(
                "GET", self._root + path, timeout=PROBE_TIMEOUT
            ) as response:
                return (await response.text()).strip()
        except ModelServerError as err:
            self.errors.append(err)
            return None

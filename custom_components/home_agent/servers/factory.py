"""The class that talks to each kind of server."""

from dataclasses import replace
from typing import Final

import aiohttp

from .address import is_cloud
from .base import Connection, ModelServer, ServerCapability, ServerKind
from .detect import detect
from .docker_model_runner import DockerModelRunner
from .llama_cpp import LlamaCppRouter, LlamaCppServer
from .lm_studio import LMStudioServer
from .loading import LemonadeServer, LlamaSwapServer, LocalAIServer
from .ollama import OllamaServer
from .openai_compatible import CloudServer, OpenAICompatibleServer
from .own_rules import KoboldCppServer, LiteLLMServer, TabbyAPIServer, VLLMServer

_CLASSES: Final[dict[ServerKind, type[ModelServer]]] = {
    server.kind: server
    for server in (
        CloudServer,
        DockerModelRunner,
        KoboldCppServer,
        LMStudioServer,
        LemonadeServer,
        LiteLLMServer,
        LlamaCppRouter,
        LlamaCppServer,
        LlamaSwapServer,
        LocalAIServer,
        OllamaServer,
        OpenAICompatibleServer,
        TabbyAPIServer,
        VLLMServer,
    )
}


def server_capabilities(kind: ServerKind) -> ServerCapability:
    """Return what a kind of server lets its users do about residency."""
    return _CLASSES[kind].capabilities


def takes_keep_alive(kind: ServerKind) -> bool:
    """Return whether to offer the setting for a kind of server.

    It takes effect, or it is sent to an unknown server that may understand it.
    """
    return (
        kind is ServerKind.OPENAI_COMPATIBLE
        or ServerCapability.KEEP_ALIVE in server_capabilities(kind)
    )


async def connect(
    session: aiohttp.ClientSession, connection: Connection
) -> ModelServer:
    """Return the server of a connection, found out where its kind is not known.

    A known cloud is one whatever kind is stored. Raise a ModelServerError if
    the kind cannot be found out.
    """
    if is_cloud(connection.url):
        connection = replace(connection, kind=ServerKind.CLOUD)
    if (kind := connection.kind) is None:
        kind = (await detect(session, connection)).kind
        connection = replace(connection, kind=kind)
    return _CLASSES[kind](session, connection)

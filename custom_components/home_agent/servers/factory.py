"""The class that talks to each kind of server."""

from dataclasses import replace
from typing import Final

import aiohttp

from .address import is_cloud
from .base import Connection, ModelServer, ServerKind
from .detect import detect
from .ollama import OllamaServer
from .openai_compatible import CloudServer, OpenAICompatibleServer

_CLASSES: Final[dict[ServerKind, type[ModelServer]]] = {
    ServerKind.OLLAMA: OllamaServer,
    ServerKind.OPENAI_COMPATIBLE: OpenAICompatibleServer,
    ServerKind.CLOUD: CloudServer,
}


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

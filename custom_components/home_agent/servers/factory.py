"""Make the object that talks to a server, of the class for its kind."""

import asyncio
from dataclasses import replace
import logging
from typing import Final

import aiohttp
from homeassistant.helpers.aiohttp_client import HomeAssistantTCPConnector
from yarl import URL

from .address import are_local_addresses, is_cloud, is_local, shown_host
from .base import Connection, ModelServer, ServerCapability, ServerKind
from .cloud import CloudServer
from .detect import detect
from .docker_model_runner import DockerModelRunner
from .errors import CannotConnect
from .llama_cpp import LlamaCppRouter, LlamaCppServer
from .lm_studio import LMStudioServer
from .load_unload import LemonadeServer, LlamaSwapServer, LocalAIServer
from .ollama import OllamaServer
from .openai_compatible import OpenAICompatibleServer
from .own_rules import KoboldCppServer, LiteLLMServer, TabbyAPIServer, VLLMServer

_LOGGER = logging.getLogger(__name__)

RESOLVE_TIMEOUT: Final = 5.0

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


def reports_logprobs(kind: ServerKind) -> bool:
    """Return whether a kind of server reports the probabilities of tokens."""
    return _CLASSES[kind].reports_logprobs


def takes_keep_alive(kind: ServerKind) -> bool:
    """Return whether to offer the setting keep_alive for a kind of server.

    It takes effect there, or it is sent to an unknown server that may understand it.
    """
    return (
        kind is ServerKind.OPENAI_COMPATIBLE
        or ServerCapability.KEEP_ALIVE in server_capabilities(kind)
    )


def is_declaration_needed(server: ModelServer) -> bool:
    """Return whether the user must say that a server is their own.

    That is needed if the server has a public address and is of a kind that companies
    offer as a service too. Until the user says so, Home Agent sends it no
    keep_alive, and no request that loads or primes a model in advance.
    """
    return _may_belong_to_others(server.kind) and not server.connection.is_local


async def connect(
    session: aiohttp.ClientSession, connection: Connection
) -> ModelServer:
    """Return the object that talks to the server of a connection.

    If the kind of the connection is None, requests find it out. The address of a
    known cloud service decides the kind, whatever kind is stored. Raise a
    ModelServerError if the kind cannot be found out, or if it must be known whether
    the server is in the user's network and its host name cannot be resolved.
    """
    if is_cloud(connection.url):
        connection = replace(connection, kind=ServerKind.CLOUD)
    if (kind := connection.kind) is None:
        detected = await detect(session, connection)
        kind = detected.kind
        connection = replace(connection, kind=kind, api_base=detected.api_base)
    if _may_belong_to_others(kind):
        is_in_network = await _async_is_local(session, connection.url)
        connection = replace(connection, is_local=is_in_network)
    return _CLASSES[kind](session, connection)


def _may_belong_to_others(kind: ServerKind) -> bool:
    """Return whether a server of this kind may be a service of others that costs money.

    Nothing else tells such a service from a server of the user: both have the same
    API, and neither is known to obey a keep_alive.
    """
    capabilities = server_capabilities(kind)
    return (
        ServerCapability.WARM in capabilities
        and ServerCapability.KEEP_ALIVE not in capabilities
    )


async def _async_is_local(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether an address is in the user's own network.

    A host name is in the network only if all of its addresses are. The session, which
    must be one of Home Assistant's, resolves the name. Raise CannotConnect if it
    cannot.
    """
    if (known := is_local(url)) is not None:
        return known
    connector = session.connector
    if not isinstance(connector, HomeAssistantTCPConnector):
        return False
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await connector.async_resolve_host(URL(url).raw_host or "")
    except OSError:
        raise CannotConnect(shown_host(url), "the name cannot be resolved") from None
    result = are_local_addresses([item["host"] for item in found])
    _LOGGER.debug(
        "%s is at %s address", shown_host(url), "a private" if result else "a public"
    )
    return result

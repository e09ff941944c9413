"""Addresses as users write them, and what they are an address of."""

from typing import Final

from yarl import URL

# What may follow the address of a server; the longest is tried first.
_API_PATHS: Final = (
    "/chat/completions",
    "/engines/llama.cpp/v1",
    "/v1beta/openai",
    "/engines/v1",
    "/openai/v1",
    "/api/v0",
    "/api/v1",
    "/api",
    "/v1",
)
_OPENAI_PATHS: Final = tuple(
    path for path in _API_PATHS if path not in ("/api", "/api/v0", "/api/v1")
)

# They refuse unknown fields with 400 or 422 or have no models to keep in memory.
_CLOUD_HOSTS: Final = (
    "api.anthropic.com",
    "api.cohere.ai",
    "api.cohere.com",
    "api.deepseek.com",
    "api.fireworks.ai",
    "api.groq.com",
    "api.mistral.ai",
    "api.openai.com",
    "api.perplexity.ai",
    "api.together.ai",
    "api.together.xyz",
    "api.x.ai",
    "generativelanguage.googleapis.com",
    "ollama.com",
    "openrouter.ai",
)
_CLOUD_DOMAINS: Final = (
    ".cognitiveservices.azure.com",
    ".googleapis.com",
    ".mistral.ai",
    ".ollama.com",
    ".openai.azure.com",
    ".openai.com",
    ".openrouter.ai",
    ".services.ai.azure.com",
)
_AZURE_DOMAINS: Final = (
    ".cognitiveservices.azure.com",
    ".openai.azure.com",
    ".services.ai.azure.com",
)


def clean_url(text: str) -> str:
    """Return the address a user typed in its plain form.

    "host:11434/" becomes "http://host:11434". Raise ValueError if it is not an
    HTTP address.
    """
    text = text.strip()
    if "://" not in text:
        text = f"http://{text}"
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(text)
    url = url.with_query(None).with_fragment(None)
    return str(url).rstrip("/").removesuffix("/chat/completions").rstrip("/")


def server_root(url: str) -> str:
    """Return the address without the path of an API.

    "http://host:11434/v1" and "http://host:11434" are the same server;
    "https://host/ollama/v1" is the one at "https://host/ollama".
    """
    for path in _API_PATHS:
        if url.endswith(path):
            return url.removesuffix(path)
    return url


def openai_base(url: str) -> str:
    """Return the base of the OpenAI-compatible API at an address.

    An address that names an API already stays as it is; "/v1" is added to any
    other.
    """
    if url.endswith(_OPENAI_PATHS) or (url.endswith("/api/v1") and is_cloud(url)):
        return url
    if URL(url).host == "openrouter.ai":
        return f"{server_root(url)}/api/v1"
    if is_azure(url):
        return f"{URL(url).origin()}/openai/v1"
    return f"{server_root(url)}/v1"


def is_cloud(url: str) -> bool:
    """Return whether a known cloud answers there; it gets no keep_alive, ever."""
    host = (URL(url).host or "").lower().rstrip(".")
    return host in _CLOUD_HOSTS or host.endswith(_CLOUD_DOMAINS)


def is_azure(url: str) -> bool:
    """Return whether Azure answers there: it takes the key in a header api-key."""
    return (URL(url).host or "").lower().rstrip(".").endswith(_AZURE_DOMAINS)


def shown_host(url: str) -> str:
    """Return the host and port to show to the user: no path, no password."""
    parts = URL(url)
    default = parts.is_default_port() or parts.port is None
    return parts.host or "" if default else f"{parts.host}:{parts.port}"

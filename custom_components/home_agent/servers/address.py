"""Addresses of model servers: their plain form, their parts, and who runs them."""

import base64
from hashlib import sha256
import ipaddress
from typing import Final
from urllib.parse import unquote

from yarl import URL

# Paths of an API that may follow the address of a server, the longest first.
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

# Clouds refuse unknown fields with 400 or 422, and hold no models in memory.
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

# Networks that no server on the internet has an address of: loopback, RFC 1918,
# RFC 4193, link-local, and carrier-grade NAT (RFC 6598), which Tailscale uses.
_LOCAL_NETWORKS: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "0.0.0.0/32",
            "::/127",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
# Names that are not in the internet's DNS: RFC 6761, 6762, 8375, ICANN's .internal,
# and what home routers use.
_LOCAL_DOMAINS: Final = (
    ".home",
    ".home.arpa",
    ".internal",
    ".lan",
    ".local",
    ".localdomain",
    ".localhost",
)
# Different ways to write this machine.
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def clean_url(text: str) -> str:
    """Return the address that a user typed in its plain form.

    "HOST:11434/" becomes "http://host:11434". Raise ValueError if it is not an
    HTTP address. A user and a password stay: split_credentials takes them out.
    """
    text = text.strip()
    if "://" not in text:
        is_ipv6 = isinstance(_ip_address(text), ipaddress.IPv6Address)
        text = f"http://[{text}]" if is_ipv6 else f"http://{text}"
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        # Without the text: it may hold a password.
        raise ValueError("not an HTTP address")
    if any(character.isspace() for character in url.host):
        raise ValueError("a space in the name of a host")
    # The zone in "[fe80::1%25eth0]" is written for addresses, aiohttp wants "%eth0".
    url = url.with_host(url.host).with_query(None).with_fragment(None)
    return str(url).rstrip("/").removesuffix("/chat/completions").rstrip("/")


def split_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Return an address without user and password, and a header that has them.

    The header is Basic authorization (RFC 7617); there is none without a user and
    a password. Raise ValueError if it is not an address.
    """
    parts = URL(url)
    if parts.user is None and parts.password is None:
        return url, {}
    pair = f"{parts.user or ''}:{parts.password or ''}".encode()
    header = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return str(parts.with_user(None)).rstrip("/"), header


def server_root(url: str) -> str:
    """Return the address without the path of an API, as requests need it.

    "http://host:11434/v1" and "http://host:11434" are the same server;
    "https://host/ollama/v1" is the one at "https://host/ollama".
    """
    url = url.rstrip("/")
    for path in _API_PATHS:
        if url.endswith(path):
            return url.removesuffix(path)
    return url


def server_path(url: str) -> str:
    """Return the path of an address before that of an API, "" if there is none.

    Some proxies have a secret there.
    """
    return URL(server_root(url)).path.strip("/")


def server_id(url: str) -> str:
    """Return what identifies the server at an address.

    It is the same for every way to write the address: with or without the path of
    an API, a password, a default port; for localhost, 127.0.0.1 and [::1]. It is
    for comparing and storing, not for requests: a server may listen on [::1] only.
    """
    root, _ = split_credentials(server_root(url))
    parts = URL(root)
    host = (parts.host or "").lower().rstrip(".")
    if host in _LOOPBACK_NAMES:
        host = "127.0.0.1"
    return str(parts.with_host(host)).rstrip("/") if host else root


def openai_base(url: str) -> str:
    """Return where the OpenAI-compatible API of an address usually is.

    An address that ends with the path of such an API stays as it is; "/v1" is
    added to any other.
    """
    url = url.rstrip("/")
    if url.endswith(_OPENAI_PATHS) or (url.endswith("/api/v1") and is_cloud(url)):
        return url
    if URL(url).host == "openrouter.ai":
        return f"{server_root(url)}/api/v1"
    if is_azure(url):
        return f"{URL(url).origin()}/openai/v1"
    return f"{server_root(url)}/v1"


def openai_bases(url: str) -> list[str]:
    """Return where the OpenAI-compatible API of an address can be, best first.

    Some servers have a path of their own that no "/v1" follows, such as
    "/v1/openai", "/paas/v4" or "/inference". "/v1" comes first all the same:
    llama.cpp answers without it too, but in its own form.
    """
    return list(dict.fromkeys((openai_base(url), url.rstrip("/"))))


def is_cloud(url: str) -> bool:
    """Return whether a known cloud answers there. It never gets a keep_alive."""
    host = _host(url)
    return host in _CLOUD_HOSTS or host.endswith(_CLOUD_DOMAINS)


def is_azure(url: str) -> bool:
    """Return whether Azure answers there: it takes the key in a header api-key."""
    return _host(url).endswith(_AZURE_DOMAINS)


def is_local(url: str) -> bool | None:
    """Return whether an address is in the user's own network.

    None means that only the addresses that its name resolves to can say so.
    """
    host = _host(url)
    if (address := _ip_address(host)) is not None:
        return _is_local_address(address)
    if host == "localhost" or host.endswith(_LOCAL_DOMAINS):
        return True
    # A name without a dot is found in the local network only, but "134744072" is
    # a way to write 8.8.8.8.
    return None if "." in host or host[:1].isdigit() else True


def are_local_addresses(addresses: list[str]) -> bool:
    """Return whether all IP addresses, at least one, are in the user's network."""
    parsed = [_ip_address(address) for address in addresses]
    return bool(parsed) and all(
        address is not None and _is_local_address(address) for address in parsed
    )


def shown_host(url: str) -> str:
    """Return the host and port to show to the user: no path, no password."""
    parts = URL(url)
    host = parts.host or ""
    default = parts.is_default_port() or parts.port is None
    return host if default else f"{host}:{parts.port}"


def shown_server_id(url: str) -> str:
    """Return what identifies the server at an address, without a path or a password.

    It is the host and port; an address with https or a path has a hash of these in
    addition.
    """
    host, root = shown_host(url), server_id(url)
    parts = URL(root)
    if parts.scheme == "http" and parts.path in ("", "/"):
        return host
    return f"{host}_{sha256(root.encode()).hexdigest()[:8]}"


def _host(url: str) -> str:
    """Return the host of an address in lower case, without a dot at its end."""
    return (URL(url).host or "").lower().rstrip(".")


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a text is, None if it is a name.

    A zone ("fe80::1%eth0", in an address "%25eth0") is left out.
    """
    try:
        address = ipaddress.ip_address(unquote(host).partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def _is_local_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> bool:
    """Return whether an IP address is in the user's own network."""
    return any(
        address in network
        for network in _LOCAL_NETWORKS
        if network.version == address.version
    )

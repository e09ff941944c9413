"""Addresses as users write them."""

import base64

import pytest

from custom_components.home_agent.servers.address import (
    are_local_addresses,
    clean_url,
    is_azure,
    is_cloud,
    is_local,
    openai_base,
    openai_bases,
    server_id,
    server_root,
    shown_host,
    split_credentials,
)


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("http://host:11434", "http://host:11434"),
        (" host:11434/ ", "http://host:11434"),
        ("192.168.1.5", "http://192.168.1.5"),
        ("https://host/ollama/v1/", "https://host/ollama/v1"),
        ("http://host/v1/chat/completions?x=1#y", "http://host/v1"),
        ("http://[::1]:11434", "http://[::1]:11434"),
        ("[fd00::5]:11434", "http://[fd00::5]:11434"),
        ("fd00::5", "http://[fd00::5]"),
        ("HTTP://HOST:80/v1/", "http://host/v1"),
        ("https://Host:443", "https://host"),
        ("http://[fe80::1%25eth0]:11434/", "http://[fe80::1%eth0]:11434"),
        ("http://bücher.lan", "http://xn--bcher-kva.lan"),
    ],
)
def test_clean_url(written: str, clean: str) -> None:
    """Blanks, slashes and endpoints go; http:// comes."""
    assert clean_url(written) == clean


@pytest.mark.parametrize(
    "written",
    [
        *("", "ftp://host", "http://", "http://:80", "x://", "http://a b", "http://["),
        *("http://host:99999", "http://host:abc"),
    ],
)
def test_no_address(written: str) -> None:
    """What is no HTTP address is refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - yarl has its own texts
        clean_url(written)


@pytest.mark.parametrize(
    ("url", "root", "base"),
    [
        ("http://h:1", "http://h:1", "http://h:1/v1"),
        ("http://h:1/v1", "http://h:1", "http://h:1/v1"),
        ("http://h:1/api", "http://h:1", "http://h:1/v1"),
        ("http://h/x/v1", "http://h/x", "http://h/x/v1"),
        ("http://h/engines/v1", "http://h", "http://h/engines/v1"),
        ("http://h/v1/", "http://h", "http://h/v1"),
        (
            "https://api.groq.com/openai/v1",
            "https://api.groq.com",
            "https://api.groq.com/openai/v1",
        ),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "https://generativelanguage.googleapis.com",
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        (
            "https://openrouter.ai",
            "https://openrouter.ai",
            "https://openrouter.ai/api/v1",
        ),
        (
            "https://openrouter.ai/api/v1",
            "https://openrouter.ai",
            "https://openrouter.ai/api/v1",
        ),
        (
            "https://x.openai.azure.com/openai/deployments/d",
            "https://x.openai.azure.com/openai/deployments/d",
            "https://x.openai.azure.com/openai/v1",
        ),
        (
            "https://x.openai.azure.com",
            "https://x.openai.azure.com",
            "https://x.openai.azure.com/openai/v1",
        ),
    ],
)
def test_paths(url: str, root: str, base: str) -> None:
    """The same server, with and without the path of an API."""
    assert server_root(url) == root
    assert openai_base(url) == base


@pytest.mark.parametrize(
    ("url", "cloud"),
    [
        ("https://api.openai.com/v1", True),
        ("https://API.OpenAI.com./v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://x.openai.azure.com", True),
        ("https://ollama.com", True),
        ("http://ollama.local:11434", False),
        ("http://api.openai.com.my.lan:8080", False),
        ("http://notopenai.com", False),
        ("http://host/api.openai.com/v1", False),
    ],
)
def test_clouds(url: str, cloud: bool) -> None:
    """A cloud is known by its host, not by a word in the address."""
    assert is_cloud(url) is cloud
    assert is_azure(url) is ("azure" in url)


def test_shown_host() -> None:
    """No path and no password is shown."""
    assert shown_host("http://user:secret@host:11434/v1") == "host:11434"
    assert shown_host("https://host/v1") == "host"


@pytest.mark.parametrize(
    ("url", "bases"),
    [
        ("http://h:1", ["http://h:1/v1", "http://h:1"]),
        ("http://h:1/v1", ["http://h:1/v1"]),
        ("https://h/v1/openai", ["https://h/v1/openai/v1", "https://h/v1/openai"]),
        ("https://h/paas/v4/", ["https://h/paas/v4/v1", "https://h/paas/v4"]),
        ("http://h/api", ["http://h/v1", "http://h/api"]),
    ],
)
def test_places_of_the_api(url: str, bases: list[str]) -> None:
    """The usual place first, then the address as it was written."""
    assert openai_bases(url) == bases


@pytest.mark.parametrize(
    "url",
    [
        *("http://localhost:11434", "http://127.0.0.1:11434/v1", "http://[::1]:11434/"),
        *("http://LOCALHOST.:11434/api", "http://user:secret@localhost:11434"),
    ],
)
def test_one_server_with_many_addresses(url: str) -> None:
    """It is identified by none of the ways to write its address."""
    assert server_id(url) == "http://127.0.0.1:11434"


def test_requests_go_where_the_user_said() -> None:
    """A server may listen on [::1] only."""
    assert server_root("http://[::1]:1/v1") == "http://[::1]:1"
    assert server_id("http://[fe80::1%25eth0]:1") == "http://[fe80::1%eth0]:1"
    assert server_id("http://HOST.:80/x/") == "http://host/x"
    assert server_id("http://h:1") != server_id("https://h:1")
    assert server_id("") == ""


@pytest.mark.parametrize(
    ("url", "without", "pair"),
    [
        ("http://user:secret@h:1/v1", "http://h:1/v1", "user:secret"),
        ("http://user:p%40ss@h", "http://h", "user:p@ss"),
        ("http://user@h", "http://h", "user:"),
        ("http://:secret@h", "http://h", ":secret"),
        ("http://h/v1", "http://h/v1", None),
        ("http://[::1]:1", "http://[::1]:1", None),
    ],
)
def test_credentials_become_a_header(url: str, without: str, pair: str | None) -> None:
    """User and password are taken out of an address."""
    found, header = split_credentials(url)
    assert found == without
    encoded = base64.b64encode((pair or "").encode()).decode()
    assert header == ({"Authorization": f"Basic {encoded}"} if pair else {})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "127.8.8.8", "[::1]")),
        *((host, True) for host in ("10.1.2.3", "172.16.0.1", "172.31.255.255")),
        *((host, True) for host in ("192.168.1.5", "169.254.1.1", "100.64.0.1")),
        *((host, True) for host in ("100.127.255.255", "[fd00::1]", "[fe80::1]")),
        *((host, True) for host in ("[fe80::1%25eth0]", "[::ffff:192.168.1.5]")),
        *((host, True) for host in ("ollama", "nas.local", "nas.lan", "nas.local.")),
        *((host, True) for host in ("x.internal", "x.home.arpa", "X.HOME")),
        ("0.0.0.0", True),  # noqa: S104 - to be compared, not bound to
        *((host, False) for host in ("8.8.8.8", "172.32.0.1", "100.128.0.1")),
        *((host, False) for host in ("[2606:4700::1]", "[::ffff:8.8.8.8]", "1.1.1.1")),
        *((host, None) for host in ("example.com", "nas.example.org", "local.com")),
        *((host, None) for host in ("134744072", "x.ts.net", "127.1", "notlan.com")),
    ],
)
def test_whose_network(host: str, expected: bool | None) -> None:
    """What is at home, what is on the internet, and what only DNS can say."""
    assert is_local(f"http://{host}:8080/v1") is expected


def test_addresses_of_a_name() -> None:
    """All of them must be at home."""
    assert are_local_addresses(["192.168.1.5", "fd00::5"])
    assert not are_local_addresses(["192.168.1.5", "8.8.8.8"])
    assert not are_local_addresses([])
    assert not are_local_addresses(["?"])

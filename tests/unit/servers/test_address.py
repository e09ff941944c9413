"""Addresses as users write them."""

import pytest

from custom_components.home_agent.servers.address import (
    clean_url,
    is_azure,
    is_cloud,
    openai_base,
    server_root,
    shown_host,
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
    ],
)
def test_clean_url(written: str, clean: str) -> None:
    """Blanks, slashes and endpoints go; http:// comes."""
    assert clean_url(written) == clean


@pytest.mark.parametrize("written", ["", "ftp://host", "http://", "http://:80", "x://"])
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

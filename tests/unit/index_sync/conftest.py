"""What the tests of the index share."""

from collections.abc import AsyncIterator

import pytest

from tests.servers.chroma import ChromaStandIn


@pytest.fixture
async def chroma() -> AsyncIterator[ChromaStandIn]:
    """Return a stand-in Chroma that serves on loopback."""
    async with ChromaStandIn() as server:
        yield server

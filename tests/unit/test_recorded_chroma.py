"""A store on a Chroma server, with answers recorded from a real one (1.5).

They were recorded with tests/recorded/record.py while use_a_store ran.
"""

from pathlib import Path

import aiohttp
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.vector_store.base import DimensionChanged
from custom_components.home_agent.vector_store.chroma import (
    ChromaStore,
    async_delete_collections,
)
from tests.recorded.exchange import load_folder
from tests.recorded.replay import Replay

FOLDER = Path(__file__).parents[1] / "recorded" / "chroma"


async def use_a_store(session: aiohttp.ClientSession, url: str) -> None:
    """Do with a store what an index does, and compare what comes out."""
    store = await ChromaStore.open(session, url, None, "index", "model")
    assert await store.texts() == {}
    await store.put({"light.a": "A", "light.b": "B"}, [[1.0, 0.0], [0.0, 2.0]])
    assert await store.texts() == {"light.a": "A", "light.b": "B"}
    found = await store.search([1.0, 0.0], 1, {"light.a", "light.b"})
    assert [key for key, _ in found] == ["light.a"]
    assert found[0][1] == pytest.approx(1.0)
    with pytest.raises(DimensionChanged):
        await store.search([1.0], 1, {"light.a"})
    with pytest.raises(DimensionChanged):
        await store.put({"light.c": "C"}, [[1.0]])
    await store.remove(["light.a"])
    assert await store.texts() == {"light.b": "B"}
    assert await store.other_model() is None
    await async_delete_collections(session, url, None, "index")
    # The collection is gone: the store makes it again, and it is empty.
    assert await store.texts() == {}


async def test_a_store(hass: HomeAssistant) -> None:
    """Real answers are read right, also those that refuse."""
    async with Replay(load_folder(FOLDER).values()) as replay:
        await use_a_store(async_get_clientsession(hass), replay.url)

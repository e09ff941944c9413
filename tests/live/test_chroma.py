"""A real Chroma server as the store of an index."""

import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
import socket
import sys
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.servers.errors import (
    CannotConnect,
    ModelServerError,
)
from custom_components.home_agent.vector_store.base import (
    DimensionChanged,
    StoreEmpty,
    StoreError,
)
from custom_components.home_agent.vector_store.chroma import (
    ChromaStore,
    async_check_chroma,
    async_delete_collections,
)
from custom_components.home_agent.vector_store.engine import index_path
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn
from tests.unit.search.test_entity_search import find, ids, index

pytestmark = pytest.mark.skipif(
    find_spec("chromadb_rust_bindings") is None, reason="chromadb is not installed"
)


class Chroma:
    """A Chroma server that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        """Keep its data in a folder."""
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, hass: HomeAssistant) -> None:
        """Start, and wait until it answers."""
        arguments = ["--port", str(self._port), "--path", str(self._folder)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "scripts.chroma_server", *arguments),
            stdout=asyncio.subprocess.DEVNULL,
        )
        session = async_get_clientsession(hass)
        async with asyncio.timeout(20):
            while True:
                try:
                    await async_check_chroma(session, self.url, None)
                except CannotConnect:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


@pytest.fixture
async def chroma(hass: HomeAssistant, tmp_path: Path) -> AsyncIterator[Chroma]:
    """Return a running server without data."""
    server = Chroma(tmp_path / "chroma")
    await server.start(hass)
    yield server
    await server.stop()


async def collections(hass: HomeAssistant, chroma: Chroma) -> list[dict[str, Any]]:
    """Return the server's collections."""
    session = async_get_clientsession(hass)
    path = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    async with session.get(f"{chroma.url}{path}") as answer:
        result: list[dict[str, Any]] = await answer.json()
        return result


async def test_a_store(hass: HomeAssistant, chroma: Chroma) -> None:
    """A Chroma store does what the embedded one does."""
    session = async_get_clientsession(hass)
    store = await ChromaStore.open(session, chroma.url, None, "index", "a/b:c d")
    assert await store.texts() == {}
    with pytest.raises(StoreEmpty):
        await store.search([1.0, 0.0], 5, {"light.a"})
    await store.put(
        {"light.a": "A", "light.b": "B", "light.c": "C"},
        [[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]],
    )
    await store.put({"light.b": "new"}, [[-1.0, 0.0]])
    assert await store.texts() == {"light.a": "A", "light.b": "new", "light.c": "C"}
    found = await store.search([2.0, 0.0], 2, {"light.c", "light.a", "light.gone"})
    assert [key for key, _ in found] == ["light.a", "light.c"]
    assert [score for _, score in found] == pytest.approx([1.0, 0.70710678], abs=1e-5)
    assert [key for key, _ in await store.search([1.0, 0.0], 9, {"light.b"})] == [
        "light.b"
    ]
    assert await store.search([1.0, 0.0], 9, set()) == []
    with pytest.raises(DimensionChanged):
        await store.search([1.0], 1, {"light.a"})
    with pytest.raises(DimensionChanged):
        await store.put({"light.d": "D"}, [[1.0]])
    await store.remove(["light.a", "light.gone"])
    assert sorted(await store.texts()) == ["light.b", "light.c"]
    await store.clear()
    await store.put({"light.d": "D"}, [[1.0]])
    assert await store.texts() == {"light.d": "D"}
    # More than a page.
    many = {f"light.{number}": str(number) for number in range(1003)}
    await store.put(many, [[number + 1.0] for number in range(1003)])
    assert len(await store.texts()) == 1004
    await store.remove(many)
    assert len(await store.texts()) == 1


async def test_models_and_indexes_do_not_mix(
    hass: HomeAssistant, chroma: Chroma
) -> None:
    """Each model of each index has its own collection; all others stay untouched."""
    session = async_get_clientsession(hass)

    async def store(name: str, model: str) -> ChromaStore:
        return await ChromaStore.open(session, chroma.url, None, name, model)

    first, second = await store("one", "a"), await store("one", "b")
    other = await store("two", "a")
    await first.put({"x": "1"}, [[1.0]])
    await other.put({"y": "2"}, [[1.0]])
    assert await second.texts() == {}
    assert await second.other_model() == "a"
    assert await first.other_model() is None
    await second.drop_other_models()
    assert await other.texts() == {"y": "2"}
    assert len(await collections(hass, chroma)) == 2
    # Somebody else removed the collection: it is created again, empty.
    assert await first.texts() == {}
    await async_delete_collections(session, chroma.url, None, "one")
    await first.clear()
    await async_delete_collections(session, chroma.url, None, "one")
    (left,) = await collections(hass, chroma)
    assert left["metadata"] == {DOMAIN: "two", "model": "a"}


async def test_an_index_in_chroma(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry, chroma: Chroma
) -> None:
    """Embedded once, kept over a restart, removed with its entry.

    While Chroma is stopped the lexical ranking answers.
    """
    embedding = {"vector_store": "chroma", "chroma_url": chroma.url}
    entry = await make_entry(ollama.url, conversation={}, embedding=embedding)
    (_, subentry) = entry.subentries.values()
    await index(home, ollama)
    answer = await find(home, "reading lamp")
    assert ids(answer)[0] == "light.reading_lamp"
    assert answer["mode"] == "hybrid"
    assert not index_path(home, subentry.subentry_id).exists()
    embedded = len(ollama.sent("/api/embed"))
    await home.config_entries.async_reload(entry.entry_id)
    await index(home, ollama)
    assert len(ollama.sent("/api/embed")) == embedded
    await chroma.stop()
    assert (await find(home, "reading lamp"))["mode"] == "lexical"
    with pytest.raises(StoreError):
        await index(home, ollama)
    await home.config_entries.async_reload(entry.entry_id)
    assert entry.state.recoverable
    assert (await find(home, "reading lamp"))["mode"] == "lexical"
    await chroma.start(home)
    await index(home, ollama)
    assert (await find(home, "reading lamp"))["mode"] == "hybrid"
    assert len(await collections(home, chroma)) == 1
    await home.config_entries.async_remove(entry.entry_id)
    assert await collections(home, chroma) == []


async def test_what_is_no_chroma(hass: HomeAssistant, ollama: OllamaStandIn) -> None:
    """A server that is not Chroma answers at the address."""
    session = async_get_clientsession(hass)
    with pytest.raises(ModelServerError):
        await async_check_chroma(session, ollama.url, None)

"""Whatever happens to an index: once it is quiet, it equals what is exposed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
import sqlite3
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigEntryState
from homeassistant.const import EntityCategory
from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er
from hypothesis import given, note, settings, strategies as st
import pytest
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_fire_time_changed,
)

from custom_components.home_agent import backup
from custom_components.home_agent.home.exposed import async_get_exposed_entities
from custom_components.home_agent.model.embedding_prompts import embedding_prompts
from custom_components.home_agent.servers.errors import ModelServerError
from custom_components.home_agent.vector_db_manager import VectorDBManager
from custom_components.home_agent.vector_store import sqlite
from custom_components.home_agent.vector_store.base import StoreError
from custom_components.home_agent.vector_store.engine import index_path
from custom_components.home_agent.vector_store.sqlite import SqliteVectorStore
from tests.conftest import MakeEntry, call_action
from tests.servers import OllamaStandIn, ollama_answers
from tests.servers.chroma import ChromaStandIn
from tests.servers.embedding import embed
from tests.servers.ollama_models import StandInModel
from tests.servers.stand_in import Fault

# A failing example is made smaller, which takes time.
pytestmark = pytest.mark.timeout(300)
# "thorough" has more than the repeatable profile; each example is a whole life.
EXAMPLES = max(25, settings().max_examples // 500)

MODELS = ("nomic-embed-text:latest", "mxbai-embed-large:latest")
ENTITIES = [f"light.thing_{number}" for number in range(5)]

happenings = st.one_of(
    st.tuples(
        st.sampled_from(["expose", "hide", "rename", "add", "remove", "secondary"]),
        st.sampled_from(ENTITIES),
    ),
    st.tuples(
        st.sampled_from(
            [
                "server away",
                "server back",
                "server fails once",
                "file fails",
                "file works",
                "lose the data",
                "damage a vector",
                "reload",
                "ask",
                "reindex",
                "hold for a backup",
                "end the backup",
            ]
        ),
        st.none(),
    ),
    st.tuples(st.just("configure"), st.sampled_from(MODELS)),
    st.tuples(st.just("replace the model"), st.sampled_from([(256, 7), (32, 0)])),
)
# What happens, to what, and the seconds until the next thing happens.
steps = st.tuples(happenings, st.sampled_from([0, 0, 0.6, 6, 6, 61, 3700]))


@dataclass
class Life:
    """A home, an index and the servers that it needs."""

    hass: HomeAssistant
    entry: MockConfigEntry
    server: OllamaStandIn
    chroma: ChromaStandIn | None
    freezer: FrozenDateTimeFactory
    port: int
    # How far the vectors of the server's models are rotated.
    rotation: int = 0
    file_fails: bool = False
    names: int = 0
    # Vectors in memory answer questions although the tables below them are gone.
    must_restart: bool = False

    @property
    def managers(self) -> list[VectorDBManager]:
        """Return the manager of the entry, none while it waits for its server."""
        if self.entry.state is not ConfigEntryState.LOADED:
            return []
        return list(self.entry.runtime_data.vector_db_managers.values())

    def embed(self, text: str, dimension: int) -> list[float]:
        """Return the vector of the model that is there now."""
        vector = embed(text, dimension)
        return vector[self.rotation :] + vector[: self.rotation]

    async def settle(self) -> None:
        """Let what is due run; a sync that waits for a backup's end does not end."""
        await self.hass.async_block_till_done()
        for manager in self.managers:
            for _ in range(1000):
                if not manager.schedule.syncs.is_running:
                    break
                await asyncio.sleep(0)

    async def let_pass(self, seconds: float) -> None:
        """Advance the time, with all that is due then."""
        self.freezer.tick(timedelta(seconds=seconds))
        async_fire_time_changed(self.hass)
        await self.settle()

    async def take(self, step: str, value: Any) -> None:
        """Let something happen."""
        if step in ("expose", "hide"):
            async_expose_entity(self.hass, conversation.DOMAIN, value, step == "expose")
        elif step in ("rename", "add"):
            self.names += 1
            name = {"friendly_name": f"Thing {self.names}"}
            if step == "add" or self.hass.states.get(value):
                self.hass.states.async_set(value, "on", name)
        elif step == "remove":
            self.hass.states.async_remove(value)
        elif step == "secondary":
            registry = er.async_get(self.hass)
            registry.async_get_or_create(
                "light",
                "test",
                value,
                suggested_object_id=value.partition(".")[2],
                entity_category=EntityCategory.CONFIG,
            )
        elif step == "configure":
            (subentry,) = self.entry.get_subentries_of_type("embedding")
            self.hass.config_entries.async_update_subentry(
                self.entry, subentry, data={**subentry.data, "embedding_model": value}
            )
            await self.settle()
        elif step == "replace the model":
            dimension, self.rotation = value
            for model in MODELS:
                self.server.models[model] = StandInModel(
                    model, ("embedding",), dimension=dimension
                )
        else:
            await self.happenings[step]()

    @property
    def happenings(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what can happen without a value."""
        return {
            "server away": self.server_away,
            "server back": self.server_back,
            "server fails once": self.server_fails_once,
            "file fails": self.let_file_fail,
            "file works": self.let_file_work,
            "lose the data": self.lose_the_data,
            "damage a vector": self.damage_a_vector,
            "reload": self.reload,
            "ask": self.ask,
            "reindex": self.reindex,
            "hold for a backup": lambda: backup.async_pre_backup(self.hass),
            "end the backup": lambda: backup.async_post_backup(self.hass),
        }

    async def server_away(self) -> None:
        """Stop the model server."""
        await self.server.stop()

    async def server_back(self) -> None:
        """Start the model server where it was."""
        if self.server._runner is None:
            await self.server.start(self.port)

    async def server_fails_once(self) -> None:
        """Let the model server answer the next request with an error."""
        self.server.faults.append(Fault(status=500, body={"error": "broken"}))

    async def let_file_fail(self) -> None:
        """Let writing into the file fail from now on."""
        self.file_fails = True

    async def let_file_work(self) -> None:
        """Let writing into the file succeed again."""
        self.file_fails = False

    async def lose_the_data(self) -> None:
        """Drop the tables of the file, or the collections of Chroma."""
        if self.chroma is not None:
            self.chroma.collections.clear()
            return
        self.must_restart = True
        for statement in ("DROP TABLE IF EXISTS entry", "DROP TABLE IF EXISTS space"):
            await self.hass.async_add_executor_job(self.execute, statement)

    async def damage_a_vector(self) -> None:
        """Write a vector of an odd length into the file while it is closed."""
        if self.chroma is None:
            await self.hass.config_entries.async_unload(self.entry.entry_id)
            await self.hass.async_add_executor_job(
                self.execute, "UPDATE entry SET vector = x'01' WHERE id = 1"
            )
            await self.hass.config_entries.async_setup(self.entry.entry_id)
            await self.settle()

    def execute(self, statement: str) -> None:
        """Execute a statement as another program does; blocks."""
        (subentry,) = self.entry.get_subentries_of_type("embedding")
        path = index_path(self.hass, subentry.subentry_id)
        if not path.exists():
            return
        connection = sqlite3.connect(path)
        try:
            connection.execute(statement)
            connection.commit()
        except sqlite3.OperationalError as err:
            note(str(err))
        finally:
            connection.close()

    async def reload(self) -> None:
        """Unload the entry in the middle of what it does, and set it up again."""
        await self.hass.config_entries.async_reload(self.entry.entry_id)
        await self.settle()

    async def ask(self) -> None:
        """Search; nothing is raised, whatever is broken."""
        await call_action(self.hass, "search_entities", query="thing")

    async def reindex(self) -> None:
        """Embed all entities again in the background."""

        async def run() -> None:
            for manager in self.managers:
                try:
                    await manager.schedule.async_sync_now(embed_all=True)
                except (ModelServerError, StoreError) as err:
                    # The action shows the user these, and raises nothing else.
                    note(err.log_text)

        self.hass.async_create_background_task(run(), "reindex")

    async def become_quiet(self) -> None:
        """Mend everything, and let hours pass with a question in each."""
        self.file_fails = False
        self.server.faults.clear()
        if self.must_restart:
            await self.reload()
        await self.server_back()
        await backup.async_post_backup(self.hass)
        for _ in range(3):
            # The first pause is longer than any between two attempts, the next ones
            # are those after a failure and after a change.
            for seconds in (3700, 61, 6):
                await self.hass.async_block_till_done(wait_background_tasks=True)
                await self.let_pass(seconds)
            await self.hass.async_block_till_done(wait_background_tasks=True)
            await self.ask()
        await self.let_pass(6)
        await self.hass.async_block_till_done(wait_background_tasks=True)

    async def check(self) -> None:
        """Check that the index has each exposed entity with its vector, and no more."""
        (manager,) = self.managers
        store = await manager.index.async_open()
        prompt = embedding_prompts(store.model).document
        wanted = {
            key: f"{prompt}{entity.text}"
            for key, entity in async_get_exposed_entities(self.hass).items()
            if not entity.is_secondary
        }
        assert await store.texts() == wanted
        assert manager.index.previous is None
        dimension = self.server.models[store.model].dimension
        for key, text in wanted.items():
            ((found, score),) = await store.search(
                self.embed(text, dimension), 1, {key}
            )
            assert found == key
            assert score == pytest.approx(1, abs=1e-3)
        assert manager.sync.progress.failing_since is None


@pytest.mark.parametrize("uses_chroma", [False, True])
@settings(max_examples=EXAMPLES)
@given(history=st.lists(steps, max_size=10))
async def test_the_index_equals_what_is_exposed(
    home: HomeAssistant,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    history: list[tuple[tuple[str, Any], float]],
    *,
    uses_chroma: bool,
) -> None:
    """After outages, damage, other models, changes and reloads in any order."""
    real_put = SqliteVectorStore.put
    chroma = ChromaStandIn() if uses_chroma else None
    async with OllamaStandIn() as server:
        port = int(server.url.rpartition(":")[2])
        server.models[MODELS[1]] = StandInModel(MODELS[1], ("embedding",))
        where: dict[str, Any] = {"embedding_batch_size": 2}
        if chroma is not None:
            await chroma.start()
            where |= {"vector_store": "chroma", "chroma_url": chroma.url}
        entry = await make_entry(
            server.url, embedding={"embedding_model": MODELS[0], **where}
        )
        life = Life(home, entry, server, chroma, freezer, port)

        def put(self: SqliteVectorStore, *args: Any) -> None:
            if life.file_fails:
                raise sqlite3.OperationalError("database or disk is full")
            real_put(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ollama_answers, "embed", life.embed)
            patch.setattr(SqliteVectorStore, "put", put)
            patch.setattr(sqlite, "LOCK_TIMEOUT", 0.0)
            await life.let_pass(6)
            for (step, value), seconds in history:
                await life.take(step, value)
                if seconds:
                    await life.let_pass(seconds)
            await life.become_quiet()
            await life.check()
            await home.config_entries.async_remove(entry.entry_id)
    if chroma is not None:
        assert chroma.collections == {}
        await chroma.stop()

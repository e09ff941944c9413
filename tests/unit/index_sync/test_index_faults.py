"""What can happen to an index and its server: a turn goes on, and the index heals."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
import sqlite3
import threading
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er
import pytest
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_fire_time_changed,
)

from custom_components.home_agent import backup
from custom_components.home_agent.model.use import model_uses
from custom_components.home_agent.servers.errors import ModelServerError
from custom_components.home_agent.vector_db_manager import VectorDBManager
from custom_components.home_agent.vector_store import (
    embedded as embedded_module,
    sqlite,
)
from custom_components.home_agent.vector_store.base import StoreClosed, StoreError
from custom_components.home_agent.vector_store.engine import index_path
from custom_components.home_agent.vector_store.sqlite import SqliteVectorStore
from tests.conftest import MakeEntry, call_action, say, speech
from tests.servers import OllamaStandIn, ollama_answers
from tests.servers.chroma import ChromaStandIn
from tests.servers.embedding import embed
from tests.servers.stand_in import Fault

RETRIEVAL = {"entity_mode": "retrieval"}
LAMP = "light.reading_lamp"


async def let_pass(
    hass: HomeAssistant, freezer: FrozenDateTimeFactory, **passed: float
) -> None:
    """Advance the time, and run all that is due then."""
    freezer.tick(timedelta(**passed))
    async_fire_time_changed(hass)
    await hass.async_block_till_done(wait_background_tasks=True)


async def index_now(hass: HomeAssistant, freezer: FrozenDateTimeFactory) -> None:
    """Advance the time to the next sync, and wait for its end."""
    await let_pass(hass, freezer, seconds=6)


async def mode_of_a_search(hass: HomeAssistant) -> str:
    """Return the rankings that a search used; it finds the lamp in any case."""
    answer = await call_action(hass, "search_entities", query="reading lamp", limit=1)
    assert answer["entities"][0]["entity_id"] == LAMP
    mode: str = answer["mode"]
    return mode


def manager_of(entry: MockConfigEntry) -> VectorDBManager:
    """Return the one manager of an entry."""
    (manager,) = entry.runtime_data.vector_db_managers.values()
    assert isinstance(manager, VectorDBManager)
    return manager


async def stored(manager: VectorDBManager) -> set[str]:
    """Return the entities in the current store."""
    return set(await (await manager.index.async_open()).texts())


def path_of(hass: HomeAssistant, entry: MockConfigEntry) -> Path:
    """Return the path of the index of an entry."""
    (subentry,) = entry.get_subentries_of_type("embedding")
    return index_path(hass, subentry.subentry_id)


def store_threads() -> list[threading.Thread]:
    """Return the threads of open stores."""
    return [t for t in threading.enumerate() if t.name.startswith("home_agent_index")]


def drop_the_tables(path: Path) -> Callable[[], None]:
    """Remove the tables of an index; return what ends the damage."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE entry")
        connection.execute("DROP TABLE space")
    connection.close()
    return lambda: None


def lock(path: Path) -> Callable[[], None]:
    """Lock an index as another program does; return what ends that."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")

    def unlock() -> None:
        connection.rollback()
        connection.close()

    return unlock


def replace_by_folder(path: Path) -> Callable[[], None]:
    """Put a folder in the place of an index; return what removes it."""
    sqlite.remove_files(path)
    path.mkdir()
    return path.rmdir


def shorten_vectors(path: Path) -> Callable[[], None]:
    """Store vectors of an odd length; return what ends the damage."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entry SET vector = x'0102030405'")
    connection.close()
    return lambda: None


@pytest.mark.parametrize(
    "damage", [drop_the_tables, lock, replace_by_folder, shorten_vectors]
)
async def test_an_unusable_file(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], Callable[[], None]],
) -> None:
    """Turns and searches go on by words, the set-up succeeds, the index heals."""
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT", 0.0)
    entry = await make_entry(ollama.url, conversation=RETRIEVAL, embedding={})
    await index_now(home, freezer)
    assert await home.config_entries.async_unload(entry.entry_id)
    repair = await home.async_add_executor_job(damage, path_of(home, entry))
    assert await home.config_entries.async_setup(entry.entry_id)
    assert await mode_of_a_search(home) == "lexical"
    ollama.requests.clear()
    assert speech(await say(home, "Is the reading lamp on?"))
    body, *_ = ollama.sent("/api/chat")
    assert "Reading Lamp" in body["messages"][-1]["content"]
    repair()
    await index_now(home, freezer)
    await let_pass(home, freezer, minutes=1)
    assert await mode_of_a_search(home) == "hybrid"
    assert len(await stored(manager_of(entry))) == 4
    corrupt = path_of(home, entry).with_suffix(".corrupt")
    assert corrupt.exists() is (damage is drop_the_tables)


async def test_tables_that_go_while_the_file_is_open(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """The sync that fails closes the file; the next one makes it again."""
    entry = await make_entry(ollama.url, conversation=RETRIEVAL, embedding={})
    await index_now(home, freezer)
    await home.async_add_executor_job(drop_the_tables, path_of(home, entry))
    manager = manager_of(entry)
    with pytest.raises(StoreError) as raised:
        await call_action(home, "reindex")
    assert raised.value.translation_key == "index_unusable"
    assert "no such table" in raised.value.log_text
    assert manager.sync.progress.failing_since
    assert speech(await say(home, "Is the reading lamp on?"))
    assert await mode_of_a_search(home) == "lexical"
    await manager.sync.async_run()
    assert await mode_of_a_search(home) == "hybrid"
    assert manager.sync.progress.failing_since is None


async def test_a_backup_in_spite_of_an_unusable_index(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The backup is made, and one line says what it may lack."""
    await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)

    def broken(_self: SqliteVectorStore) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(SqliteVectorStore, "checkpoint", broken)
    await backup.async_pre_backup(home)
    await backup.async_post_backup(home)
    assert caplog.text.count("The backup may lack the newest entries") == 1


async def test_an_unload_while_a_backup_holds_the_writes(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The reindex that waits ends with a translated error, and so does the next."""
    entry = await make_entry(ollama.url, embedding={})
    manager = manager_of(entry)
    await backup.async_pre_backup(home)
    reindex = home.async_create_task(call_action(home, "reindex"))
    while not ollama.sent("/api/embed"):  # noqa: ASYNC110 - until it is there
        await asyncio.sleep(0)
    assert await home.config_entries.async_unload(entry.entry_id)
    with pytest.raises(StoreClosed):
        await reindex
    with pytest.raises(StoreClosed):
        await manager.sync.async_run(embed_all=True)
    await backup.async_post_backup(home)
    assert not store_threads()


async def test_an_unload_while_the_file_is_opened(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The opening of a search that goes on leaves no open file and no thread."""
    entry = await make_entry(ollama.url, embedding={})
    manager = manager_of(entry)
    is_opening, may_go_on = threading.Event(), threading.Event()

    def slow(path: Path, model: str) -> SqliteVectorStore:
        is_opening.set()
        assert may_go_on.wait(10)
        return SqliteVectorStore(path, model)

    monkeypatch.setattr(embedded_module, "SqliteVectorStore", slow)
    question = home.async_create_task(manager.async_embed_question("lamp"))
    while not is_opening.is_set():  # noqa: ASYNC110 - another thread sets it
        await asyncio.sleep(0)
    unload = home.async_create_task(home.config_entries.async_unload(entry.entry_id))
    for _ in range(500):
        await asyncio.sleep(0)
    may_go_on.set()
    assert await unload
    await asyncio.wait([question])
    assert manager.index.current is None
    assert not store_threads()


async def test_an_opening_that_is_cancelled(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves no open file and no thread either."""
    entry = await make_entry(ollama.url, embedding={})
    is_opening, may_go_on = threading.Event(), threading.Event()
    closed: list[bool] = []

    class SlowStore(SqliteVectorStore):
        def __init__(self, path: Path, model: str) -> None:
            is_opening.set()
            assert may_go_on.wait(10)
            super().__init__(path, model)

        def close(self) -> None:
            super().close()
            closed.append(True)

    monkeypatch.setattr(embedded_module, "SqliteVectorStore", SlowStore)
    opening = home.async_create_task(manager_of(entry).index.async_open())
    while not is_opening.is_set():  # noqa: ASYNC110 - another thread sets it
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    (thread,) = store_threads()
    may_go_on.set()
    await home.async_add_executor_job(thread.join, 10)
    assert not store_threads()
    assert closed == [True]


@pytest.mark.parametrize("whole_entry", [True, False])
async def test_removal_while_the_server_is_away(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    *,
    whole_entry: bool,
) -> None:
    """An entry that waits for its server leaves no index behind."""
    entry = await make_entry(ollama.url, conversation={}, embedding={})
    await index_now(home, freezer)
    path = path_of(home, entry)
    await ollama.stop()
    await home.config_entries.async_reload(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    assert path.exists()
    (subentry,) = entry.get_subentries_of_type("embedding")
    if whole_entry:
        await home.config_entries.async_remove(entry.entry_id)
    else:
        home.config_entries.async_remove_subentry(entry, subentry.subentry_id)
        await home.config_entries.async_remove(entry.entry_id)
    assert not list(path.parent.glob("home_agent.index*"))


async def test_a_former_model_has_its_own_use(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """A question that it embeds is no use of the model that is configured now."""
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    (subentry,) = entry.get_subentries_of_type("embedding")
    old, new = subentry.data["embedding_model"], "mxbai-embed-large:latest"
    model = ollama.models["nomic-embed-text:latest"]
    ollama.models[new] = type(model)(new, ("embedding",))
    uses = model_uses(home)
    home.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, "embedding_model": new}
    )
    await home.async_block_till_done()
    before = uses.async_get(ollama.url, old).last_ended
    freezer.tick(1)
    assert await mode_of_a_search(home) == "hybrid"
    assert ollama.sent("/api/embed")[-1]["model"] == old
    assert uses.async_get(ollama.url, old).last_ended != before
    assert uses.async_get(ollama.url, new).last_ended is None


async def test_another_dimension_behind_the_name_heals(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """The first search by words notices it, and the sync after it repairs it."""
    await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    name = "nomic-embed-text:latest"
    ollama.models[name] = type(ollama.models[name])(name, ("embedding",), dimension=32)
    assert await mode_of_a_search(home) == "lexical"
    await index_now(home, freezer)
    assert await mode_of_a_search(home) == "hybrid"


def other_model(text: str, dimension: int) -> list[float]:
    """Return the vector of another model with as many dimensions."""
    return [-value for value in reversed(embed(text, dimension))]


@pytest.mark.parametrize("noticed_by", ["question", "change", "reindex"])
async def test_another_model_behind_the_name_heals(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    monkeypatch: pytest.MonkeyPatch,
    noticed_by: str,
) -> None:
    """A text that is embedded again shows it; nothing is compared with the old."""
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    assert await mode_of_a_search(home) == "hybrid"
    monkeypatch.setattr(ollama_answers, "embed", other_model)
    await let_pass(home, freezer, hours=1, seconds=1)
    if noticed_by == "question":
        assert await mode_of_a_search(home) == "lexical"
    elif noticed_by == "change":
        er.async_get(home).async_update_entity(LAMP, aliases=["Torch"])
    else:
        await call_action(home, "reindex")
    await index_now(home, freezer)
    assert await mode_of_a_search(home) == "hybrid"
    store = await manager_of(entry).index.async_open()
    for key, text in (await store.texts()).items():
        ((_, score),) = await store.search(other_model(text, 256), 1, {key})
        assert score == pytest.approx(1, abs=1e-3)


async def test_a_question_carries_a_stored_text_once_an_hour(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """No request is made for the comparison alone."""
    await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    sizes = []
    for minutes in (1, 61, 1):
        await let_pass(home, freezer, minutes=minutes)
        ollama.requests.clear()
        assert await mode_of_a_search(home) == "hybrid"
        (body,) = ollama.sent("/api/embed")
        sizes.append(len(body["input"]))
    assert sizes == [1, 2, 1]


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("database or disk is full"), KeyError("x")]
)
async def test_a_sync_that_fails_by_the_file_is_repeated(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """As one that fails by the server; the progress says why."""
    entry = await make_entry(ollama.url, embedding={})
    manager = manager_of(entry)

    def broken(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(SqliteVectorStore, "put", broken)
        await index_now(home, freezer)
        assert manager.sync.progress.failing_since
        assert type(error).__name__ in manager.sync.progress.error
    await let_pass(home, freezer, minutes=1)
    assert len(await stored(manager)) == 4
    assert manager.sync.progress.failing_since is None


async def test_a_reindex_that_fails_is_repeated(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """Though nothing has changed: it may have removed what it could not replace."""
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    ollama.faults.append(Fault(status=500, body={"error": "broken"}))
    with pytest.raises(ModelServerError):
        await call_action(home, "reindex")
    manager = manager_of(entry)
    assert manager.sync.progress.failing_since
    await let_pass(home, freezer, minutes=1)
    assert manager.sync.progress.failing_since is None


async def test_changes_during_a_long_sync(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """What changes while the first index is made is indexed after it."""
    entry = await make_entry(ollama.url, embedding={})
    ollama.hold()
    freezer.tick(timedelta(seconds=6))
    async_fire_time_changed(home)
    while not ollama.sent("/api/embed"):  # noqa: ASYNC110 - until it is there
        await asyncio.sleep(0)
    er.async_get(home).async_update_entity(LAMP, aliases=["Torch"])
    freezer.tick(timedelta(seconds=10))
    async_fire_time_changed(home)
    for _ in range(500):
        await asyncio.sleep(0)
    ollama.release()
    await home.async_block_till_done(wait_background_tasks=True)
    await index_now(home, freezer)
    store = await manager_of(entry).index.async_open()
    assert "Torch" in (await store.texts())[LAMP]


async def test_a_server_that_is_back_is_noticed_within_a_minute(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """However long it was away."""
    entry = await make_entry(ollama.url, embedding={})
    port = int(ollama.url.rpartition(":")[2])
    await ollama.stop()
    await index_now(home, freezer)
    for _ in range(20):
        await let_pass(home, freezer, minutes=1)
    await ollama.start(port)
    await let_pass(home, freezer, minutes=1)
    assert len(await stored(manager_of(entry))) == 4


@pytest.mark.parametrize("lost", ["collection", "entries"])
async def test_a_chroma_that_lost_its_data_is_filled_again(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    chroma: ChromaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    lost: str,
) -> None:
    """The first search notices it."""
    where = {"vector_store": "chroma", "chroma_url": chroma.url}
    await make_entry(ollama.url, embedding=where)
    await index_now(home, freezer)
    assert await mode_of_a_search(home) == "hybrid"
    if lost == "collection":
        chroma.collections.clear()
    else:
        (collection,) = chroma.collections.values()
        collection.documents.clear()
        collection.vectors.clear()
    assert await mode_of_a_search(home) == "lexical"
    await index_now(home, freezer)
    (collection,) = chroma.collections.values()
    assert len(collection.documents) == 4
    assert await mode_of_a_search(home) == "hybrid"


async def test_a_chroma_that_is_away(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    chroma: ChromaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """Searches go by words, a backup is made, and it is noticed when it is back."""
    where = {"vector_store": "chroma", "chroma_url": chroma.url}
    entry = await make_entry(ollama.url, embedding=where)
    await index_now(home, freezer)
    port = int(chroma.url.rpartition(":")[2])
    await chroma.stop()
    assert await mode_of_a_search(home) == "lexical"
    await backup.async_pre_backup(home)
    await backup.async_post_backup(home)
    with pytest.raises(StoreError):
        await call_action(home, "reindex")
    for _ in range(10):
        await let_pass(home, freezer, minutes=1)
    await chroma.start(port)
    await let_pass(home, freezer, minutes=1)
    assert await mode_of_a_search(home) == "hybrid"
    await chroma.stop()
    await home.config_entries.async_remove(entry.entry_id)


@pytest.mark.parametrize("registered", [True, False])
async def test_a_deleted_entity_leaves_though_the_server_is_away(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    *,
    registered: bool,
) -> None:
    """From the index of the former model too, which still answers."""
    home.states.async_set("light.garland", "on", {"friendly_name": "Garland"})
    async_expose_entity(home, conversation.DOMAIN, "light.garland", True)
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    (subentry,) = entry.get_subentries_of_type("embedding")
    home.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, "embedding_model": "other"}
    )
    await home.async_block_till_done()
    manager = manager_of(entry)
    await manager.index.async_open()
    assert manager.index.previous is not None
    await ollama.stop()
    gone = LAMP if registered else "light.garland"
    if registered:
        er.async_get(home).async_remove(gone)
    home.states.async_remove(gone)
    await let_pass(home, freezer, seconds=1)
    left = await manager.index.previous.texts()
    assert len(left) == 4
    assert gone not in left


@pytest.mark.parametrize(
    "question",
    ["reading lamp \ud800", " ".join(map(str, range(50_000))), "\udfff"],
    ids=["half a surrogate pair", "many words", "nothing else"],
)
async def test_an_odd_question(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    question: str,
) -> None:
    """Half a surrogate pair and very many words are no failure."""
    await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    answer = await call_action(home, "search_entities", query=question, limit=9)
    found = [match["entity_id"] for match in answer["entities"]]
    if question.startswith("reading"):
        assert found[0] == LAMP
    for body in ollama.sent("/api/embed")[1:]:
        assert len(body["input"][0]) < 3000


async def test_changes_of_what_is_not_exposed_rebuild_nothing(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the full-text table nor the index."""
    await make_entry(ollama.url, embedding={})
    registry = er.async_get(home)
    hidden = registry.async_get_or_create(
        "sensor", "test", "hidden", suggested_object_id="hidden"
    ).entity_id
    async_expose_entity(home, conversation.DOMAIN, hidden, False)
    home.states.async_set(hidden, "1", {"friendly_name": "Hidden"})
    await index_now(home, freezer)
    assert await mode_of_a_search(home) == "hybrid"
    made: list[Any] = []
    module = "custom_components.home_agent.search.lexical_ranking.LexicalTable"
    with monkeypatch.context() as patch:
        patch.setattr(module, made.append)
        registry.async_update_entity(hidden, name="Other", aliases=["Another"])
        registry.async_update_entity(hidden, device_class="temperature")
        home.states.async_set(hidden, "1", {"friendly_name": "Other"})
        home.states.async_remove(hidden)
        assert await mode_of_a_search(home) == "hybrid"
    assert made == []
    registry.async_update_entity(LAMP, aliases=["Torch"])
    answer = await call_action(home, "search_entities", query="torch", limit=1)
    assert answer["entities"][0]["entity_id"] == LAMP

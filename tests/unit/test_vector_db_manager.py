"""Embeddings: their keep_alive, which entities are indexed, and which are found."""

import asyncio
from datetime import timedelta
from pathlib import Path
import re
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import ServiceNotFound, ServiceValidationError
from homeassistant.helpers import (
    area_registry as ar,
    entity_registry as er,
    issue_registry as ir,
)
import pytest
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_fire_time_changed,
)

from custom_components.home_agent import backup
from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.vector_db_manager import VectorDBManager
from custom_components.home_agent.vector_store.engine import index_path
from custom_components.home_agent.vector_store.sqlite import SqliteVectorStore
from tests.conftest import MakeEntry, call_action, say, speech
from tests.servers import ManualClock, OllamaStandIn, OpenAIStandIn, Reply, ToolUse
from tests.servers.stand_in import Fault


def config(url: str, **more: Any) -> dict[str, Any]:
    """Return the flat configuration of a manager."""
    return {"llm_base_url": url, "embedding_model": "nomic-embed-text", **more}


@pytest.mark.parametrize(
    ("configured", "override", "sent", "stays"),
    [
        (None, None, "5m", 300),
        ("10m", None, "10m", 600),
        ("-1", None, -1, float("inf")),
        ("0", None, 0, 0),
        ("10m", "-1", -1, float("inf")),
    ],
)
async def test_its_own_keep_alive(
    hass: HomeAssistant,
    ollama: OllamaStandIn,
    clock: ManualClock,
    configured: str | None,
    override: str | None,
    sent: str | int,
    stays: float,
) -> None:
    """Every embedding request has it, and the model stays loaded that long."""
    manager = VectorDBManager(
        hass,
        config(
            f"{ollama.url}/v1", llm_keep_alive="7h", embedding_keep_alive=configured
        ),
    )
    vector = await manager.generate_embedding("a lamp", keep_alive=override)
    assert len(vector) == 256
    (body,) = ollama.sent("/api/embed")
    assert body == {
        "model": "nomic-embed-text",
        "input": ["a lamp"],
        "truncate": False,
        "keep_alive": sent,
    }
    assert type(body["keep_alive"]) is type(sent)
    resident = ollama.loaded("nomic-embed-text:latest")
    if stays:
        assert resident is not None
        assert resident.expires_at == clock.now() + stays
    else:
        assert resident is None
    await manager.async_stop()


async def test_vectors_keep_the_order_of_the_texts(
    hass: HomeAssistant, openai: OpenAIStandIn
) -> None:
    """Also if the server answers in another order."""
    manager = VectorDBManager(hass, config(openai.url))
    one = await manager.generate_embedding("one")
    two = await manager.generate_embedding("two")
    assert await manager.generate_embeddings(["two", "one"]) == [two, one]
    await manager.async_stop()


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


async def stored_texts(manager: VectorDBManager) -> dict[str, str]:
    """Return the texts that an open index holds, by entity."""
    assert manager.index.current is not None
    return await manager.index.current.texts()


async def search(hass: HomeAssistant, query: str, **more: Any) -> list[dict[str, Any]]:
    """Return what the action finds."""
    response = await call_action(hass, "search_entities", query=query, **more)
    entities: list[dict[str, Any]] = response["entities"]
    return entities


def embedded(server: OllamaStandIn) -> list[str]:
    """Return the texts that were embedded since the last call.

    Without the words that the model wants to read in front of each.
    """
    texts = [text for body in server.sent("/api/embed") for text in body["input"]]
    server.requests.clear()
    return [text.partition("search_document: ")[2] for text in texts]


async def test_index_and_search(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """Names, kinds and places are embedded, in batches, without states."""
    await make_entry(ollama.url, embedding={"embedding_batch_size": 3})
    assert embedded(ollama) == []  # in the background, not during set-up
    await index_now(home, freezer)
    bodies = ollama.sent("/api/embed")
    assert [len(body["input"]) for body in bodies] == [3, 1]
    assert {body["keep_alive"] for body in bodies} == {"5m"}
    assert sorted(embedded(ollama)) == [
        "Bedroom Temperature; sensor temperature; Bedroom",
        "Coffee Machine; switch; Kitchen, Ground Floor",
        "Kitchen Light; light; Kitchen, Ground Floor",
        "Reading Lamp; light; Bedroom",
    ]
    found = await search(home, "reading lamp", limit=2)
    assert found[0]["entity_id"] == "light.reading_lamp"
    assert len(found) == 2
    assert found[0]["names"] == ["Reading Lamp"]
    assert found[0]["areas"] == ["Bedroom"]
    assert found[0]["score"] > found[1]["score"]
    by_meaning = await search(home, "how warm is it")
    assert by_meaning[0]["entity_id"] == "sensor.bedroom_temperature"


async def test_only_changes_are_embedded(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """Not states, but names, aliases, areas, new and newly exposed entities."""
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    assert len(embedded(ollama)) == 4
    home.states.async_set("light.kitchen_light", "on", {"friendly_name": "x"})
    await index_now(home, freezer)
    assert embedded(ollama) == []
    registry = er.async_get(home)
    registry.async_update_entity("light.kitchen_light", aliases=["Ceiling Spots"])
    await index_now(home, freezer)
    (text,) = embedded(ollama)
    assert "Ceiling Spots" in text
    kitchen = ar.async_get(home).async_get_area_by_name("Kitchen")
    assert kitchen
    ar.async_get(home).async_update(kitchen.id, name="Galley")
    await index_now(home, freezer)
    assert len(embedded(ollama)) == 2
    home.states.async_set("fan.new", "on", {"friendly_name": "Desk Fan"})
    async_expose_entity(home, conversation.DOMAIN, "fan.new", True)
    await index_now(home, freezer)
    assert embedded(ollama) == ["Desk Fan; fan"]
    # The index survives, so a restart embeds nothing.
    await home.config_entries.async_reload(entry.entry_id)
    await index_now(home, freezer)
    assert embedded(ollama) == []
    assert (await search(home, "desk fan"))[0]["entity_id"] == "fan.new"


async def test_hidden_entities_are_gone_at_once(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """From the answers in the same moment, from the index within a second.

    Whether or not the model server is there.
    """
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    async_expose_entity(home, conversation.DOMAIN, "light.reading_lamp", False)
    found = [match["entity_id"] for match in await search(home, "reading lamp")]
    assert "light.reading_lamp" not in found
    assert len(found) == 3
    await ollama.stop()
    await let_pass(home, freezer, seconds=1)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    assert "light.reading_lamp" not in await manager.index.current.texts()


async def test_another_model_and_another_dimension(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Vectors of one model are never compared with another's."""
    await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    assert len(embedded(ollama)) == 4
    models = ollama.models
    name = "nomic-embed-text:latest"
    models[name] = type(models[name])(name, ("embedding",), dimension=32)
    # By the lexical ranking until the index is remade.
    assert len(await search(home, "lamp")) == 1
    async_expose_entity(home, conversation.DOMAIN, "light.reading_lamp", False)
    async_expose_entity(home, conversation.DOMAIN, "light.reading_lamp", True)
    er.async_get(home).async_update_entity("light.reading_lamp", aliases=["New"])
    await index_now(home, freezer)
    assert "indexing all entities again" in caplog.text
    assert len(await search(home, "lamp")) == 4


async def test_a_failed_sync_is_repeated(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At growing intervals and with one warning, until the server answers."""
    await make_entry(ollama.url, embedding={})
    # Not 503 "server busy": the client itself waits for such a server.
    away = Fault(status=500, body={"error": "out of memory"})
    ollama.faults.extend([away] * 3)
    await index_now(home, freezer)
    for minutes in (1, 2, 4):
        await let_pass(home, freezer, minutes=minutes)
        await index_now(home, freezer)
    assert caplog.text.count("Cannot index the entities now") == 1
    assert len(await search(home, "lamp")) == 4


async def test_unload_during_indexing(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """Unloading the entry cancels a sync that is running."""
    entry = await make_entry(ollama.url, embedding={})
    ollama.hold()
    freezer.tick(timedelta(seconds=6))
    async_fire_time_changed(home)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    while not manager.schedule.syncs.is_running or not ollama.sent("/api/embed"):
        await home.async_block_till_done()
        await let_others_run()
    assert await home.config_entries.async_unload(entry.entry_id)
    assert not manager.schedule.syncs.is_running
    ollama.release()


async def let_others_run() -> None:
    """Let other tasks run."""
    await asyncio.sleep(0)


@pytest.mark.parametrize("whole_entry", [True, False])
async def test_removal_removes_the_index(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    *,
    whole_entry: bool,
) -> None:
    """Removing the entry, or the subentry alone, deletes its index."""
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    (subentry,) = entry.get_subentries_of_type("embedding")
    path = index_path(home, subentry.subentry_id)
    assert path.exists()
    if whole_entry:
        await home.config_entries.async_remove(entry.entry_id)
    else:
        home.config_entries.async_remove_subentry(entry, subentry.subentry_id)
        await home.async_block_till_done()
    assert not list(path.parent.glob("home_agent.index*"))


async def test_the_tool(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """Every agent with the Assist API has it; the answer has names and states."""
    entry = await make_entry(ollama.url, conversation={}, embedding={})
    await index_now(home, freezer)
    name = "home_agent__search_entities"
    ollama.brain.replies.append(
        Reply(tools=(ToolUse(name, {"query": "temperature", "limit": 1}),))
    )
    said = speech(await say(home, "Search"))
    assert said == "I found Bedroom Temperature."
    body = ollama.sent("/api/chat")[-1]
    assert '"state":"19.5 °C"' in body["messages"][-1]["content"]
    names = [tool["function"]["name"] for tool in body["tools"]]
    assert len([n for n in names if n.endswith("search_entities")]) == 1
    ollama.brain.replies.append(Reply(tools=(ToolUse(name, {"limit": 0}),)))
    assert "did not work" in speech(await say(home, "Search"))
    # Switched off, it is gone.
    (subentry,) = entry.get_subentries_of_type("embedding")
    home.config_entries.async_update_subentry(
        entry, subentry, data={**subentry.data, "embedding_search_tool": False}
    )
    await home.async_block_till_done()
    await say(home, "Hello")
    tools = ollama.sent("/api/chat")[-1]["tools"]
    assert not any("search_entities" in tool["function"]["name"] for tool in tools)


async def test_the_action_explains_itself(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Without an index, and of an entry that has none or is somebody else's."""
    without = await make_entry(ollama.url, conversation={})
    (lamp,) = await search(home, "lamp")
    assert lamp["entity_id"] == "light.reading_lamp"
    async with OllamaStandIn() as other:
        await make_entry(other.url, embedding={})
        (lamp,) = await search(home, "lamp")
        with pytest.raises(ServiceValidationError, match="has no embedding model"):
            await search(home, "lamp", config_entry_id=without.entry_id)
        foreign = MockConfigEntry(domain="other")
        foreign.add_to_hass(home)
        with pytest.raises(ServiceValidationError):
            await search(home, "lamp", config_entry_id=foreign.entry_id)


async def test_a_broken_index_does_not_stop_the_set_up(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """The broken file is renamed and a new index is made."""
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    (subentry,) = entry.get_subentries_of_type("embedding")
    await home.config_entries.async_unload(entry.entry_id)
    path = index_path(home, subentry.subentry_id)
    await home.async_add_executor_job(Path(path).write_bytes, b"broken" * 999)
    await home.config_entries.async_setup(entry.entry_id)
    await index_now(home, freezer)
    assert len(await search(home, "lamp")) == 4


@pytest.mark.usefixtures("all_entities")
async def test_progress_and_a_stuck_index(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """A sensor counts; a repair is raised after repeated failures, and cleared."""
    await make_entry(ollama.url, embedding={"embedding_batch_size": 3})
    ollama.faults.append(Fault())
    ollama.faults.extend([Fault(status=500, body={"error": "broken"})] * 6)

    def progress() -> tuple[str, int]:
        state = home.states.get("sensor.embedding_entities_indexed")
        assert state
        return state.state, state.attributes["total"]

    await index_now(home, freezer)
    assert progress() == ("3", 4)
    issues = ir.async_get(home)
    for minutes in (1, 2, 4, 8, 16, 32):
        stuck = [i for i in issues.issues.values() if i.domain == DOMAIN]
        assert bool(stuck) is (minutes > 8)
        await let_pass(home, freezer, minutes=minutes, seconds=10)
        await let_pass(home, freezer, seconds=10)
    assert progress() == ("4", 4)
    assert not [i for i in issues.issues.values() if i.domain == DOMAIN]


async def test_reindex(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """All entities are embedded again, though none has changed.

    One of them first, to find out whether the model is still the same.
    """
    with pytest.raises(ServiceNotFound):
        await reindex(home)
    without = await make_entry(ollama.url, conversation={})
    with pytest.raises(ServiceValidationError, match="has no embedding model"):
        await reindex(home)
    await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    ollama.requests.clear()
    assert await reindex(home) == {"indexed": 4, "removed": 0}
    sample, *texts = embedded(ollama)
    assert len(texts) == 4
    assert sample in texts
    with pytest.raises(ServiceValidationError, match="has no embedding model"):
        await reindex(home, config_entry_id=without.entry_id)


async def reindex(hass: HomeAssistant, **data: Any) -> dict[str, Any]:
    """Return what the action answers."""
    return await call_action(hass, "reindex", **data)


async def test_a_sync_waits_until_the_server_is_idle(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """No batch is sent during a conversation turn on the same server."""
    await make_entry(ollama.url, conversation={}, embedding={})
    ollama.hold()
    turn = home.async_create_task(say(home, "Hello"))
    while not ollama.sent("/api/chat"):  # noqa: ASYNC110 - until it is there
        await asyncio.sleep(0)
    freezer.tick(timedelta(seconds=10))
    async_fire_time_changed(home)
    for _ in range(500):
        await asyncio.sleep(0)
    assert not ollama.sent("/api/embed")
    ollama.release()
    await turn
    await home.async_block_till_done(wait_background_tasks=True)
    assert len(embedded(ollama)) == 4


async def test_backups_have_the_whole_index(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
) -> None:
    """During a backup nothing is written, and the one file holds all data."""
    entry = await make_entry(ollama.url, embedding={})
    await index_now(home, freezer)
    (subentry,) = entry.get_subentries_of_type("embedding")
    path = index_path(home, subentry.subentry_id)
    await backup.async_pre_backup(home)
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    er.async_get(home).async_update_entity("light.reading_lamp", aliases=["Torch"])
    await index_soon(home, freezer)
    store = SqliteVectorStore(copy, "nomic-embed-text")
    assert len(store.texts()) == 4
    store.close()
    (manager,) = entry.runtime_data.vector_db_managers.values()
    lamp = (await manager.index.current.texts())["light.reading_lamp"]
    assert "Torch" not in lamp
    await backup.async_post_backup(home)
    await home.async_block_till_done(wait_background_tasks=True)
    lamp = (await manager.index.current.texts())["light.reading_lamp"]
    assert "Torch" in lamp


async def index_soon(hass: HomeAssistant, freezer: FrozenDateTimeFactory) -> None:
    """Start the next sync, and do not wait for its end."""
    freezer.tick(timedelta(seconds=10))
    async_fire_time_changed(hass)
    for _ in range(500):
        await asyncio.sleep(0)


async def test_hidden_while_it_is_embedded(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An entity that is hidden during the request is not stored."""
    entry = await make_entry(ollama.url, embedding={})
    (manager,) = entry.runtime_data.vector_db_managers.values()
    ollama.hold()
    syncing = home.async_create_task(manager.sync.async_run())
    for _ in range(2000):
        await asyncio.sleep(0)
    assert ollama.sent("/api/embed")
    async_expose_entity(home, conversation.DOMAIN, "light.reading_lamp", False)
    ollama.release()
    await syncing
    stored = await stored_texts(manager)
    assert len(stored) == 3
    assert "light.reading_lamp" not in stored


async def test_an_index_that_is_opened_while_a_backup_is_made(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Its writes wait for the end of the backup too."""
    entry = await make_entry(ollama.url, embedding={})
    (manager,) = entry.runtime_data.vector_db_managers.values()
    assert manager.index.current is None
    await backup.async_pre_backup(home)
    syncing = home.async_create_task(manager.sync.async_run())
    for _ in range(2000):
        await asyncio.sleep(0)
    assert ollama.sent("/api/embed")
    assert await stored_texts(manager) == {}
    await backup.async_post_backup(home)
    await syncing
    assert len(await stored_texts(manager)) == 4


@pytest.mark.parametrize(
    ("own", "field"),
    [({"embedding_api_key": "old"}, "embedding_api_key"), ({}, "llm_api_key")],
)
async def test_a_refused_key_asks_for_a_new_one(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    own: dict[str, str],
    field: str,
) -> None:
    """The model's own key if it has one, else the entry's; one dialog at a time."""
    await make_entry(ollama.url, embedding=own)
    ollama.api_key = "right"
    for _ in range(2):
        await let_pass(home, freezer, minutes=2)
        await index_now(home, freezer)
    (flow,) = home.config_entries.flow.async_progress()
    form = await home.config_entries.flow.async_configure(flow["flow_id"])
    schema = form["data_schema"]
    assert schema is not None
    assert [str(marker.schema) for marker in schema.schema] == [field]


async def test_the_log_says_what_a_sync_does(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    freezer: FrozenDateTimeFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """How many entities, how long, and why another attempt follows; no names."""
    caplog.set_level("DEBUG", "custom_components.home_agent")
    await make_entry(ollama.url, embedding={})
    ollama.faults.append(Fault(status=500, body={"error": "disk full"}))
    await index_now(home, freezer)
    await let_pass(home, freezer, minutes=1)
    await index_now(home, freezer)
    async_expose_entity(home, conversation.DOMAIN, "light.reading_lamp", False)
    await let_pass(home, freezer, seconds=1)
    text = "\n".join(
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("custom_components.home_agent")
    )
    started = "Sync started: 4 of 4 entities to embed with nomic-embed-text, 0 removed"
    assert text.count(started) == 2
    assert "The next sync is in 0:01:00, since: ModelServerError at 127.0.0.1" in text
    assert re.search(
        r"Sync finished in \d+\.\d{3} s: 4 entities indexed, 4 embedded, 0 removed",
        text,
    )
    assert "Removed 1 entities from the index of nomic-embed-text" in text
    assert "Lamp" not in text

"""Search by two ballots: what is meant, and the words that are said."""

import asyncio
import sqlite3
import threading
from typing import Any

from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.const import EntityCategory
from homeassistant.core import HomeAssistant
from homeassistant.helpers import area_registry as ar, entity_registry as er
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.search.entity_search import entity_search, fused
from custom_components.home_agent.search.lexical import LexicalIndex, plain, query_words
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn
from tests.servers.ollama import StandInModel


async def find(hass: HomeAssistant, query: str, **data: Any) -> dict[str, Any]:
    """Return the answer of the action."""
    answer: Any = await hass.services.async_call(
        DOMAIN,
        "search_entities",
        {"query": query, **data},
        blocking=True,
        return_response=True,
    )
    result: dict[str, Any] = answer
    return result


def ids(answer: dict[str, Any]) -> list[str]:
    """Return the entities of an answer."""
    return [item["entity_id"] for item in answer["entities"]]


def add(
    hass: HomeAssistant,
    domain: str,
    name: str,
    *,
    area: str | None = None,
    category: EntityCategory | None = None,
) -> str:
    """Add an exposed entity."""
    registry = er.async_get(hass)
    entry = registry.async_get_or_create(
        domain, "test", name, original_name=name, entity_category=category
    )
    if area:
        area_id = ar.async_get(hass).async_get_or_create(area).id
        registry.async_update_entity(entry.entity_id, area_id=area_id)
    hass.states.async_set(entry.entity_id, "on", {"friendly_name": name})
    async_expose_entity(hass, conversation.DOMAIN, entry.entity_id, True)
    return entry.entity_id


async def index(hass: HomeAssistant, ollama: OllamaStandIn) -> None:
    """Index the entities now."""
    (entry,) = hass.config_entries.async_entries(DOMAIN)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    await manager.async_sync()


async def test_words_alone(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Without an embedding model; and it says so."""
    await make_entry(ollama.url, conversation={})
    answer = await find(home, "is the reading lamp on?")
    assert ids(answer) == ["light.reading_lamp"]
    assert answer["mode"] == "lexical"
    # Stems, places, kinds; and nothing where no word fits.
    assert ids(await find(home, "lamps"))[0] == "light.reading_lamp"
    assert "sensor.bedroom_temperature" in ids(await find(home, "bedrooms"))
    assert ids(await find(home, "ground floor")) == [
        "light.kitchen_light",
        "switch.coffee_machine",
    ]
    assert ids(await find(home, "zebra")) == []
    assert not ollama.sent("/api/embed")


async def test_both_ballots(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """What only one of them finds is found, what both find comes first."""
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    answer = await find(home, "Kitchen Light")
    assert answer["mode"] == "hybrid"
    assert ids(answer)[0] == "light.kitchen_light"
    # No word of it stands in the home, but embeddings rank everything.
    assert len(ids(await find(home, "zebra"))) == 4


async def test_a_server_that_is_away(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Words go on."""
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    await ollama.stop()
    answer = await find(home, "coffee")
    assert (ids(answer), answer["mode"]) == (["switch.coffee_machine"], "lexical")
    assert "Searching by words only" in caplog.text


async def test_filters(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Domain, area by name, alias or id, floor, device class."""
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    areas = ar.async_get(home)
    bedroom = areas.async_get_area_by_name("Bedroom")
    assert bedroom
    areas.async_update(bedroom.id, aliases={"Master Suite"})
    for data, expected in (
        ({"domain": "switch"}, {"switch.coffee_machine"}),
        ({"area": "kitchen"}, {"light.kitchen_light", "switch.coffee_machine"}),
        ({"area": "ground floor", "domain": ["light"]}, {"light.kitchen_light"}),
        (
            {"area": "master suite"},
            {"light.reading_lamp", "sensor.bedroom_temperature"},
        ),
        ({"area": [bedroom.id], "domain": "light"}, {"light.reading_lamp"}),
        ({"device_class": "temperature"}, {"sensor.bedroom_temperature"}),
        ({"area": "attic"}, set()),
    ):
        assert set(ids(await find(home, "anything", **data))) == expected, data


async def test_diagnostics_are_left_out(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """They outnumber what people speak of."""
    signal = add(home, "sensor", "Lamp Signal", category=EntityCategory.DIAGNOSTIC)
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    assert not any("Signal" in str(body["input"]) for body in ollama.sent("/api/embed"))
    assert signal not in ids(await find(home, "lamp signal"))
    assert signal in ids(await find(home, "lamp signal", all_categories=True))


async def test_hidden_entities_are_gone_at_once(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """From words as from embeddings; and back as soon."""
    await make_entry(ollama.url, conversation={})
    lamp = "light.reading_lamp"
    for is_exposed in (True, False, True):
        async_expose_entity(home, conversation.DOMAIN, lamp, is_exposed)
        assert (lamp in ids(await find(home, "reading lamp"))) is is_exposed


async def test_searches_at_once(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The index of words is not made anew under a search that is in it."""
    await make_entry(ollama.url, conversation={})
    is_in_it, may_go_on = threading.Event(), threading.Event()
    real = LexicalIndex.search

    def slow(self: LexicalIndex, *args: Any) -> list[str]:
        is_in_it.set()
        assert may_go_on.wait(10)
        return real(self, *args)

    monkeypatch.setattr(LexicalIndex, "search", slow)
    first = home.async_create_task(find(home, "reading lamp"))
    while not is_in_it.is_set():  # noqa: ASYNC110 - another thread sets it
        await asyncio.sleep(0)
    garland = add(home, "light", "Garland")
    second = home.async_create_task(find(home, "garland"))
    for _ in range(5000):
        await asyncio.sleep(0)
    may_go_on.set()
    assert ids(await first) == ["light.reading_lamp"]
    assert ids(await second) == [garland]


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("Wohnzimmerlampe", "Schalte bitte die Wohnzimmerlampe ein"),
        ("Küchenlicht", "kuchenlicht"),
        ("寝室の照明", "寝室の電気を消して"),
        ("客厅灯", "打开客厅的灯"),
        ("ไฟห้องครัว", "เปิดไฟห้องครัว"),
        ("거실 조명", "거실 불 켜줘"),
    ],
)
async def test_languages(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    name: str,
    query: str,
) -> None:
    """Also those without spaces, and with or without diacritics."""
    await make_entry(ollama.url, conversation={})
    entity_id = add(home, "light", name)
    assert ids(await find(home, query))[0] == entity_id


def test_words() -> None:
    """What stands in every question is no word to look for."""
    assert query_words("Please turn on the light in the kitchen") == [
        "light",
        "kitchen",
    ]
    assert query_words("What is it?") == ["what", "is", "it"]
    assert query_words('"lamp" AND NOT * (x') == ["lamp", "not", "x"]
    assert query_words("?!") == []
    assert plain("Living_Room") == "living room"


def test_fusion() -> None:
    """The first of both ballots wins; a tie keeps the order of the ballots."""
    assert [key for key, _ in fused([["a", "b", "c"], ["c", "a"]])] == ["a", "c", "b"]
    assert [key for key, _ in fused([["a"], ["b"]])] == ["a", "b"]
    assert fused([]) == []


async def test_without_fts5(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A SQLite built without it: embeddings go on, and one line says so."""

    def broken(_: Any) -> None:
        raise sqlite3.OperationalError("no such module: fts5")

    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    module = "custom_components.home_agent.search.entity_search"
    monkeypatch.setattr(f"{module}.LexicalIndex", broken)
    for _ in range(2):
        answer = await find(home, "Kitchen Light")
        assert answer["mode"] == "embeddings"
        assert ids(answer)[0] == "light.kitchen_light"
    assert caplog.text.count("Searching without words") == 1
    assert entity_search(home)


async def test_the_room_of_the_question(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Its best entities get some places; the question is embedded once."""
    for number in range(20):
        add(home, "light", f"Lamp {number}", area="Hall")
    hidden = add(home, "light", "Lamp in the garden", area="Garden")
    add(home, "light", "Old Lamp", area="Garden")
    await make_entry(ollama.url, conversation={}, embedding={})
    await index(home, ollama)
    garden = ar.async_get(home).async_get_or_create("Garden").id
    (entry,) = home.config_entries.async_entries(DOMAIN)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    ollama.requests.clear()
    result = await entity_search(home).async_search(
        "Lamp 3", 10, manager=manager, here=garden
    )
    found = [match.entity.entity_id for match in result.matches]
    assert len(found) == 10
    assert found[0].endswith("lamp_3")
    assert {hidden, "light.test_old_lamp"} == set(found[-2:])
    assert len(ollama.sent("/api/embed")) == 1
    # What fits best anyway does not take a second place.
    result = await entity_search(home).async_search(
        "Lamp in the garden", 4, manager=manager, here=garden
    )
    found = [match.entity.entity_id for match in result.matches]
    assert found[0] == hidden
    assert len(set(found)) == 4


async def test_states_and_other_filters_find_without_words(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Which ones are on: by what they are like now, not by their names."""
    await make_entry(ollama.url, conversation={})
    home.states.async_set("light.reading_lamp", "on", {"friendly_name": "Reading Lamp"})
    on = await find(home, "burning", domain="light", state="on")
    assert ids(on) == ["light.reading_lamp"]
    assert ids(await find(home, "burning", domain="light")) == [
        "light.kitchen_light",
        "light.reading_lamp",
    ]
    assert ids(await find(home, "burning")) == []


@pytest.mark.parametrize(
    ("model", "question", "document"),
    [
        ("nomic-embed-text:v1.5", "search_query: ", "search_document: "),
        ("intfloat/multilingual-e5-small", "query: ", "passage: "),
        ("jeffh/intfloat-multilingual-e5-large-instruct:q8_0", "Instruct: ", ""),
        (
            "embeddinggemma:300m",
            "task: search result | query: ",
            "title: none | text: ",
        ),
        ("qwen3-embedding:0.6b", "Instruct: ", ""),
        ("mxbai-embed-large", "Represent this sentence for ", ""),
        ("bge-large-en-v1.5", "Represent this sentence for ", ""),
        ("bge-m3", "", ""),
        ("snowflake-arctic-embed2", "query: ", ""),
        ("snowflake-arctic-embed-l-v2.0", "query: ", ""),
        ("snowflake-arctic-embed:110m", "Represent this sentence for ", ""),
        ("all-minilm:l6-v2", "", ""),
        ("paraphrase-multilingual", "", ""),
        ("tote5-mini", "", ""),
    ],
)
async def test_what_a_model_wants_to_read_first(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    model: str,
    question: str,
    document: str,
) -> None:
    """In front of each question and of each text that is indexed."""
    name = model if ":" in model else f"{model}:latest"
    ollama.models[name] = StandInModel(name, ("embedding",))
    await make_entry(ollama.url, conversation={}, embedding={"embedding_model": model})
    await index(home, ollama)
    await find(home, "something to read by")
    *indexed, asked = [body["input"] for body in ollama.sent("/api/embed")]
    assert all(text.startswith(document) for batch in indexed for text in batch)
    assert f"{document}Coffee Machine; switch; Kitchen, Ground Floor" in indexed[0]
    (text,) = asked
    assert text.startswith(question)
    assert text.endswith("something to read by")
    assert bool(question) or text == "something to read by"


async def take_another_model(
    hass: HomeAssistant, ollama: OllamaStandIn, entry: MockConfigEntry
) -> None:
    """Let the entry use a new embedding model, whose index is not made yet."""
    name = "all-minilm:latest"
    ollama.models[name] = StandInModel(name, ("embedding",), dimension=64)
    (subentry,) = entry.get_subentries_of_type("embedding")
    changed = {**subentry.data, "embedding_model": "all-minilm"}
    hass.config_entries.async_update_subentry(entry, subentry, data=changed)
    await hass.async_block_till_done()


async def test_the_model_before_answers_until_the_index_is_made(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A new embedding model makes its own index meanwhile; then the old one goes."""
    entry = await make_entry(ollama.url, conversation={}, embedding={})
    await index(home, ollama)
    ollama.requests.clear()
    await take_another_model(home, ollama, entry)
    answer = await find(home, "lamp for reading")
    assert ids(answer)[0] == "light.reading_lamp"
    assert answer["mode"] == "hybrid"
    (asked,) = ollama.sent("/api/embed")
    assert asked["model"] == "nomic-embed-text"
    assert asked["input"] == ["search_query: lamp for reading"]
    # It need not stay as long as a model that is used.
    assert asked["keep_alive"] == "1m"
    await index(home, ollama)
    answer = await find(home, "lamp for reading")
    assert answer["mode"] == "hybrid"
    last = ollama.sent("/api/embed")[-1]
    assert last["model"] == "all-minilm"
    assert last["input"] == ["lamp for reading"]
    await home.config_entries.async_reload(entry.entry_id)
    await find(home, "lamp for reading")
    assert ollama.sent("/api/embed")[-1]["model"] == "all-minilm"


async def test_a_model_before_that_is_gone(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Then the new one answers, with what it has indexed so far, and words."""
    entry = await make_entry(ollama.url, conversation={}, embedding={})
    await index(home, ollama)
    del ollama.models["nomic-embed-text:latest"]
    await take_another_model(home, ollama, entry)
    for _ in range(2):
        assert ids(await find(home, "reading lamp")) == ["light.reading_lamp"]
    models = [body["model"] for body in ollama.sent("/api/embed")]
    assert models[-3:] == ["nomic-embed-text", "all-minilm", "all-minilm"]


async def test_what_has_changed_is_found_at_once(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Names, aliases, areas and exposure, though the descriptions are kept."""
    await make_entry(ollama.url, conversation={})
    registry = er.async_get(home)
    assert ids(await find(home, "floodlight")) == []
    # Not every entity has an entry in the registry.
    async_expose_entity(home, conversation.DOMAIN, "light.plain", True)
    for name in ("Plain", "Floodlight"):
        home.states.async_set("light.plain", "on", {"friendly_name": name})
        assert ids(await find(home, name)) == ["light.plain"]
    registry.async_update_entity("light.kitchen_light", aliases=["Sunshine"])
    assert ids(await find(home, "sunshine")) == ["light.kitchen_light"]
    attic = ar.async_get(home).async_create("Attic")
    registry.async_update_entity("light.kitchen_light", area_id=attic.id)
    assert ids(await find(home, "attic")) == ["light.kitchen_light"]
    ar.async_get(home).async_update(attic.id, name="Loft")
    assert ids(await find(home, "loft")) == ["light.kitchen_light"]
    assert ids(await find(home, "attic")) == []
    new = add(home, "switch", "Fountain")
    assert ids(await find(home, "fountain")) == [new]
    async_expose_entity(home, conversation.DOMAIN, new, False)
    assert ids(await find(home, "fountain")) == []


async def test_a_search_under_way_when_its_entry_is_unloaded(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It ends by words, and does not open the index again."""
    entry = await make_entry(ollama.url, conversation={}, embedding={})
    await index(home, ollama)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    ollama.requests.clear()
    ollama.hold()
    searching = home.async_create_task(
        entity_search(home).async_search("reading lamp", 5, manager=manager)
    )
    for _ in range(2000):
        await asyncio.sleep(0)
    assert ollama.sent("/api/embed")
    await home.config_entries.async_unload(entry.entry_id)
    ollama.release()
    result = await searching
    assert result.mode == "lexical"
    assert [match.entity.entity_id for match in result.matches] == [
        "light.reading_lamp"
    ]
    result = await entity_search(home).async_search("reading lamp", 5, manager=manager)
    assert result.mode == "lexical"
    assert manager._index is None

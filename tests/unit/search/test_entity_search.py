"""Search by two rankings: embeddings (dense) and words (lexical)."""

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

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.search.entity_search import (
    entity_search,
    reciprocal_rank_fusion,
)
from custom_components.home_agent.search.lexical import (
    LexicalTable,
    normalized,
    query_words,
)
from custom_components.home_agent.servers.errors import CannotConnect
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn
from tests.servers.stand_in import Fault


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
    await manager.sync.async_run()


async def test_the_lexical_ranking_alone(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Without an embedding model, as the mode says."""
    await make_entry(ollama.url, conversation={})
    answer = await find(home, "is the reading lamp on?")
    assert ids(answer) == ["light.reading_lamp"]
    assert answer["mode"] == "lexical"
    # Stems, areas and floors; nothing if no word is shared.
    assert ids(await find(home, "lamps"))[0] == "light.reading_lamp"
    assert "sensor.bedroom_temperature" in ids(await find(home, "bedrooms"))
    assert ids(await find(home, "ground floor")) == [
        "light.kitchen_light",
        "switch.coffee_machine",
    ]
    assert ids(await find(home, "zebra")) == []
    assert not ollama.sent("/api/embed")


async def test_both_rankings(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Entities of either ranking are found, those of both come first."""
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    answer = await find(home, "Kitchen Light")
    assert answer["mode"] == "hybrid"
    assert ids(answer)[0] == "light.kitchen_light"
    # No entity shares a word with it, but the dense ranking has all entities.
    assert len(ids(await find(home, "zebra"))) == 4


async def test_a_server_that_is_away(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The lexical ranking alone answers."""
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    await ollama.stop()
    answer = await find(home, "coffee")
    assert (ids(answer), answer["mode"]) == (["switch.coffee_machine"], "lexical")
    assert "Searching without embeddings" in caplog.text


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
    """Diagnostic entities outnumber those that people ask about."""
    signal = add(home, "sensor", "Lamp Signal", category=EntityCategory.DIAGNOSTIC)
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    assert not any("Signal" in str(body["input"]) for body in ollama.sent("/api/embed"))
    assert signal not in ids(await find(home, "lamp signal"))
    assert signal in ids(await find(home, "lamp signal", all_categories=True))


async def test_hidden_entities_are_gone_at_once(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """From the lexical ranking too; and they are found again at once."""
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
    """The full-text table is not replaced while a search reads it."""
    await make_entry(ollama.url, conversation={})
    is_in_it, may_go_on = threading.Event(), threading.Event()
    real = LexicalTable.search

    def slow(self: LexicalTable, *args: Any) -> list[str]:
        is_in_it.set()
        assert may_go_on.wait(10)
        return real(self, *args)

    monkeypatch.setattr(LexicalTable, "search", slow)
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
    """Stop words are left out, unless there are no other words."""
    assert query_words("Please turn on the light in the kitchen") == [
        "light",
        "kitchen",
    ]
    assert query_words("What is it?") == ["what", "is", "it"]
    assert query_words('"lamp" AND NOT * (x') == ["lamp", "not", "x"]
    assert query_words("?!") == []
    assert normalized("Living_Room") == "living room"


def test_fusion() -> None:
    """The first of both rankings wins; ties keep the order of the rankings."""
    assert [
        key for key, _ in reciprocal_rank_fusion([["a", "b", "c"], ["c", "a"]])
    ] == ["a", "c", "b"]
    assert [key for key, _ in reciprocal_rank_fusion([["a"], ["b"]])] == ["a", "b"]
    assert reciprocal_rank_fusion([]) == []


async def test_without_fts5(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without it in SQLite the dense ranking answers, and one line says so."""

    def broken(_: Any) -> None:
        raise sqlite3.OperationalError("no such module: fts5")

    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    module = "custom_components.home_agent.search.lexical_ranking"
    monkeypatch.setattr(f"{module}.LexicalTable", broken)
    for _ in range(2):
        answer = await find(home, "Kitchen Light")
        assert answer["mode"] == "embeddings"
        assert ids(answer)[0] == "light.kitchen_light"
    assert caplog.text.count("Searching without the lexical ranking") == 1


async def test_a_full_text_table_that_cannot_be_remade(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The closed table is not searched again; the dense ranking answers."""

    def broken(_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    assert (await find(home, "Kitchen Light"))["mode"] == "hybrid"
    module = "custom_components.home_agent.search.lexical_ranking"
    monkeypatch.setattr(f"{module}.LexicalTable", broken)
    add(home, "light", "Garland")
    for _ in range(2):
        answer = await find(home, "Kitchen Light")
        assert answer["mode"] == "embeddings"


async def test_a_turn_that_is_cancelled_while_its_question_is_embedded(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The failure of the request that goes on is logged as one line."""
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    (entry,) = home.config_entries.async_entries(DOMAIN)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    caplog.set_level("DEBUG", "custom_components.home_agent.search")
    ollama.requests.clear()
    ollama.hold()
    ollama.faults.append(Fault(status=500, body={"error": "broken"}))
    searching = home.async_create_task(
        entity_search(home).async_search("reading lamp", 5, manager=manager)
    )
    while not ollama.sent("/api/embed"):  # noqa: ASYNC110 - until it is there
        await asyncio.sleep(0)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    ollama.release()
    await home.async_block_till_done(wait_background_tasks=True)
    assert "A question was not embedded: ModelServerError" in caplog.text


async def test_the_asking_area(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A share of the results is reserved for it; the question is embedded once."""
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
        "Lamp 3", 10, manager=manager, asking_area_id=garden
    )
    found = [match.entity.entity_id for match in result.matches]
    assert len(found) == 10
    assert found[0].endswith("lamp_3")
    assert {hidden, "light.test_old_lamp"} == set(found[-2:])
    assert len(ollama.sent("/api/embed")) == 1
    # An entity that is among the best anyway is not returned twice.
    result = await entity_search(home).async_search(
        "Lamp in the garden", 4, manager=manager, asking_area_id=garden
    )
    found = [match.entity.entity_id for match in result.matches]
    assert found[0] == hidden
    assert len(set(found)) == 4


async def test_states_and_other_filters_find_without_words(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An entity that a filter allows is found by its state or domain alone."""
    await make_entry(ollama.url, conversation={})
    home.states.async_set("light.reading_lamp", "on", {"friendly_name": "Reading Lamp"})
    on = await find(home, "burning", domain="light", state="on")
    assert ids(on) == ["light.reading_lamp"]
    assert ids(await find(home, "burning", domain="light")) == [
        "light.kitchen_light",
        "light.reading_lamp",
    ]
    assert ids(await find(home, "burning")) == []


async def test_changes_are_found_at_once(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Names, aliases, areas and exposure, though the descriptions are cached."""
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
    """It ends with the lexical ranking, and does not open the index again."""
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
    assert manager.index.current is None


async def test_the_log_says_which_rankings_were_used(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And why not both; neither the question nor a name or a state."""
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    caplog.set_level("DEBUG", "custom_components.home_agent.search")
    await find(home, "reading lamp")
    assert "Rankings of 4 allowed entities: dense 4, lexical 1" in caplog.text
    assert "Search found 4 of 4 allowed entities (at most 10) in" in caplog.text
    assert "mode hybrid" in caplog.text
    caplog.clear()
    await ollama.stop()
    await find(home, "reading lamp", domain="light")
    assert "Searching without embeddings: Connect" in caplog.text
    assert "Rankings of 2 allowed entities: dense not used, lexical 1" in caplog.text
    assert "mode lexical" in caplog.text
    ours = [
        item.getMessage() for item in caplog.records if "home_agent.search" in item.name
    ]
    assert not any("lamp" in line.lower() for line in ours)


async def test_a_dense_ranking_that_fails_is_tried_once(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not again for the asking area, and one warning says so."""
    await make_entry(ollama.url, embedding={})
    await index(home, ollama)
    (entry,) = home.config_entries.async_entries(DOMAIN)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    calls = []

    async def away(*args: Any) -> list[str]:
        calls.append(args)
        raise CannotConnect("chroma")

    monkeypatch.setattr(manager, "async_nearest", away)
    bedroom = ar.async_get(home).async_get_area_by_name("Bedroom")
    assert bedroom
    result = await entity_search(home).async_search(
        "lamp", 5, manager=manager, asking_area_id=bedroom.id
    )
    assert result.mode == "lexical"
    assert len(calls) == 1
    assert caplog.text.count("Searching without embeddings") == 1

"""Models that a server cannot have in memory together: the one that answers wins."""

from collections.abc import AsyncIterator
import logging
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
import pytest

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry, call_action, say, speech
from tests.integration.test_warm_up import (
    ALL,
    EMBEDDING,
    EXTERNAL,
    PRIMARY,
    WARM,
    poll,
    settle,
)
from tests.servers import OllamaStandIn
from tests.servers.others import LlamaSwapStandIn
from tests.servers.stand_in import Fault


@pytest.fixture
async def small() -> AsyncIterator[OllamaStandIn]:
    """Return an Ollama that holds one model: OLLAMA_MAX_LOADED_MODELS=1."""
    async with OllamaStandIn(max_models=1) as server:
        yield server


def notices(home: HomeAssistant) -> list[dict[str, str]]:
    """Return the placeholders of the notices, those of models that wait."""
    return [
        issue.translation_placeholders or {}
        for issue in ir.async_get(home).issues.values()
        if issue.domain == DOMAIN
        and issue.translation_key == "models_do_not_fit_by_hand"
    ]


async def test_the_model_that_answers_wins(
    home: HomeAssistant, small: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is loaded again once; the others wait, and a notice names all of them."""
    await make_entry(small.url, **ALL)
    await settle(home)
    assert small.memory.loads == [PRIMARY, EMBEDDING, PRIMARY]
    assert list(small.memory.residents) == [PRIMARY]
    (notice,) = notices(home)
    assert notice["host"] == small.url.removeprefix("http://")
    assert notice["kept"] == PRIMARY
    assert notice["model"] == "nomic-embed-text"
    assert notice["waiting"] == f"nomic-embed-text, {EXTERNAL}"
    # Loaded, and primed again after the other model had taken its place.
    primed = small.sent("/api/chat")
    assert len(primed) == 2
    assert speech(await say(home, "Hello")).startswith("Hello!")


async def test_a_model_of_two_roles_stays_for_both(
    home: HomeAssistant, small: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is not named among those that wait."""
    shared = {**ALL, "external_llm": {**ALL["external_llm"]}}
    shared["external_llm"]["external_llm_model"] = PRIMARY
    await make_entry(small.url, **shared)
    await settle(home)
    (notice,) = notices(home)
    assert notice["kept"] == PRIMARY
    assert notice["waiting"] == "nomic-embed-text"


async def test_the_next_start_loads_by_priority_only(
    home: HomeAssistant, small: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The models are not loaded in turns again, until the user changes them."""
    entry = await make_entry(small.url, **ALL)
    await settle(home)
    for _ in range(2):
        small.memory.unload(PRIMARY)
        small.memory.loads.clear()
        await home.config_entries.async_reload(entry.entry_id)
        await settle(home)
        assert small.memory.loads == [PRIMARY]
        assert notices(home)
    small.memory.loads.clear()
    (embedding,) = entry.get_subentries_of_type("embedding")
    home.config_entries.async_update_subentry(
        entry, embedding, data={**embedding.data, "embedding_warm_up": False}
    )
    await settle(home)
    assert small.memory.loads == [EXTERNAL, PRIMARY]
    (notice,) = notices(home)
    assert notice["waiting"] == EXTERNAL


async def test_a_model_that_waits_is_missing(
    home: HomeAssistant, small: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Its repair comes with the notice, and again with each start."""
    del small.models[EXTERNAL]
    entry = await make_entry(small.url, **ALL)
    await settle(home)
    for _ in range(2):
        assert notices(home)
        missing = [key for _, key in ir.async_get(home).issues if "missing" in key]
        assert missing == ["model_missing_external"]
        ir.async_delete_issue(home, DOMAIN, missing[0])
        await home.config_entries.async_reload(entry.entry_id)
        await settle(home)


async def test_a_failure_after_a_warm_up_that_made_room(
    home: HomeAssistant,
    small: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No load failed in that warm-up: the wait after the next failure is short."""
    caplog.set_level(logging.DEBUG)
    fault = Fault(status=500, body={"error": "out of memory"})
    small.faults.append(fault)
    await make_entry(small.url, **ALL)
    await settle(home)
    assert caplog.text.count("The next warm-up is in 0:01:00") == 1
    await poll(home)
    assert list(small.memory.residents) == [PRIMARY]
    assert notices(home)
    small.faults.append(fault)
    small.memory.unload(PRIMARY)
    await poll(home)
    assert not small.faults
    assert caplog.text.count("The next warm-up is in 0:01:00") == 2


async def test_what_made_room_is_not_unloaded_by_the_user(
    home: HomeAssistant, small: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """With more memory it is kept ready again, as soon as that is tried again."""
    entry = await make_entry(small.url, **ALL)
    await settle(home)
    small.memory._max_models = 3
    (external,) = entry.get_subentries_of_type("external_llm")
    home.config_entries.async_update_subentry(
        entry, external, data={**external.data, "external_llm_warm_up": False}
    )
    await settle(home)
    assert list(small.memory.residents) == [PRIMARY, EMBEDDING]


async def test_the_notice_is_stored(
    home: HomeAssistant, small: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is what a start of Home Assistant goes by."""
    await make_entry(small.url, **ALL)
    await settle(home)
    (issue,) = (
        issue
        for issue in ir.async_get(home).issues.values()
        if issue.translation_key == "models_do_not_fit_by_hand"
    )
    assert issue.is_persistent
    assert not issue.is_fixable
    assert issue.to_json()["translation_placeholders"]["models"] == (
        f"{PRIMARY}, nomic-embed-text, {EXTERNAL}"
    )


async def test_the_notice_goes_when_all_fit(
    home: HomeAssistant, small: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The user has given the server more memory: a poll finds all models there."""
    await make_entry(small.url, **ALL)
    await settle(home)
    small.memory._max_models = 3
    await call_action(home, "search_entities", query="lamp")
    await poll(home)
    assert notices(home)
    await call_action(home, "load_model")
    await poll(home)
    assert not notices(home)


async def test_models_that_fit_need_no_notice(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """All are loaded once."""
    await make_entry(ollama.url, **ALL)
    await settle(home)
    assert ollama.memory.loads == [PRIMARY, EMBEDDING, EXTERNAL]
    assert not notices(home)


async def test_two_that_fit_stay_and_the_third_waits(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """Also if the one that was unloaded is not the one that answers."""
    roles: dict[str, Any] = {**ALL, "embedding": {"embedding_warm_up": True}}
    roles["embedding"]["embedding_keep_alive"] = "1m"
    async with OllamaStandIn(max_models=2) as server:
        entry = await make_entry(server.url, **roles)
        await settle(home)
        assert server.memory.loads == [PRIMARY, EMBEDDING, EXTERNAL, EMBEDDING]
        assert set(server.memory.residents) == {PRIMARY, EMBEDDING}
        (notice,) = notices(home)
        assert notice["kept"] == f"{PRIMARY}, nomic-embed-text"
        assert notice["waiting"] == EXTERNAL
        assert await home.config_entries.async_unload(entry.entry_id)


async def test_the_model_that_answers_is_primed_before_others_are_loaded(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A first question finds it ready as soon as that can be."""
    await make_entry(ollama.url, **ALL)
    await settle(home)
    order = [
        (item.path, item.body["model"])
        for item in ollama.asked
        if item.path in ("/api/generate", "/api/chat", "/api/embed")
        and "input" not in item.body
    ]
    assert order == [
        ("/api/generate", PRIMARY),
        ("/api/chat", PRIMARY),
        ("/api/embed", "nomic-embed-text"),
        ("/api/generate", EXTERNAL),
    ]


async def test_llama_swap_holds_one_model(
    home: HomeAssistant, make_entry: MakeEntry
) -> None:
    """It has no keep_alive, so a model that is gone has no time of its own."""
    async with LlamaSwapStandIn(models=("local-model", "other-model")) as server:
        await make_entry(
            server.url,
            conversation=WARM | {"llm_model": "local-model"},
            external_llm={
                "external_llm_model": "other-model",
                "external_llm_warm_up": True,
            },
        )
        await settle(home)
        (notice,) = notices(home)
        assert notice["kept"] == "local-model"
        assert notice["waiting"] == "other-model"

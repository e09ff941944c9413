"""From the entity's entry to the first byte of its request, with 1,000 entities.

    .venv/bin/python -m benchmarks.first_request_byte

Home Agent and Home Assistant's own Ollama integration side by side, in one Home
Assistant, with turns in alternation: the first of a conversation, where the prompt
is made, and the second, where it is kept. Prints medians and the ratio.
"""

import asyncio
from contextlib import ExitStack
import gc
from statistics import median
import time
from typing import Any
from unittest.mock import patch

from homeassistant import loader
from homeassistant.components import conversation
from homeassistant.components.conversation import ConversationEntity
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigSubentryData
from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import area_registry as ar, entity_registry as er, frame
from homeassistant.setup import async_setup_component

import tests.ha_2026_11  # isort: skip - before the plugin
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_test_home_assistant,
)

import custom_components.home_agent
from tests.servers import OllamaStandIn, Reply, RuleBrain
from tests.servers.stand_in import StandIn

ENTITIES = 1000
ROUNDS = 20
# Seconds between two turns: Home Agent polls the server half a second after a turn, and
# nobody asks again so soon.
PAUSE = 0.7
NUM_CTX = 65536
AGENTS = {
    "Home Agent": "conversation.agent",
    "retrieval": "conversation.retrieval",
    "core ollama": "conversation.core",
}


class Quick(RuleBrain):
    """Answers at once."""

    def __call__(self, call: Any) -> Reply:
        """Return a short answer."""
        return Reply("Yes.")


async def furnish(hass: HomeAssistant) -> None:
    """Put 1,000 exposed entities into 20 areas."""
    # The custom components were looked for before ours was imported.
    hass.data.pop(loader.DATA_CUSTOM_COMPONENTS, None)
    for component in ("homeassistant", "intent", "llm", "conversation"):
        assert await async_setup_component(hass, component, {})
    areas = [ar.async_get(hass).async_create(f"Room {number}") for number in range(20)]
    registry = er.async_get(hass)
    domains = ("light", "switch", "sensor", "cover")
    for number in range(ENTITIES):
        domain, name = domains[number % 4], f"Thing {number}"
        entry = registry.async_get_or_create(
            domain, "bench", name, original_name=name, suggested_object_id=name
        )
        registry.async_update_entity(entry.entity_id, area_id=areas[number % 20].id)
        hass.states.async_set(entry.entity_id, "on", {"friendly_name": name})
        async_expose_entity(hass, conversation.DOMAIN, entry.entity_id, True)
    await hass.async_block_till_done()


async def add_entry(
    hass: HomeAssistant, domain: str, version: int, data: Any, title: str, **subs: Any
) -> None:
    """Add an entry with subentries."""
    entry = MockConfigEntry(
        domain=domain,
        version=version,
        minor_version=3 if domain == "ollama" else 1,
        title=title,
        data=data,
        subentries_data=[
            ConfigSubentryData(
                data=sub, subentry_type=kind, title=title, unique_id=None
            )
            for kind, sub in subs.items()
        ],
    )
    entry.add_to_hass(hass)
    assert await hass.config_entries.async_setup(entry.entry_id)
    await hass.async_block_till_done()
    if "embedding" in subs:
        (manager,) = entry.runtime_data.vector_db_managers.values()
        await manager.sync.async_run()


async def measure(hass: HomeAssistant) -> dict[str, dict[str, list[float]]]:
    """Return the milliseconds of first and second turns, by agent."""
    entered = 0.0
    arrived = 0.0
    original = ConversationEntity.internal_async_process

    async def process(self: ConversationEntity, user_input: Any, **more: Any) -> Any:
        nonlocal entered
        entered = time.perf_counter()
        return await original(self, user_input, **more)

    dispatch = StandIn._dispatch

    async def dispatched(self: Any, request: Any) -> Any:
        # The head of the request is parsed as soon as its first bytes are there.
        nonlocal arrived
        if request.path == "/api/chat":
            arrived = time.perf_counter()
        return await dispatch(self, request)

    times: dict[str, dict[str, list[float]]] = {
        name: {"first turn": [], "second turn": []} for name in AGENTS
    }
    with ExitStack() as stack:
        for owner, name, replacement in (
            (ConversationEntity, "internal_async_process", process),
            (StandIn, "_dispatch", dispatched),
        ):
            stack.enter_context(patch.object(owner, name, replacement))
        async with OllamaStandIn(brain=Quick()) as server:
            model = {
                "llm_model": "llama3.2:3b",
                "llm_hass_api": ["assist"],
                "entity_mode": "assist",
                # The list of 1,000 entities does not fit the default.
                "llm_num_ctx": NUM_CTX,
            }
            url = {"llm_base_url": server.url, "llm_server_kind": "ollama"}
            await add_entry(hass, "home_agent", 2, url, "Agent", conversation=model)
            await add_entry(
                hass,
                "home_agent",
                2,
                url,
                "Retrieval",
                conversation=model | {"entity_mode": "retrieval"},
                embedding={"embedding_model": "nomic-embed-text"},
            )
            core = {
                "model": "llama3.2:3b",
                "llm_hass_api": ["assist"],
                "num_ctx": NUM_CTX,
            }
            await add_entry(
                hass, "ollama", 3, {"url": server.url}, "Core", conversation=core
            )
            for round_number in range(ROUNDS + 3):
                order = list(AGENTS.items())
                for name, agent in order[:: 1 if round_number % 2 else -1]:
                    conversation_id = None
                    for turn in ("first turn", "second turn"):
                        await asyncio.sleep(PAUSE)
                        gc.collect()
                        result = await conversation.async_converse(
                            hass,
                            "Is it on?",
                            conversation_id,
                            Context(),
                            language="en",
                            agent_id=agent,
                        )
                        conversation_id = result.conversation_id
                        assert result.response.speech["plain"]["speech"] == "Yes."
                        if round_number >= 3:
                            times[name][turn].append(1000 * (arrived - entered))
    return times


async def main() -> None:
    """Print the table."""
    assert custom_components.home_agent
    assert tests.ha_2026_11
    async with async_test_home_assistant() as hass:
        # Its debug mode makes everything slow, and not evenly so.
        asyncio.get_running_loop().set_debug(False)
        frame.async_setup(hass)
        await furnish(hass)
        times = await measure(hass)
        await hass.async_stop(force=True)
    print(f"{ENTITIES} exposed entities, {ROUNDS} conversations, milliseconds (median)")
    print(" | ".join(("", *AGENTS, "ratio", "ratio of retrieval")))
    for turn in ("first turn", "second turn"):
        ours, found, core = (median(times[name][turn]) for name in AGENTS)
        print(
            f"{turn} | {ours:.2f} | {found:.2f} | {core:.2f} |"
            f" {ours / core:.2f} | {found / core:.2f}"
        )


if __name__ == "__main__":
    asyncio.run(main())

"""The first question after a start: what the server has to evaluate, and how long.

    .venv/bin/python -m benchmarks.first_question [--rounds N]

A real llama.cpp server with a very small model, in turns: with the prompt evaluated
ahead; with a question that comes in the middle of that, which interrupts it or does
not; and without. Each round is a server that has seen nothing; the second question
begins a new conversation and stands for a warm one. Prints medians.
"""

import argparse
import asyncio
from contextlib import ExitStack
from enum import StrEnum
import gc
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any
from unittest.mock import patch

import aiohttp
from homeassistant import loader
from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigSubentryData
from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import frame
from homeassistant.setup import async_setup_component

import tests.ha_2026_11  # isort: skip - before the plugin
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_test_home_assistant,
)

import custom_components.home_agent
from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.model.server_use import ServerUse
from custom_components.home_agent.model.turn_record import TurnRecord
from scripts import llama_cpp_server

assert tests.ha_2026_11
assert custom_components.home_agent

ENTITIES = 30
TEMPLATE = Path("tests/live/tools.jinja").read_text()
# Equally long, and different from the first word on.
QUESTIONS = ("Say hello to Ada.", "Tell Bob good night.")
# The question with its template: what only this question can bring.
USERS_OWN = "user\n{}<|im_end|>\n<|im_start|>assistant\n"


async def furnish(hass: HomeAssistant) -> None:
    """Put some exposed lights into the home."""
    hass.data.pop(loader.DATA_CUSTOM_COMPONENTS, None)
    for component in ("homeassistant", "intent", "llm", "conversation"):
        assert await async_setup_component(hass, component, {})
    for number in range(ENTITIES):
        entity_id = f"light.lamp_{number}"
        hass.states.async_set(entity_id, "on", {"friendly_name": f"Lamp {number}"})
        async_expose_entity(hass, conversation.DOMAIN, entity_id, True)


async def own_tokens(url: str, question: str) -> int:
    """Return the tokens of a question and its template, by the server's count."""
    body = {"content": USERS_OWN.format(question), "parse_special": True}
    # A session of its own: the server closes kept connections after a stream.
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/tokenize", json=body) as response,
    ):
        return len((await response.json())["tokens"])


class Case(StrEnum):
    """When the first question comes."""

    AHEAD = "after priming"
    INTERRUPTS = "in the middle, interrupts priming"
    WAITS = "in the middle, does not interrupt"
    NOT = "no priming"


async def one_round(
    hass: HomeAssistant, case: Case, priming_seconds: float
) -> dict[str, float]:
    """Return what two questions to a new server cost.

    priming_seconds is how long priming takes: the middle is after half of that.
    """
    server = llama_cpp_server.start(num_ctx=16384, chat_template=TEMPLATE)
    url = server.listening_address
    subentry = ConfigSubentryData(
        subentry_type="conversation",
        title="Agent",
        unique_id=None,
        data={
            "llm_model": "smollm2",
            "llm_hass_api": ["assist"],
            "llm_max_tokens": 8,
            "llm_temperature": 0.0,
            "llm_warm_up": case is not Case.NOT,
        },
    )
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=2,
        data={"llm_base_url": url},
        subentries_data=[subentry],
    )
    entry.add_to_hass(hass)
    started = monotonic()
    assert await hass.config_entries.async_setup(entry.entry_id)
    if case in (Case.INTERRUPTS, Case.WAITS):
        await hass.async_block_till_done()
        await asyncio.sleep(priming_seconds / 2 - (monotonic() - started))
    else:
        await hass.async_block_till_done(wait_background_tasks=True)
    priming_seconds = monotonic() - started
    (residency,) = entry.runtime_data.residencies.values()
    use = residency.use
    turns: list[TurnRecord] = []

    end = use.turn_ended.add(turns.append)
    with ExitStack() as stack:
        if case is Case.WAITS:
            stack.enter_context(patch.object(ServerUse, "interrupt_priming"))
        for question in QUESTIONS:
            await conversation.async_converse(
                hass, question, None, Context(), "en", "conversation.agent"
            )
    end()
    own = await own_tokens(url, QUESTIONS[0])
    await hass.async_block_till_done(wait_background_tasks=True)
    await hass.config_entries.async_remove(entry.entry_id)
    del server
    gc.collect()
    first, second = turns
    return {
        "seconds before the first question": priming_seconds,
        "prompt tokens": float(first.prompt_tokens or 0),
        "evaluated for the first question": evaluated(first),
        "of them the question's own, at most": float(own),
        "evaluated for the second question": evaluated(second),
        "first token of the first question, s": first.first_token_seconds or 0.0,
        "first token of the second question, s": second.first_token_seconds or 0.0,
    }


def evaluated(turn: TurnRecord) -> float:
    """Return the prompt tokens that did not come from the cache."""
    return float((turn.prompt_tokens or 0) - (turn.cached_tokens or 0))


async def run(rounds: int) -> None:
    """Measure all cases in turns, and print them side by side."""
    results: dict[Case, list[dict[str, float]]] = {case: [] for case in Case}
    seconds = 0.0
    async with async_test_home_assistant() as hass:
        frame.async_setup(hass)
        await furnish(hass)
        for _ in range(rounds):
            for case in Case:
                result = await one_round(hass, case, seconds)
                results[case].append(result)
                if case is Case.AHEAD:
                    seconds = result["seconds before the first question"]
        await hass.async_stop(force=True)
    print(" | ".join((f"medians of {rounds} rounds", *Case)))
    for name in results[Case.AHEAD][0]:
        values = (median(result[name] for result in results[case]) for case in Case)
        print(" | ".join((name, *(f"{value:.3g}" for value in values))))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options: Any = parser.parse_args()
    asyncio.run(run(options.rounds))


if __name__ == "__main__":
    main()

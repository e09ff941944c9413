"""How often a search finds what a question is about, with real embedding models.

    .venv/bin/python -m benchmarks.recall [--exposed N]

The 160 questions of questions.txt over the home of home.txt, among N exposed
entities, and some that name no room, asked in each. Recall@10 is the share of the
right entities among the first ten; in brackets the 95 % interval of 2,000 bootstraps
over the questions. After the modes of the search come their paired differences. See
embedding_models.py for what has to be installed.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle

from homeassistant import loader
from homeassistant.config_entries import ConfigSubentryData
from homeassistant.core import HomeAssistant
from homeassistant.helpers import area_registry as ar, frame
from homeassistant.setup import async_setup_component
import numpy as np
import numpy.typing as npt

import tests.ha_2026_11  # isort: skip - before the plugin
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_test_home_assistant,
)

import custom_components.home_agent
from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.home.exposed import async_get_exposed_entities
from custom_components.home_agent.search.entity_search import entity_search
from custom_components.home_agent.vector_db_manager import VectorDBManager

from .embedding_models import EmbeddingServer
from .home import Question, Thing, furnish, questions, things

assert tests.ha_2026_11
assert custom_components.home_agent

LIMIT = 10
BOOTSTRAPS = 2000

# What people ask without naming the room that they are in.
GENERAL: dict[str, Callable[[Thing], bool]] = {
    "turn on the light": lambda thing: thing.domain == "light",
    "is the window open": lambda thing: thing.device_class == "window",
    "how warm is it": lambda thing: thing.name == f"{thing.area} Temperature",
    "how humid is it": lambda thing: thing.name == f"{thing.area} Humidity",
    "make it warmer": lambda thing: thing.domain == "climate",
    "open the blinds": lambda thing: thing.domain == "cover",
    "mach das Licht an": lambda thing: thing.domain == "light",
    "mach die Heizung wärmer": lambda thing: thing.domain == "climate",
}

type Recalls = npt.NDArray[np.float64]
type Search = Callable[[str], Awaitable[list[str]]]


def here() -> Iterator[tuple[str, Question]]:
    """Yield the questions that name no room, with the rooms that they are asked in."""
    for text, is_meant in GENERAL.items():
        answers: dict[str, list[str]] = {}
        for thing in things():
            if is_meant(thing):
                answers.setdefault(thing.area, []).append(thing.key)
        for room, keys in answers.items():
            yield room, Question("here", text, tuple(keys))


async def recalls(
    search: Search, ids: dict[str, str], asked: list[Question]
) -> Recalls:
    """Return the recall of each question."""
    found = []
    for question in asked:
        right = {ids[key] for key in question.answers}
        best = set((await search(question.text))[:LIMIT])
        found.append(len(right & best) / min(LIMIT, len(right)))
    return np.array(found)


def interval(values: Recalls) -> tuple[float, float]:
    """Return the 95 % interval of a mean."""
    rng = np.random.default_rng(11)
    means = values[rng.integers(0, len(values), (BOOTSTRAPS, len(values)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def show(name: str, values: Recalls, asked: list[Question]) -> None:
    """Print a row: all questions with their interval, and each kind of them."""
    low, high = interval(values)
    kinds = list(dict.fromkeys(question.kind for question in asked))
    by_kind = [
        values[[question.kind == kind for question in asked]].mean() for kind in kinds
    ]
    cells = [f"{value:.2f}" for value in by_kind]
    print(f"{name} | {values.mean():.3f} [{low:.3f}, {high:.3f}] | {' | '.join(cells)}")


def compare(name: str, difference: Recalls, asked: list[Question]) -> None:
    """Print a paired difference, for all questions and for each kind of them."""
    cells = []
    for kind in [None, *dict.fromkeys(question.kind for question in asked)]:
        chosen = [kind in (None, question.kind) for question in asked]
        low, high = interval(difference[chosen])
        cells.append(f"{difference[chosen].mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    print(f"{name} | {' | '.join(cells)}")


async def set_up(hass: HomeAssistant, url: str, model: str) -> VectorDBManager:
    """Return the finished index of a model."""
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=2,
        data={"llm_base_url": url},
        subentries_data=[
            ConfigSubentryData(
                subentry_type="embedding",
                title=model,
                unique_id=None,
                data={"embedding_model": model, "embedding_warm_up": False},
            )
        ],
    )
    entry.add_to_hass(hass)
    assert await hass.config_entries.async_setup(entry.entry_id)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    await manager.async_sync()
    result: VectorDBManager = manager
    return result


async def run(exposed: int) -> None:
    """Print the tables."""
    asked = list(questions())
    rooms = list(dict.fromkeys(thing.area for thing in things()))
    # Those who ask are in any room, not in the one that they ask about.
    asker = dict(zip((q.text for q in asked), cycle(rooms[::-1]), strict=False))
    general = list(here())
    async with EmbeddingServer() as server, async_test_home_assistant() as hass:
        frame.async_setup(hass)
        hass.data.pop(loader.DATA_CUSTOM_COMPONENTS, None)
        for component in ("homeassistant", "intent", "llm", "conversation"):
            assert await async_setup_component(hass, component, {})
        ids = furnish(hass, exposed)
        search = entity_search(hass)
        primary = {
            key
            for key, entity in async_get_exposed_entities(hass).items()
            if not entity.is_secondary
        }
        kinds = list(dict.fromkeys(question.kind for question in asked))
        print(f"search of {exposed} entities | all | {' | '.join(kinds)}")

        areas = ar.async_get(hass)

        def by(manager: VectorDBManager | None, room: str | None = None) -> Search:
            async def find(text: str) -> list[str]:
                area = areas.async_get_area_by_name(room or asker.get(text, ""))
                result = await search.async_search(
                    text,
                    LIMIT,
                    manager=manager,
                    asking_area_id=area.id if room is not None and area else None,
                )
                return [match.entity.entity_id for match in result.matches]

            return find

        lexical = await recalls(by(None), ids, asked)
        show("words", lexical, asked)
        differences = []
        general_rows: list[str] = []
        for model in server.models:
            manager = await set_up(hass, server.url, model)

            async def near(text: str, manager: VectorDBManager = manager) -> list[str]:
                vector = await manager.async_embed_question(text)
                return await manager.async_nearest(vector, LIMIT, primary)

            meant = await recalls(near, ids, asked)
            both = await recalls(by(manager), ids, asked)
            show(f"{model} alone", meant, asked)
            show(f"{model} and words", both, asked)
            differences += [
                (f"{model} and words, to words", both - lexical),
                (f"{model} and words, to {model} alone", both - meant),
            ]
            elsewhere = await recalls(by(manager, ""), ids, asked)
            show(f"{model} and words, asked in any room", elsewhere, asked)
            for with_room in (False, True):
                found = [
                    await recalls(by(manager, room if with_room else None), ids, [q])
                    for room, q in general
                ]
                low, high = interval(np.concatenate(found))
                mean = np.concatenate(found).mean()
                known = "known" if with_room else "not known"
                general_rows.append(
                    f"{model} | {known} | {mean:.3f} [{low:.3f}, {high:.3f}]"
                )
        print(f"\n{len(general)} questions that name no room | the room is | recall")
        print("\n".join(general_rows))
        print(f"\ndifference | all | {' | '.join(kinds)}")
        for name, difference in differences:
            compare(name, difference, asked)
        await hass.async_stop(force=True)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--exposed", type=int, default=500)
    asyncio.run(run(parser.parse_args().exposed))


if __name__ == "__main__":
    main()

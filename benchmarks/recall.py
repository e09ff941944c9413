"""How many of the right entities a search finds, with real embedding models.

    .venv/bin/python -m benchmarks.recall [--exposed N]

The 160 questions of questions.txt over the home of home.txt, among N exposed
entities, and some that name no area, asked in each of them. Recall@10 is the share of
the right entities that are among the first ten; in brackets the 95 % interval of 2,000
bootstraps over the questions. After the rankings come their paired differences. See
embedding_models.py for what has to be installed.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
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

# Questions that people ask about the area that they are in, without naming it.
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


def questions_without_area() -> Iterator[tuple[str, Question]]:
    """Yield the questions that name no area, each with an area it is asked in."""
    for text, is_answer in GENERAL.items():
        answers: dict[str, list[str]] = {}
        for thing in things():
            if is_answer(thing):
                answers.setdefault(thing.area, []).append(thing.key)
        for area, keys in answers.items():
            yield area, Question("here", text, tuple(keys))


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
    await manager.sync.async_run()
    result: VectorDBManager = manager
    return result


class Measurement:
    """The searches over one home, and what they find."""

    def __init__(self, hass: HomeAssistant, exposed: int) -> None:
        """Make a home with so many exposed entities."""
        self._hass = hass
        self._ids = furnish(hass, exposed)
        self._search = entity_search(hass)
        self._primary = {
            key
            for key, entity in async_get_exposed_entities(hass).items()
            if not entity.is_secondary
        }
        self._asked = list(questions())
        areas = list(dict.fromkeys(thing.area for thing in things()))
        # People ask from any area, not from the one that they ask about.
        texts = (question.text for question in self._asked)
        self._asking_area = dict(zip(texts, cycle(areas[::-1]), strict=False))
        self._without_area = list(questions_without_area())

    def _by_search(
        self, manager: VectorDBManager | None, asking_areas: Mapping[str, str]
    ) -> Search:
        """Return the integration's search; asking_areas has area names by question."""
        areas = ar.async_get(self._hass)

        async def find(text: str) -> list[str]:
            area = areas.async_get_area_by_name(asking_areas.get(text, ""))
            result = await self._search.async_search(
                text, LIMIT, manager=manager, asking_area_id=area.id if area else None
            )
            return [match.entity.entity_id for match in result.matches]

        return find

    async def _by_embeddings(self, manager: VectorDBManager, text: str) -> list[str]:
        """Return the dense ranking alone."""
        vector = await manager.async_embed_question(text)
        return await manager.async_nearest(vector, LIMIT, self._primary)

    async def run(self, server: EmbeddingServer, exposed: int) -> None:
        """Print the tables."""
        asked = self._asked
        kinds = " | ".join(dict.fromkeys(question.kind for question in asked))
        print(f"search of {exposed} entities | all | {kinds}")
        lexical = await recalls(self._by_search(None, {}), self._ids, asked)
        show("lexical", lexical, asked)
        differences: list[tuple[str, Recalls]] = []
        rows: list[str] = []
        for model in server.models:
            manager = await set_up(self._hass, server.url, model)
            dense = await recalls(
                partial(self._by_embeddings, manager), self._ids, asked
            )
            both = await recalls(self._by_search(manager, {}), self._ids, asked)
            elsewhere = await recalls(
                self._by_search(manager, self._asking_area), self._ids, asked
            )
            show(f"{model} alone", dense, asked)
            show(f"{model} and lexical", both, asked)
            show(f"{model} and lexical, asked in any area", elsewhere, asked)
            differences += [
                (f"{model} and lexical, to lexical", both - lexical),
                (f"{model} and lexical, to {model} alone", both - dense),
            ]
            rows += [
                await self._row_without_area(model, manager, is_known=is_known)
                for is_known in (False, True)
            ]
        count = len(self._without_area)
        print(f"\n{count} questions that name no area | the area is | recall")
        print("\n".join(rows))
        print(f"\ndifference | all | {kinds}")
        for name, difference in differences:
            compare(name, difference, asked)

    async def _row_without_area(
        self, model: str, manager: VectorDBManager, *, is_known: bool
    ) -> str:
        """Return the row of the questions that name no area."""
        found = []
        for area, question in self._without_area:
            known_area = {question.text: area} if is_known else {}
            search = self._by_search(manager, known_area)
            found.append(await recalls(search, self._ids, [question]))
        values = np.concatenate(found)
        low, high = interval(values)
        known = "known" if is_known else "not known"
        return f"{model} | {known} | {values.mean():.3f} [{low:.3f}, {high:.3f}]"


async def run(exposed: int) -> None:
    """Measure in a Home Assistant of its own."""
    async with EmbeddingServer() as server, async_test_home_assistant() as hass:
        frame.async_setup(hass)
        hass.data.pop(loader.DATA_CUSTOM_COMPONENTS, None)
        for component in ("homeassistant", "intent", "llm", "conversation"):
            assert await async_setup_component(hass, component, {})
        await Measurement(hass, exposed).run(server, exposed)
        await hass.async_stop(force=True)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--exposed", type=int, default=500)
    asyncio.run(run(parser.parse_args().exposed))


if __name__ == "__main__":
    main()

"""What must hold for a home with any names, and for any question about it."""

from homeassistant.core import HomeAssistant
from homeassistant.helpers import area_registry as ar
from hypothesis import given, strategies as st
import pytest

from custom_components.home_agent.home.exposed import async_get_exposed_entities
from custom_components.home_agent.home.live_state import live_state
from custom_components.home_agent.search.entity_search import (
    EntityFilter,
    entity_search,
)
from tests.strategies import PlannedHome, furnish, homes, texts

# A failing example is made smaller, which takes time.
pytestmark = pytest.mark.timeout(300)


@given(planned=homes(), question=texts(), limit=st.integers(1, 8))
async def test_only_exposed_entities_are_found(
    home: HomeAssistant, planned: PlannedHome, question: str, limit: int
) -> None:
    """Whatever the question is; and none of them twice."""
    entities = furnish(home, planned)
    exposed = {key for key, entity in entities.items() if entity.is_exposed}
    assert set(async_get_exposed_entities(home)) == exposed
    search = entity_search(home)
    areas = tuple(ar.async_get(home).areas)
    for where in (EntityFilter(), EntityFilter(areas=areas)):
        result = await search.async_search(question, limit, where=where)
        found = [match.entity.entity_id for match in result.matches]
        assert len(found) <= limit
        assert len(found) == len(set(found))
        assert set(found) <= exposed
    in_areas = {key for key in exposed if entities[key].area is not None}
    everything = EntityFilter(areas=areas, all_categories=True)
    result = await search.async_search(question, 100, where=everything)
    if areas:
        assert {match.entity.entity_id for match in result.matches} == in_areas


@given(planned=homes())
async def test_a_state_is_one_line(home: HomeAssistant, planned: PlannedHome) -> None:
    """Whatever a device writes into its state and its attributes."""
    for entity_id in furnish(home, planned):
        line = live_state(home, entity_id)
        assert line is not None
        assert len(line.splitlines()) <= 1

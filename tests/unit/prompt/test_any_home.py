"""What must hold for the prompt of a home with any names."""

from dataclasses import replace

from homeassistant.components.conversation import ChatLog
from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import llm
from hypothesis import given
import pytest

from custom_components.home_agent.home.exposed_tracker import exposed_entity_tracker
from custom_components.home_agent.prompt.assist_by_retrieval import AssistByRetrieval
from custom_components.home_agent.prompt.llm_api import AgentAPI
from custom_components.home_agent.prompt.retrieval import Retrieval
from tests.strategies import PlannedHome, furnish, homes

# A failing example is made smaller, which takes time.
pytestmark = pytest.mark.timeout(300)


def plainly_named(planned: PlannedHome) -> PlannedHome:
    """Return the same home with names of one line."""
    areas = tuple(
        replace(area, name=f"Area {number}", aliases=frozenset())
        for number, area in enumerate(planned.areas)
    )
    floors = tuple(f"Floor {number}" for number, _ in enumerate(planned.floors))
    return replace(planned, floors=floors, areas=areas)


@given(planned=homes())
async def test_no_text_of_a_registry_adds_a_line(
    home: HomeAssistant, planned: PlannedHome
) -> None:
    """Each entity is one line of the question, each area one of the system prompt."""
    if not AssistByRetrieval.is_possible(home):
        pytest.skip("this Home Assistant has no Assist by retrieval")
    config = {"llm_hass_api": ["assist"], "entity_mode": "retrieval"}
    context = llm.LLMContext("test", Context(), "en", "conversation", None)

    async def llm_api(planned: PlannedHome) -> llm.APIInstance:
        furnish(home, planned)
        return await AgentAPI(home, config, []).async_get_api_instance(context)

    plain = await llm_api(plainly_named(planned))
    api = await llm_api(planned)
    assert len(api.api_prompt.splitlines()) <= len(plain.api_prompt.splitlines())
    chat_log = ChatLog(home, "conversation", llm_api=api)
    question = "light sensor switch cover lock media player"
    attached = await Retrieval(home, config).async_context(chat_log, question)
    if attached.entities:
        exposed = exposed_entity_tracker(home).async_entities()
        # Each alias has a line of its own.
        lines = sum(len(exposed[key].names) or 1 for key in attached.entities)
        assert len(attached.text.splitlines()) == 1 + lines

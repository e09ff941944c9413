"""AI tasks on a real llama.cpp server, and on a real Ollama where one is at hand.

The model is so small that it gives no JSON by itself: that an answer fits is the work
of the server. Set HOME_AGENT_TEST_OLLAMA to the address of an Ollama and
HOME_AGENT_TEST_MODEL to a small model.
"""

from collections.abc import Iterator
import os
from pathlib import Path
from typing import Any

from homeassistant.components import ai_task
from homeassistant.const import MAJOR_VERSION, MINOR_VERSION
from homeassistant.core import HomeAssistant
from homeassistant.helpers import llm, selector
import probatio as vol
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.model.turn_record import TurnRecord
from custom_components.home_agent.servers.base import ModelCapability
from scripts import llama_cpp_server
from tests.conftest import MakeEntry
from tests.plants import CountTool, PlantAPI

# The first request may load the model, on a machine that is busy.
pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

OLLAMA = os.environ.get("HOME_AGENT_TEST_OLLAMA", "")
COLORS = ["red", "green", "blue"]
# The answer is short, whatever the model makes of it.
FIELDS: dict[Any, Any] = {
    vol.Required("color", description="The color of grass"): selector.selector(
        {"select": {"options": COLORS}}
    ),
    vol.Required("alive", description="Whether grass lives"): selector.selector(
        {"boolean": {}}
    ),
}
TEMPLATE = Path(__file__).with_name("tools.jinja").read_text()
OPTIONS = {"llm_max_tokens": 60, "llm_num_ctx": 2048, "llm_temperature": 0.0}


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[dict[str, Any]]:
    """Return the address and the model of a llama.cpp server."""
    server = llama_cpp_server.start(num_ctx=4096, chat_template=TEMPLATE)
    yield {"url": server.listening_address, "llm_model": "model"}
    del server


@pytest.fixture(
    params=[
        "llama_cpp",
        pytest.param(
            "ollama",
            marks=pytest.mark.skipif(not OLLAMA, reason="needs HOME_AGENT_TEST_OLLAMA"),
        ),
    ]
)
async def entry(
    request: pytest.FixtureRequest, make_entry: MakeEntry
) -> MockConfigEntry:
    """Return an entry with an AI task on a real server."""
    if request.param == "llama_cpp":
        server = request.getfixturevalue("llama_cpp")
    else:
        model = os.environ.get("HOME_AGENT_TEST_MODEL", "smol")
        server = {"url": OLLAMA, "llm_model": model}
    return await make_entry(
        server["url"], ai_task=OPTIONS | {"llm_model": server["llm_model"]}
    )


async def generate(
    hass: HomeAssistant,
    entry: MockConfigEntry,
    structure: vol.Schema | None,
    llm_api: llm.API | None = None,
) -> tuple[Any, TurnRecord]:
    """Return the data of a task, and the figures of its turn."""
    turns: list[TurnRecord] = []
    (residency,) = entry.runtime_data.residencies.values()
    residency.use.turn_ended.add(turns.append)
    result = await ai_task.async_generate_data(
        hass,
        task_name="grass",
        entity_id="ai_task.task",
        instructions="Describe grass.",
        structure=structure,
        llm_api=llm_api,
    )
    (turn,) = turns
    return result.data, turn


def check(data: Any) -> None:
    """Check that data fits FIELDS."""
    assert data.keys() == {"color", "alive"}
    assert data["color"] in COLORS
    assert isinstance(data["alive"], bool)


async def test_text(home: HomeAssistant, entry: MockConfigEntry) -> None:
    """Without a structure the model writes what it likes."""
    data, turn = await generate(home, entry, None)
    assert isinstance(data, str)
    assert data.strip()
    assert turn.requests == 1


async def test_structured(home: HomeAssistant, entry: MockConfigEntry) -> None:
    """The first answer fits."""
    data, turn = await generate(home, entry, vol.Schema(FIELDS))
    check(data)
    assert turn.requests == 1


async def test_invalid_once_and_repaired(
    home: HomeAssistant, entry: MockConfigEntry
) -> None:
    """A rule that no JSON schema can express refuses the first answer."""
    refused: list[Any] = []

    def refuse_once(data: Any) -> Any:
        if not refused:
            refused.append(data)
            raise vol.Invalid("grass was described better before")
        return data

    structure = vol.Schema(vol.All(FIELDS, refuse_once))
    data, turn = await generate(home, entry, structure)
    check(data)
    check(refused[0])
    assert turn.requests == 2


async def test_structured_after_tools_were_offered(
    home: HomeAssistant, entry: MockConfigEntry
) -> None:
    """The model may answer as it likes first, then its answer is made to fit."""
    (residency,) = entry.runtime_data.residencies.values()
    server = await residency.role.server()
    model = server.find(residency.role.model, await server.list_models())
    if model and not model.may(ModelCapability.TOOLS):
        pytest.skip("needs a model with tools")
    api = PlantAPI(home, CountTool())
    data, turn = await generate(home, entry, vol.Schema(FIELDS), api)
    check(data)
    assert turn.requests >= 2


@pytest.mark.skipif(
    (MAJOR_VERSION, MINOR_VERSION) < (2026, 11), reason="2026.10 evaluates nothing"
)
async def test_evaluated(home: HomeAssistant, entry: MockConfigEntry) -> None:
    """The server reports how likely each answer is; one request for each question."""
    turns: list[TurnRecord] = []
    (residency,) = entry.runtime_data.residencies.values()
    residency.use.turn_ended.add(turns.append)
    questions: dict[str, Any] = {
        "alive": {"type": "noul", "instructions": "Is grass alive?"},
        "green": {
            "type": "score",
            "instructions": "How green is grass?",
            "criteria": ["little", "very"],
        },
    }
    result = await ai_task.async_evaluate(
        home,
        task_name="grass",
        entity_id="ai_task.task",
        state="Grass is a green plant.",
        questions=questions,
    )
    answers = result.as_dict()["answers"]
    assert 0 <= answers["alive"]["noul"] <= 1
    assert sum(answers["green"]["probabilities"]) == pytest.approx(1)
    assert 0 <= answers["green"]["score"] <= 1
    (turn,) = turns
    assert turn.requests == 2

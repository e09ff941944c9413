"""A dialog tries what a model will do, and leaves nothing behind."""

import asyncio
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from homeassistant.core import HomeAssistant
from homeassistant.data_entry_flow import UnknownFlow
import pytest

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry, say, speech
from tests.passing_time import PassingTime
from tests.servers import ManualClock, OllamaStandIn, OpenAIStandIn
from tests.servers.go_duration import FOREVER
from tests.servers.stand_in import Fault
from tests.unit.test_config_flow import Dialogs, fields, options, suggested


@pytest.fixture
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trials end after a moment."""
    path = "custom_components.home_agent.dialogs.trials.TRIAL_TIMEOUT"
    monkeypatch.setattr(path, 0.1)


async def close(home: HomeAssistant, *, of_subentry: bool = False) -> None:
    """Close the dialog that is open."""
    flows = home.config_entries.subentries if of_subentry else home.config_entries.flow
    (flow,) = flows.async_progress()
    flows.async_abort(flow["flow_id"])
    await home.async_block_till_done(wait_background_tasks=True)


async def test_a_conversation_model_is_tried_as_it_will_be_used(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """One streamed request with a tool, with the settings of the form."""
    entry = await make_entry(ollama.url, conversation={})
    await browser.start([entry.entry_id, "conversation"])
    ollama.requests.clear()
    await browser.fill_in(
        llm_model="qwen3:8b",
        llm_keep_alive="45m",
        llm_hass_api=["assist"],
        advanced={"llm_num_ctx": 4096, "llm_think": "off", "llm_temperature": 0.5},
    )
    body = ollama.sent("/api/chat")[0]
    assert body["model"] == "qwen3:8b"
    assert body["stream"] is True
    assert body["keep_alive"] == "45m"
    assert body["think"] is False
    assert [tool["function"]["name"] for tool in body["tools"]] == ["HassTurnOn"]
    assert body["options"] == {"num_ctx": 4096, "temperature": 0.5, "num_predict": 32}


@pytest.mark.parametrize("streams", [True, False])
async def test_a_model_that_only_talks_is_tried_without_tools(
    browser: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry, *, streams: bool
) -> None:
    """A server that cannot stream is not asked to."""
    entry = await make_entry(ollama.url, conversation={})
    await browser.start([entry.entry_id, "conversation"])
    ollama.requests.clear()
    result = await browser.fill_in(
        llm_model="llava:7b", advanced={"llm_stream": streams}
    )
    assert result["type"] == "create_entry"
    body = ollama.sent("/api/chat")[0]
    assert (body["stream"], "tools" in body) == (streams, False)


@pytest.mark.parametrize(
    ("changed", "is_tried"),
    [
        ({"prompt": "Be brief."}, False),
        ({"llm_keep_alive": "2m"}, True),
        ({"llm_model": "llama3.2:70b"}, True),
        ({"llm_hass_api": ["assist"]}, True),
    ],
)
async def test_a_change_is_tried_if_that_can_show_something(
    browser: Dialogs,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    changed: dict[str, Any],
    *,
    is_tried: bool,
) -> None:
    """Nobody waits for a large model because of other instructions."""
    settings = {"llm_keep_alive": "45m", "llm_think": "off", "llm_stream": True}
    entry = await make_entry(
        ollama.url, conversation={**settings, "llm_num_ctx": 8192, "llm_hass_api": []}
    )
    (agent,) = entry.subentries.values()
    await browser.start([entry.entry_id, "conversation"], subentry_id=agent.subentry_id)
    ollama.requests.clear()
    values = {"llm_model": "llama3.2:3b", "llm_keep_alive": "45m", **changed}
    result = await browser.fill_in(**values, advanced={"llm_think": "off"})
    assert result["reason"] == "reconfigure_successful"
    assert bool([item for item in ollama.asked if b'"num_predict":32' in item.raw]) is (
        is_tried
    )


async def test_a_model_without_tools_in_the_first_dialog(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """The form then asks what the agent is to control; nothing is a choice."""
    await browser.start()
    form = await browser.fill_in(llm_base_url=ollama.url)
    assert "llm_hass_api" not in fields(form)
    form = await browser.fill_in(llm_model="llava:7b", llm_keep_alive="45m")
    assert form["errors"] == {"llm_hass_api": "model_cannot_use_tools"}
    assert suggested(form) == {
        "llm_model": "llava:7b",
        "llm_keep_alive": "45m",
        "llm_hass_api": ["assist"],
    }
    assert "assist" in options(form, "llm_hass_api")
    form = await browser.fill_in(**suggested(form))
    assert form["errors"] == {"llm_hass_api": "model_cannot_use_tools"}
    external = {"external_llm": {"external_llm_model": "llama3.2:70b"}}
    form = await browser.fill_in(llm_model="llava:7b", **external)
    assert form["errors"] == {
        "external_llm_model": "model_cannot_ask",
        "external_llm": "external_llm_model_cannot_ask",
    }
    result = await browser.fill_in(llm_model="llava:7b")
    assert result["type"] == "create_entry"
    await home.async_block_till_done()
    (entry,) = home.config_entries.async_entries(DOMAIN)
    (agent,) = entry.get_subentries_of_type("conversation")
    assert "llm_hass_api" not in agent.data
    assert agent.data["prompt"]
    answer = await say(home, "Hello", agent_id="conversation.home_agent")
    assert speech(answer) == "Hello! What can I do for you?"


async def test_a_server_says_in_the_trial_that_there_are_no_tools(
    browser: Dialogs, make_entry: MakeEntry
) -> None:
    """A server that does not list what its models can do says so in its error."""
    async with OpenAIStandIn() as server:
        entry = await make_entry(server.url, conversation={})
        await browser.start([entry.entry_id, "conversation"])
        text = '"auto" tool choice requires --enable-auto-tool-choice to be set'
        values: dict[str, Any] = {"llm_model": "local-model", "advanced": {}}
        server.faults.append(Fault(400, {"error": {"message": text}}))
        form = await browser.fill_in(**values, llm_hass_api=["assist"])
        assert form["errors"] == {"llm_hass_api": "model_cannot_use_tools"}
        result = await browser.fill_in(**values)
        assert result["type"] == "create_entry"


async def test_a_refused_tool_is_said_in_the_answer(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An agent that was set up before knows the reason too."""
    await make_entry(ollama.url, conversation={"llm_model": "llava:7b"})
    answer = await say(home, "Turn on the kitchen light")
    assert "This model cannot use tools" in speech(answer)
    assert "127.0.0.1" not in speech(answer)


async def test_a_failed_trial_is_shown_once(
    browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """The reason of the server stands at the model; the next submission accepts it."""
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)
    reason = "model requires more system memory (42 GiB) than is available"
    ollama.faults.append(Fault(500, {"error": reason}))
    form = await browser.fill_in(llm_model="llama3.2:3b")
    assert form["errors"] == {"llm_model": "model_trial_failed"}
    assert form["description_placeholders"]["error"] == reason
    before = len(ollama.asked)
    result = await browser.fill_in(llm_model="llama3.2:3b")
    assert result["type"] == "create_entry"
    assert not [item for item in ollama.asked[before:] if b"HassTurnOn" in item.raw]


@pytest.mark.usefixtures("short_trials")
async def test_a_slow_server_does_not_hang_the_dialog(
    home: HomeAssistant, browser: Dialogs
) -> None:
    """The form says how long it has waited; that is no refusal of a keep_alive."""
    async with OpenAIStandIn() as server:
        await browser.start()
        await browser.fill_in(llm_base_url=server.url)
        server.hold()
        form = await browser.fill_in(llm_model="local-model")
        assert form["errors"] == {"llm_model": "model_trial_timed_out"}
        assert form["description_placeholders"]["seconds"] == "0"
        result = await browser.fill_in(llm_model="local-model")
        assert result["type"] == "create_entry"
        (entry,) = home.config_entries.async_entries(DOMAIN)
        assert entry.data["llm_keep_alive_refused"] is False
        server.release()


async def test_an_embedding_model_makes_one_vector(
    browser: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A server that answers something else is said in the dialog."""
    entry = await make_entry(ollama.url, conversation={})
    await browser.start([entry.entry_id, "embedding"])
    await browser.fill_in()
    ollama.requests.clear()
    ollama.faults.append(Fault(500, {"error": "llama runner process has terminated"}))
    values = {"embedding_model": "nomic-embed-text", "embedding_keep_alive": "0"}
    form = await browser.fill_in(**values, advanced={})
    assert form["errors"] == {"embedding_model": "model_trial_failed"}
    (body,) = ollama.sent("/api/embed")
    assert (body["keep_alive"], len(body["input"])) == (0, 1)


async def test_a_model_that_was_only_tried_is_unloaded(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """The user takes another one after an error elsewhere, or closes the dialog."""
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)

    async def try_model(name: str) -> None:
        """Submit a model that is tried, and an embedding model whose trial fails."""
        # The first one is for the request of the chat model.
        ollama.faults.extend((Fault(), Fault(500, {"error": "no"})))
        form = await browser.fill_in(
            llm_model=name,
            llm_keep_alive="-1",
            embedding={"embedding_model": "nomic-embed-text"},
        )
        assert form["errors"]["embedding_model"] == "model_trial_failed"

    await try_model("qwen3:8b")
    assert ollama.loaded("qwen3:8b")
    await close(home)
    assert not ollama.memory.residents
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)
    await try_model("qwen3:8b")
    result = await browser.fill_in(llm_model="llama3.2:3b", llm_keep_alive="-1")
    assert result["type"] == "create_entry"
    await home.async_block_till_done(wait_background_tasks=True)
    assert set(ollama.memory.residents) == {"llama3.2:3b"}


async def test_a_model_that_others_hold_stays(
    home: HomeAssistant,
    browser: Dialogs,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    clock: ManualClock,
    freezer: FrozenDateTimeFactory,
) -> None:
    """The keep_alive of another role is applied again; another client keeps its -1."""
    time = PassingTime(home, ollama, clock, freezer)
    entry = await make_entry(ollama.url, conversation={"llm_keep_alive": "45m"})
    await say(home, "Hello")
    async with ollama.memory.use(
        *("qwen3:8b", 1),
        seconds=FOREVER,
        num_ctx=8192,
        largest_num_ctx=8192,
        load=lambda: 0.0,
    ):
        pass
    for model in ("llama3.2:3b", "qwen3:8b"):
        await browser.start([entry.entry_id, "conversation"])
        ollama.faults.append(Fault(error_after_lines=1, error_text="no"))
        form = await browser.fill_in(
            llm_model=model, llm_keep_alive="-1", advanced={"llm_think": "off"}
        )
        assert form["errors"] == {"llm_model": "model_trial_failed"}
        assert ollama.sent("/api/chat")[-1]["keep_alive"] == -1
        await close(home, of_subentry=True)
    # A poll shows what the server has, and the keep_alive is sent soon after it.
    await time.advance(61)
    await time.advance(61)
    shared = ollama.loaded("llama3.2:3b")
    assert shared is not None
    assert shared.seconds == 45 * 60
    assert ollama.loaded("qwen3:8b")


async def test_a_dialog_that_is_closed_during_a_trial_saves_nothing(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The answer comes after the user has gone; the model is unloaded then."""
    entry = await make_entry(ollama.url, conversation={})
    (agent,) = entry.subentries.values()
    await browser.start([entry.entry_id, "conversation"], subentry_id=agent.subentry_id)
    ollama.hold()
    (flow,) = home.config_entries.subentries.async_progress()
    submitted = home.async_create_task(
        home.config_entries.subentries.async_configure(
            flow["flow_id"],
            {"llm_model": "qwen3:8b", "llm_keep_alive": "-1", "advanced": {}},
        )
    )
    while not ollama.sent("/api/chat"):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    home.config_entries.subentries.async_abort(flow["flow_id"])
    ollama.release()
    with pytest.raises(UnknownFlow):
        await submitted
    await home.async_block_till_done(wait_background_tasks=True)
    assert entry.subentries[agent.subentry_id].data["llm_model"] == "llama3.2:3b"
    assert not ollama.loaded("qwen3:8b")

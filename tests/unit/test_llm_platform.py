"""The llm platform: external LLMs that are offered to all agents."""

from typing import Any

from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import llm
import pytest

from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn, OpenAIStandIn, Reply, ToolUse
from tests.unit.test_external_llm import new

ASK = "home_agent__ask_external_llm"
OFFERED = {
    "external_llm_model": "llama3.2:70b",
    "external_llm_for_all_agents": True,
}


async def api_of_another_agent(
    hass: HomeAssistant, api_id: str = llm.LLM_API_ASSIST
) -> llm.APIInstance:
    """Return an LLM API as the agent of another integration gets it."""
    context = llm.LLMContext("other", Context(), "en", "conversation", None)
    return await llm.async_get_api(hass, api_id, context)


def asks(tools: list[Any]) -> list[str]:
    """Return the names of the tools that ask an external LLM."""
    names = [
        tool["function"]["name"] if isinstance(tool, dict) else tool.name
        for tool in tools
    ]
    return [name for name in names if "__ask_" in name]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_of_another_integration(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    *,
    streaming: bool,
) -> None:
    """Its tool sends the request with the keep_alive of the external LLM."""
    settings = {"external_llm_keep_alive": "2m", "external_llm_stream": streaming}
    await make_entry(ollama.url, external_llm=OFFERED | settings, conversation={})
    api = await api_of_another_agent(home)
    assert asks(api.tools) == [ASK]
    ollama.brain.replies.append(Reply("42"))
    result = await api.async_call_tool(llm.ToolInput(ASK, {"prompt": "6*7?"}))
    assert result.data == {"answer": "42"}
    (body,) = ollama.sent("/api/chat")
    assert (body["model"], body["keep_alive"]) == ("llama3.2:70b", "2m")
    assert body["stream"] is streaming


@pytest.mark.parametrize("offered", [None, False])
async def test_off_by_default(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    *,
    offered: bool | None,
) -> None:
    """Without the switch only the agents get it that were given it."""
    external: dict[str, Any] = {"external_llm_model": "llama3.2:70b"}
    if offered is not None:
        external["external_llm_for_all_agents"] = offered
    await make_entry(ollama.url, external_llm=external, conversation={})
    assert not asks((await api_of_another_agent(home)).tools)


async def test_only_with_assist(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Neither another API nor an agent without Assist gets the tool."""
    chosen: dict[str, list[str]] = {"llm_hass_api": [], "external_llms": []}
    await make_entry(ollama.url, external_llm=OFFERED, conversation=chosen)
    for api in llm.async_get_apis(home):
        if api.id != llm.LLM_API_ASSIST and not getattr(api, "requires_admin", False):
            assert not asks((await api_of_another_agent(home, api.id)).tools)
    await say(home, "Hello")
    assert "tools" not in ollama.sent("/api/chat")[0]


async def test_own_agents_get_it_once(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """An agent that has the tool anyway, one that has not, and one of another entry."""
    await make_entry(ollama.url, external_llm=OFFERED, conversation={})
    chosen: dict[str, list[str]] = {"external_llms": []}
    await make_entry(ollama.url, conversation=chosen)
    for agent in ("conversation.agent", "conversation.agent_2"):
        ollama.brain.replies.extend(
            [
                Reply(tools=(ToolUse(ASK, {"prompt": "6*7?"}),)),
                Reply("42"),
                Reply("It is 42."),
            ]
        )
        said = await say(home, "Ask", agent_id=agent)
        assert speech(said) == "It is 42."
        assert asks(ollama.sent("/api/chat")[-1]["tools"]) == [ASK]


@pytest.mark.parametrize("mode", ["assist", "retrieval"])
async def test_names_differ(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry, mode: str
) -> None:
    """Two entries may have external LLMs of the same title."""
    async with OpenAIStandIn() as other:
        entry = await make_entry(other.url)
        data = OFFERED | {"external_llm_model": "x"}
        home.config_entries.async_add_subentry(
            entry, new("External Llm", "other", data)
        )
        await home.async_block_till_done()
        settings = {"entity_mode": mode}
        await make_entry(ollama.url, external_llm=OFFERED, conversation=settings)
        expected = [ASK, f"{ASK}_2"]
        assert asks((await api_of_another_agent(home)).tools) == expected
        ollama.brain.replies.extend(
            [Reply(tools=(ToolUse(expected[1], {"prompt": "6*7?"}),)), Reply("42.")]
        )
        assert speech(await say(home, "Ask")) == "42."
        assert asks(ollama.sent("/api/chat")[0]["tools"]) == expected
        # The agent's own external LLM has the first name.
        assert other.sent("/v1/chat/completions")


async def test_calls_per_turn_are_limited(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """As those of an agent that chose the external LLM itself."""
    async with OpenAIStandIn() as other:
        await make_entry(other.url, external_llm=OFFERED | {"external_llm_model": "x"})
        await make_entry(ollama.url, conversation={})
        use = ToolUse(ASK, {"prompt": "Again?"})
        ollama.brain.replies.extend([*[Reply(tools=(use,))] * 5, Reply("I give up.")])
        await say(home, "Ask", agent_id="conversation.agent_2")
        assert len(other.sent("/v1/chat/completions")) == 3


async def test_an_entry_that_is_not_loaded_offers_nothing(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Nor does one that was removed."""
    entry = await make_entry(ollama.url, external_llm=OFFERED)
    assert await home.config_entries.async_unload(entry.entry_id)
    assert not asks((await api_of_another_agent(home)).tools)

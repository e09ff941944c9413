"""The fields with which users say who may ask which other model."""

from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er

from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn
from tests.unit.test_config_flow import Dialogs, fields, suggested


async def test_which_models_an_agent_can_choose(
    home: HomeAssistant,
    browser: Dialogs,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
) -> None:
    """External LLMs, and entities that generate text; not itself, nor what is gone."""
    external = {"external_llm_model": "llama3.2:70b"}
    chosen = {"external_llms": ["external", "gone", "ai_task.gone"]}
    entry = await make_entry(
        ollama.url, conversation=chosen, external_llm=external, ai_task={}
    )
    await make_entry(ollama.url, conversation={})
    home.states.async_set("ai_task.images", "unknown", {"supported_features": 4})
    home.states.async_set("conversation.unregistered", "unknown")
    (agent,) = entry.get_subentries_of_type("conversation")
    handler = [entry.entry_id, "conversation"]
    form = await browser.start(handler, subentry_id=agent.subentry_id)
    registry = er.async_get(home)
    ids = {key: item.id for key, item in registry.entities.items()}
    shown = fields(form)["external_llms"]["selector"]["select"]["options"]
    assert {option["label"]: option["value"] for option in shown} == {
        "External Llm": "external",
        "Task (ai_task.task)": ids["ai_task.task"],
        "Agent (conversation.agent_2)": ids["conversation.agent_2"],
        "unregistered (conversation.unregistered)": "conversation.unregistered",
    }
    assert suggested(form)["external_llms"] == ["external"]
    values = ["external", ids["ai_task.task"], "conversation.unregistered"]
    result = await browser.fill_in(
        llm_model="llama3.2:3b", external_llms=values, advanced={}
    )
    assert result["reason"] == "reconfigure_successful"
    await home.async_block_till_done()
    assert entry.subentries[agent.subentry_id].data["external_llms"] == values


async def test_offer_to_all_agents(
    home: HomeAssistant,
    browser: Dialogs,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
) -> None:
    """Off, unless the user turns the switch on."""
    entry = await make_entry(ollama.url)
    key = "external_llm_for_all_agents"
    for choice, stored in ({}, False), ({key: True}, True):
        await browser.start([entry.entry_id, "external_llm"])
        await browser.fill_in()
        await browser.fill_in(external_llm_model="llama3.2:70b", advanced={}, **choice)
        await home.async_block_till_done()
        external = list(entry.get_subentries_of_type("external_llm"))[-1]
        assert external.data[key] is stored

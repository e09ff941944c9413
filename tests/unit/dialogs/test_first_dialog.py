"""The first dialog: dialogs left open, names of agents, the kind of the server."""

from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.const import DOMAIN
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn, OpenAIStandIn
from tests.unit.test_config_flow import Dialogs, fields, suggested


async def test_a_page_that_was_closed_locks_nothing(
    home: HomeAssistant,
    browser: Dialogs,
    second_browser: Dialogs,
    ollama: OllamaStandIn,
) -> None:
    """Its dialog waits in the models step; another one sets the server up."""
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)
    await second_browser.start()
    form = await second_browser.fill_in(llm_base_url=ollama.url)
    assert form.get("step_id") == "models", form
    result = await second_browser.fill_in(llm_model="llama3.2:3b")
    assert result["type"] == "create_entry"
    # Nothing of the first one is left, not even a card on the integrations page.
    assert not home.config_entries.flow.async_progress()
    assert len(home.config_entries.async_entries(DOMAIN)) == 1


async def test_two_servers_make_agents_with_two_names(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """The dialog asks for a name, and suggests one that no agent has."""
    async with OpenAIStandIn() as openai:
        for url, model, name in (
            (ollama.url, "llama3.2:3b", "Home Agent"),
            (openai.url, "local-model", "Home Agent 2"),
        ):
            await browser.start()
            form = await browser.fill_in(llm_base_url=url)
            assert suggested(form)["name"] == name
            result = await browser.fill_in(llm_model=model)
            assert result["type"] == "create_entry"
            await home.async_block_till_done()
        assert home.states.get("conversation.home_agent")
        assert home.states.get("conversation.home_agent_2")
        assert not [
            key
            for entry in home.config_entries.async_entries(DOMAIN)
            for data in (entry.data, *(s.data for s in entry.subentries.values()))
            for key in data
            if key == "name"
        ]


async def test_the_agent_gets_the_name_that_was_written(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """In the first dialog, and when an agent is added."""
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)
    await browser.fill_in(llm_model="llama3.2:3b", name=" Jeeves ")
    await home.async_block_till_done()
    (entry,) = home.config_entries.async_entries(DOMAIN)
    titles = [subentry.title for subentry in entry.subentries.values()]
    assert titles == ["Jeeves", "Jeeves AI Task"]
    form = await browser.start([entry.entry_id, "conversation"])
    assert suggested(form)["name"] == "Home Agent"
    await browser.fill_in(llm_model="llama3.2:3b", name="Kitchen", advanced={})
    for _ in range(2):
        await home.async_block_till_done()
        await browser.start([entry.entry_id, "conversation"])
        await browser.fill_in(llm_model="llama3.2:3b", advanced={})
    await home.async_block_till_done()
    agents = list(entry.get_subentries_of_type("conversation"))
    assert [agent.title for agent in agents] == [
        *("Jeeves", "Kitchen", "llama3.2:3b", "llama3.2:3b 2"),
    ]
    # A name that the user gave stays with another model, and no form asks for it.
    for agent, title in zip(
        agents, ("Jeeves", "Kitchen", "qwen3:8b", "qwen3:8b 2"), strict=True
    ):
        key = [entry.entry_id, "conversation"]
        form = await browser.start(key, subentry_id=agent.subentry_id)
        assert "name" not in fields(form)
        await browser.fill_in(llm_model="qwen3:8b", advanced={})
        await home.async_block_till_done()
        assert entry.subentries[agent.subentry_id].title == title


async def test_a_kind_chosen_by_hand_survives_an_unchanged_form(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The form shows the choice; "automatic" takes it back."""
    entry = await make_entry(ollama.url, conversation={}, llm_server_kind="ollama")
    form = await browser.start(DOMAIN, entry_id=entry.entry_id)
    assert suggested(form)["llm_server_kind"] == "automatic"
    await browser.fill_in(llm_base_url=ollama.url, llm_server_kind="openai_compatible")
    await home.async_block_till_done()
    for _ in range(2):
        form = await browser.start(DOMAIN, entry_id=entry.entry_id)
        shown = suggested(form)
        assert shown["llm_server_kind"] == "openai_compatible"
        result = await browser.fill_in(**shown)
        assert result["reason"] == "reconfigure_successful"
        await home.async_block_till_done()
        assert entry.data["llm_server_kind"] == "openai_compatible"
    await browser.start(DOMAIN, entry_id=entry.entry_id)
    await browser.fill_in(llm_base_url=ollama.url, llm_server_kind="automatic")
    assert entry.data["llm_server_kind"] == "ollama"
    form = await browser.start(DOMAIN, entry_id=entry.entry_id)
    assert suggested(form)["llm_server_kind"] == "automatic"


@pytest.mark.parametrize("role", ["external_llm", "embedding"])
async def test_a_keep_alive_without_a_model_is_checked(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn, role: str
) -> None:
    """It would be dropped without a word; the section opens with the error."""
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)
    form = await browser.fill_in(
        llm_model="llama3.2:3b", **{role: {f"{role}_keep_alive": "5 minutes"}}
    )
    assert form["errors"] == {
        f"{role}_keep_alive": "invalid_keep_alive",
        role: f"{role}_invalid_keep_alive",
    }
    assert fields(form)[role]["expanded"]


async def test_https_to_a_port_with_http(
    browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """The form says what is wrong with the address, not that nothing answers."""
    await browser.start()
    form = await browser.fill_in(llm_base_url=ollama.url.replace("http:", "https:"))
    assert form["errors"] == {"llm_base_url": "invalid_scheme"}

"""The dialogs of an AI task entity."""

from typing import Any

from homeassistant.config_entries import ConfigEntry, SubentryFlowContext
from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er

from custom_components.home_agent.const import DOMAIN, SUBENTRY_AI_TASK
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn

VALUES = {"llm_model": "qwen3:8b", "llm_keep_alive": "1h30m"}
ADVANCED = {
    "llm_temperature": 0.5,
    "llm_top_p": 0.9,
    "llm_max_tokens": 200,
    "llm_num_ctx": 4096,
    "llm_think": "on",
    "llm_stream": False,
    "llm_idle_timeout": 60,
    "llm_warm_up": False,
}


async def start(
    hass: HomeAssistant, entry: ConfigEntry, subentry_id: str | None = None
) -> Any:
    """Start the dialog that adds an AI task subentry, or changes one."""
    context = SubentryFlowContext(source="user")
    if subentry_id is not None:
        context = SubentryFlowContext(source="reconfigure", subentry_id=subentry_id)
    return await hass.config_entries.subentries.async_init(
        (entry.entry_id, SUBENTRY_AI_TASK), context=context
    )


async def fill_in(hass: HomeAssistant, form: Any, **values: Any) -> Any:
    """Fill in the form that a dialog shows."""
    result = await hass.config_entries.subentries.async_configure(
        form["flow_id"], values
    )
    await hass.async_block_till_done()
    return result


async def test_add_and_change(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Every field is stored, and can be changed; the entity comes with its device."""
    entry = await make_entry(ollama.url, conversation={})
    assert not list(entry.get_subentries_of_type(SUBENTRY_AI_TASK))
    form = await start(home, entry)
    assert form["step_id"] == "settings"
    fields = {str(key) for key in form["data_schema"].schema}
    assert fields == {"llm_model", "llm_keep_alive", "advanced"}
    result = await fill_in(home, form, **VALUES, advanced=ADVANCED)
    assert result["type"] == "create_entry"
    (subentry,) = entry.get_subentries_of_type(SUBENTRY_AI_TASK)
    assert dict(subentry.data) == VALUES | ADVANCED
    entity_id = er.async_get(home).async_get_entity_id(
        "ai_task", DOMAIN, subentry.subentry_id
    )
    assert entity_id
    assert (state := home.states.get(entity_id)) is not None
    assert state.state == "unknown"
    form = await start(home, entry, subentry_id=subentry.subentry_id)
    # This model cannot think.
    advanced = ADVANCED | {"llm_think": "default"}
    result = await fill_in(home, form, llm_model="llama3.2:3b", advanced=advanced)
    assert result["reason"] == "reconfigure_successful"
    subentry = entry.subentries[subentry.subentry_id]
    assert dict(subentry.data) == {"llm_model": "llama3.2:3b"} | advanced


async def test_a_keep_alive_is_validated(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """At its field; nothing is stored."""
    entry = await make_entry(ollama.url, conversation={})
    form = await start(home, entry)
    values = VALUES | {"llm_keep_alive": "5x"}
    form = await fill_in(home, form, **values, advanced={})
    assert form["errors"] == {"llm_keep_alive": "invalid_keep_alive"}
    assert not list(entry.get_subentries_of_type(SUBENTRY_AI_TASK))


async def test_the_first_dialog_makes_one(
    home: HomeAssistant, ollama: OllamaStandIn
) -> None:
    """With the model and the keep_alive of the conversation agent."""
    flow = home.config_entries.flow
    form = await flow.async_init(DOMAIN, context={"source": "user"})
    form = await flow.async_configure(form["flow_id"], {"llm_base_url": ollama.url})
    values: dict[str, Any] = {"llm_model": "llama3.2:3b", "llm_keep_alive": "-1"}
    values |= {"external_llm": {}, "embedding": {}}
    await flow.async_configure(form["flow_id"], values)
    await home.async_block_till_done(wait_background_tasks=True)
    (entry,) = home.config_entries.async_entries(DOMAIN)
    (subentry,) = entry.get_subentries_of_type(SUBENTRY_AI_TASK)
    assert dict(subentry.data) == {
        "llm_model": "llama3.2:3b",
        "llm_keep_alive": "-1",
        "llm_think": "off",
    }
    assert home.states.get("ai_task.home_agent_ai_task")
    assert home.states.get("conversation.home_agent")

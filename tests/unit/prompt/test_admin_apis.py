"""LLM APIs for administrators: marked in the dialog, left out for other speakers."""

from typing import override

from homeassistant.components import conversation
from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import llm
from homeassistant.setup import async_setup_component
import probatio as vol
import pytest
from pytest_homeassistant_custom_component.typing import ClientSessionGenerator

from custom_components.home_agent.prompt.llm_api import is_admin_only
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn
from tests.unit.test_config_flow import Dialogs, fields


class AdminTool(llm.Tool):
    """A tool for administrators."""

    name = "restart_home"
    description = "Restart"
    parameters = vol.Schema({})

    @override
    async def async_call(
        self,
        hass: HomeAssistant,
        tool_input: llm.ToolInput,
        llm_context: llm.LLMContext,
    ) -> llm.ToolResult:
        """Fail: no test calls it."""
        raise NotImplementedError


class AdminAPI(llm.API):
    """An API for administrators, as Home Assistant 2026.11 has one."""

    def __init__(self, hass: HomeAssistant) -> None:
        """Set what 2026.10 does not know yet."""
        super().__init__(hass=hass, id="manage", name="Manage")
        object.__setattr__(self, "requires_admin", True)

    @override
    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> llm.APIInstance:
        """Return the tool."""
        return llm.APIInstance(
            api=self,
            api_prompt="You may restart the home.",
            llm_context=llm_context,
            tools=[AdminTool()],
        )


@pytest.mark.parametrize("entity_mode", ["assist", "retrieval"])
@pytest.mark.parametrize("speaker", ["admin", "user", "satellite"])
async def test_a_speaker_gets_the_apis_that_are_allowed(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    speaker: str,
    entity_mode: str,
) -> None:
    """Nobody loses the turn because of one API that is not allowed."""
    llm.async_register_api(home, AdminAPI(home))
    # The first user is the owner, who may do everything.
    await home.auth.async_create_user("Owner", group_ids=["system-admin"])
    group = "system-admin" if speaker == "admin" else "system-users"
    user = await home.auth.async_create_user("Somebody", group_ids=[group])
    context = Context(user_id=None if speaker == "satellite" else user.id)
    await make_entry(
        ollama.url,
        conversation={"llm_hass_api": ["assist", "manage"], "entity_mode": entity_mode},
    )
    answer = await conversation.async_converse(
        *(home, "Turn on the kitchen light", None, context),
        language="en",
        agent_id="conversation.agent",
    )
    assert answer.response.error_code is None
    body = ollama.sent("/api/chat")[0]
    names = {tool["function"]["name"] for tool in body["tools"]}
    is_allowed = speaker == "admin"
    assert any(name.endswith("restart_home") for name in names) is is_allowed
    prompt = body["messages"][0]["content"]
    assert ("You may restart the home." in prompt) is is_allowed
    assert any(name.endswith("HassTurnOn") for name in names)


async def test_an_agent_with_nothing_else_only_talks(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A voice satellite has no user."""
    llm.async_register_api(home, AdminAPI(home))
    await make_entry(ollama.url, conversation={"llm_hass_api": ["manage"]})
    answer = await conversation.async_converse(
        *(home, "Hello", None, Context()), language="en", agent_id="conversation.agent"
    )
    assert answer.response.error_code is None
    assert "tools" not in ollama.sent("/api/chat")[0]


async def test_the_dialog_marks_them(
    home: HomeAssistant,
    hass_client: ClientSessionGenerator,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
) -> None:
    """Each API that Home Assistant reserves for administrators, and no other."""
    assert await async_setup_component(home, "config", {})
    llm.async_register_api(home, AdminAPI(home))
    entry = await make_entry(ollama.url, conversation={})
    browser = Dialogs(await hass_client())
    form = await browser.start([entry.entry_id, "conversation"])
    shown = {
        item["value"]: item["label"]
        for item in fields(form)["llm_hass_api"]["selector"]["select"]["options"]
    }
    assert shown["manage"] == "Manage (admin)"
    for api in llm.async_get_apis(home):
        assert shown[api.id].endswith(" (admin)") is is_admin_only(api)
    assert not shown["assist"].endswith("(admin)")

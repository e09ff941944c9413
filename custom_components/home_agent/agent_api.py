"""The LLM API of one agent: what the user chose, and the agent's own tools."""

from collections.abc import Sequence
from dataclasses import replace
from typing import override

from homeassistant.core import HomeAssistant
from homeassistant.helpers import llm
from homeassistant.util.ulid import ulid_now

from .const import DOMAIN


class AgentAPI(llm.API):
    """Home Assistant's LLM APIs together with tools that are only this agent's."""

    def __init__(
        self, hass: HomeAssistant, api_ids: Sequence[str], tools: Sequence[llm.Tool]
    ) -> None:
        """Offer the APIs and the tools.

        The id is new each time: Home Assistant keeps the tools of a conversation
        for as long as the id is the same (2026.11, chat_log.py).
        """
        super().__init__(hass=hass, id=f"{DOMAIN}-{ulid_now()}", name="Home Agent")
        self._api_ids = list(api_ids)
        self._tools = list(tools)

    @override
    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> llm.APIInstance:
        """Return the tools; raise HomeAssistantError if an API is gone."""
        if not self._api_ids:
            return llm.APIInstance(
                api=self,
                api_prompt="",
                llm_context=llm_context,
                tools=self._tools,
                custom_serializer=llm.selector_serializer,
            )
        instance = await llm.async_get_api(self.hass, self._api_ids, llm_context)
        return replace(instance, api=self, tools=[*instance.tools, *self._tools])

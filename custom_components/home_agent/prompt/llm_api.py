"""The LLM API of one agent: what the user chose, and the agent's own tools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, override

from homeassistant.const import CONF_LLM_HASS_API
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import llm
from homeassistant.util.ulid import ulid_now

from ..const import DOMAIN
from .assist_by_retrieval import AssistByRetrieval
from .entity_mode import uses_retrieval


@dataclass
class AgentAPIInstance(llm.APIInstance):
    """The tools of a conversation; retrieves: each question brings its entities."""

    retrieves: bool = False


class AgentAPI(llm.API):
    """Home Assistant's LLM APIs together with tools that are only this agent's."""

    def __init__(
        self, hass: HomeAssistant, config: Mapping[str, Any], tools: Sequence[llm.Tool]
    ) -> None:
        """Offer the APIs of a flat configuration, and the tools.

        The id is new each time, see renew.
        """
        super().__init__(hass=hass, id="", name="Home Agent")
        self.renew()
        self._config = config
        self._api_ids: list[str] = config.get(CONF_LLM_HASS_API) or []
        self._tools = list(tools)

    @callback
    def renew(self) -> None:
        """Let also conversations that have begun get a new prompt and new tools.

        Home Assistant keeps them for as long as the id is the same (2026.11,
        chat_log.py).
        """
        self.id = f"{DOMAIN}-{ulid_now()}"

    @override
    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> AgentAPIInstance:
        """Return the tools; raise HomeAssistantError if an API is gone."""
        retrieves = (
            llm.LLM_API_ASSIST in self._api_ids
            and uses_retrieval(self.hass, self._config)
            and AssistByRetrieval.is_possible(self.hass)
        )
        instance = AgentAPIInstance(
            api=self,
            api_prompt="",
            llm_context=llm_context,
            tools=self._tools,
            custom_serializer=llm.selector_serializer,
            retrieves=retrieves,
        )
        if self._api_ids:
            chosen = await self._async_chosen(llm_context, retrieves=retrieves)
            instance.api_prompt = chosen.api_prompt
            instance.tools = [*chosen.tools, *self._tools]
            instance.custom_serializer = chosen.custom_serializer
        return instance

    async def _async_chosen(
        self, llm_context: llm.LLMContext, *, retrieves: bool
    ) -> llm.APIInstance:
        """Return the APIs that the user chose, as one."""
        if not retrieves:
            return await llm.async_get_api(self.hass, self._api_ids, llm_context)
        apis: list[llm.API] = [
            AssistByRetrieval(self.hass)
            if api_id == llm.LLM_API_ASSIST
            else _ChosenAPI(hass=self.hass, id=api_id, name=api_id)
            for api_id in self._api_ids
        ]
        api = apis[0] if len(apis) == 1 else llm.MergedAPI(apis)
        return await api.async_get_api_instance(llm_context)


class _ChosenAPI(llm.API):
    """One of Home Assistant's APIs, which checks who may use it."""

    @override
    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> llm.APIInstance:
        """Return the API's instance; raise HomeAssistantError if it is gone."""
        return await llm.async_get_api(self.hass, self.id, llm_context)

"""The LLM API of one agent: the APIs that the user chose, and the agent's own tools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import logging
from typing import Any, override

from homeassistant.const import CONF_LLM_HASS_API
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import llm
from homeassistant.util.ulid import ulid_now

from ..const import DOMAIN
from ..tools.external_llm import tools_for_all_agents
from .assist_by_retrieval import AssistByRetrieval
from .entity_mode import uses_retrieval

_LOGGER = logging.getLogger(__name__)


@dataclass
class AgentAPIInstance(llm.APIInstance):
    """The tools of a conversation.

    uses_retrieval says that each question is sent with the entities that fit it,
    and the prompt has no list of all entities.
    """

    uses_retrieval: bool = False


class AgentAPI(llm.API):
    """Home Assistant's LLM APIs together with tools of this agent only."""

    def __init__(
        self, hass: HomeAssistant, config: Mapping[str, Any], tools: Sequence[llm.Tool]
    ) -> None:
        """Offer the APIs that a flat configuration names, and tools."""
        super().__init__(hass=hass, id="", name="Home Agent")
        self.renew()
        self._config = config
        self._api_ids: list[str] = config.get(CONF_LLM_HASS_API) or []
        self._tools = list(tools)

    @callback
    def renew(self) -> None:
        """Change the API's id: conversations in progress get a new prompt and tools.

        Home Assistant keeps the prompt and the tools of a conversation for as long
        as the id of its API is the same (2026.11, chat_log.py).
        """
        self.id = f"{DOMAIN}-{ulid_now()}"

    @override
    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> AgentAPIInstance:
        """Return the prompt and the tools.

        Raise HomeAssistantError if an API that the user chose is gone.
        """
        api_ids = await self._async_allowed(llm_context)
        by_retrieval = (
            llm.LLM_API_ASSIST in api_ids
            and uses_retrieval(self.hass, self._config)
            and AssistByRetrieval.is_possible(self.hass)
        )
        instance = AgentAPIInstance(
            api=self,
            api_prompt="",
            llm_context=llm_context,
            tools=self._tools,
            custom_serializer=llm.selector_serializer,
            uses_retrieval=by_retrieval,
        )
        if api_ids:
            chosen = await self._async_chosen(
                api_ids, llm_context, by_retrieval=by_retrieval
            )
            instance.api_prompt = chosen.api_prompt
            instance.tools = [*chosen.tools, *self._tools]
            if llm.LLM_API_ASSIST in api_ids:
                # llm.py gives them to the agents of other integrations.
                instance.tools += tools_for_all_agents(self.hass, self._tools)
            instance.custom_serializer = chosen.custom_serializer
        return instance

    async def _async_allowed(self, llm_context: llm.LLMContext) -> list[str]:
        """Return the chosen APIs that the speaker may use.

        Because of one API for administrators, Home Assistant would refuse the whole
        turn. A voice satellite has no user, so it never gets such an API.
        """
        admin_only = {
            api.id for api in llm.async_get_apis(self.hass) if is_admin_only(api)
        }
        if admin_only.isdisjoint(self._api_ids):
            return self._api_ids
        user_id = llm_context.context.user_id if llm_context.context else None
        user = await self.hass.auth.async_get_user(user_id) if user_id else None
        if user is not None and user.is_admin:
            return self._api_ids
        _LOGGER.debug("The speaker is no administrator, and gets the other APIs")
        return [api_id for api_id in self._api_ids if api_id not in admin_only]

    async def _async_chosen(
        self, api_ids: list[str], llm_context: llm.LLMContext, *, by_retrieval: bool
    ) -> llm.APIInstance:
        """Return some of the APIs that the user chose, merged into one."""
        if not by_retrieval:
            return await llm.async_get_api(self.hass, api_ids, llm_context)
        apis: list[llm.API] = [
            AssistByRetrieval(self.hass)
            if api_id == llm.LLM_API_ASSIST
            else _ChosenAPI(hass=self.hass, id=api_id, name=api_id)
            for api_id in api_ids
        ]
        api = apis[0] if len(apis) == 1 else llm.MergedAPI(apis)
        return await api.async_get_api_instance(llm_context)


def is_admin_only(api: llm.API) -> bool:
    """Return whether only administrators may use an API; 2026.10 has none such."""
    return bool(getattr(api, "requires_admin", False))


class _ChosenAPI(llm.API):
    """One of Home Assistant's APIs; Home Assistant checks who may use it."""

    @override
    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> llm.APIInstance:
        """Return the API's instance; raise HomeAssistantError if it is gone."""
        return await llm.async_get_api(self.hass, self.id, llm_context)

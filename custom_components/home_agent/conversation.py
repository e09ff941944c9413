"""The conversation entity: an agent that voice assistants and chats can use."""

import asyncio
import logging
from typing import Literal, override

from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import (
    async_listen_entity_updates,
)
from homeassistant.config_entries import ConfigSubentry
from homeassistant.const import CONF_LLM_HASS_API, CONF_PROMPT, MATCH_ALL
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import llm
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback
from homeassistant.helpers.restore_state import RestoredExtraData

from .agent import HomeAgent
from .const import DOMAIN, SUBENTRY_CONVERSATION
from .device import device_info
from .model.role import merged_config
from .prompt.llm_api import AgentAPI
from .prompt.prefix import Prefix
from .runtime import HomeAgentConfigEntry
from .servers.errors import InvalidAuth, ModelServerError
from .spoken import async_sentence, async_spoken_error
from .tools.external_llm import external_llm_tools

_LOGGER = logging.getLogger(__name__)

# Several turns may run at the same time.
PARALLEL_UPDATES = 0


async def async_setup_entry(
    hass: HomeAssistant,
    config_entry: HomeAgentConfigEntry,
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add one entity for each conversation subentry."""
    for subentry in config_entry.get_subentries_of_type(SUBENTRY_CONVERSATION):
        async_add_entities(
            [HomeAgentConversationEntity(hass, config_entry, subentry)],
            config_subentry_id=subentry.subentry_id,
        )


class HomeAgentConversationEntity(conversation.ConversationEntity):
    """A conversation agent on the chat log."""

    _attr_has_entity_name = True
    _attr_name = None
    _attr_supports_streaming = True

    def __init__(
        self, hass: HomeAssistant, entry: HomeAgentConfigEntry, subentry: ConfigSubentry
    ) -> None:
        """Make the agent of a conversation subentry."""
        self._entry = entry
        config = merged_config(entry, subentry)
        self._agent = HomeAgent(hass, config)
        self._prompt: str | None = config.get(CONF_PROMPT)
        api_ids: list[str] = config.get(CONF_LLM_HASS_API) or []
        tools = external_llm_tools(hass, entry, subentry)
        self._llm_api = AgentAPI(hass, config, tools) if api_ids or tools else None
        self._prefix = Prefix(hass, self._llm_api, self._prompt)
        self._residency = entry.runtime_data.residencies[subentry.subentry_id]
        self._primer = entry.runtime_data.primers[subentry.subentry_id]
        self._attr_unique_id = subentry.subentry_id
        self._attr_device_info = device_info(entry, subentry)
        # The search tool comes with the Assist API.
        self._searches = llm.LLM_API_ASSIST in api_ids
        if api_ids:
            self._attr_supported_features = (
                conversation.ConversationEntityFeature.CONTROL
            )

    @override
    async def async_added_to_hass(self) -> None:
        """Restore who asked last: the prompt for them is primed."""
        await super().async_added_to_hass()
        self.async_on_remove(self._residency.changed.add(self.async_write_ha_state))
        if self._llm_api is not None:
            # A conversation that goes on must not name hidden entities any more.
            self.async_on_remove(
                async_listen_entity_updates(
                    self.hass, conversation.DOMAIN, self._llm_api.renew
                )
            )
        self._prefix.agent_id = self.entity_id
        if (extra := await self.async_get_last_extra_data()) is not None:
            self._prefix.restore(extra.as_dict())
        # Not for an agent that the user has disabled: it is not added.
        self._primer.make_prefix = self._prefix.async_make

    @override
    async def async_will_remove_from_hass(self) -> None:
        """End the priming of an agent that the user disables."""
        self._primer.make_prefix = None
        await super().async_will_remove_from_hass()

    @property
    @override
    def available(self) -> bool:
        """Return whether the server answers."""
        return self._residency.coordinator.is_answering

    @property
    @override
    def extra_restore_state_data(self) -> RestoredExtraData:
        """Return who asked last, to restore it after a restart."""
        return RestoredExtraData(self._prefix.as_dict())

    @override
    async def async_prepare(self, language: str | None = None) -> None:
        """Load and prime the models while somebody speaks or begins to write."""
        data = self._entry.runtime_data
        prepared = [self._primer.async_prepare(language)]
        if self._searches:
            prepared += [
                data.loaders[subentry_id].async_prepare()
                for subentry_id in data.vector_db_managers
            ]
        await asyncio.gather(*prepared)

    @property
    @override
    def supported_languages(self) -> list[str] | Literal["*"]:
        """Return all languages: which ones work depends on the model."""
        return MATCH_ALL

    @override
    async def _async_handle_message(
        self,
        user_input: conversation.ConversationInput,
        chat_log: conversation.ChatLog,
    ) -> conversation.ConversationResult:
        """Answer a message; the text of an error is spoken."""
        self._prefix.remember(user_input)
        try:
            await chat_log.async_provide_llm_data(
                user_input.as_llm_context(DOMAIN),
                self._llm_api,
                self._prompt,
                user_input.extra_system_prompt,
            )
        except HomeAssistantError as err:
            _LOGGER.warning("No answer, the prompt cannot be made: %s", err)
            sentence = await async_sentence(self.hass, user_input.language, "no_prompt")
            raise HomeAssistantError(sentence) from err
        try:
            await self._agent.async_answer(chat_log, self.entity_id)
            return conversation.async_get_result_from_chat_log(user_input, chat_log)
        except HomeAssistantError as err:
            self._note_failure(err)
            raise await async_spoken_error(self.hass, user_input.language, err) from err

    def _note_failure(self, err: HomeAssistantError) -> None:
        """Log why there is no answer, and ask the user for a key that is accepted."""
        if not isinstance(err, ModelServerError):
            _LOGGER.warning("No answer: %s", err)
            return
        _LOGGER.error("No answer: %s", err.log_text)
        if isinstance(err, InvalidAuth):
            self._entry.async_start_reauth(self.hass)

"""The AI task entity: data that a model generates for automations and scripts."""

import logging
from typing import override

from homeassistant.components import ai_task, conversation
from homeassistant.config_entries import ConfigSubentry
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .agent import HomeAgent, last_answer
from .const import DOMAIN, SUBENTRY_AI_TASK
from .device import device_info
from .model.role import merged_config
from .prompt.structured_output import StructuredOutput, StructureMismatch
from .runtime import HomeAgentConfigEntry
from .servers.errors import InvalidAuth, ModelServerError

_LOGGER = logging.getLogger(__name__)

# Several tasks may run at the same time.
PARALLEL_UPDATES = 0


async def async_setup_entry(
    hass: HomeAssistant,
    config_entry: HomeAgentConfigEntry,
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add one entity for each AI task subentry."""
    for subentry in config_entry.get_subentries_of_type(SUBENTRY_AI_TASK):
        async_add_entities(
            [HomeAgentAITaskEntity(hass, config_entry, subentry)],
            config_subentry_id=subentry.subentry_id,
        )


class HomeAgentAITaskEntity(ai_task.AITaskEntity):
    """Generates text, or data of a given structure."""

    _attr_has_entity_name = True
    _attr_name = None
    _attr_supported_features = (
        ai_task.AITaskEntityFeature.GENERATE_DATA
        | ai_task.AITaskEntityFeature.SUPPORT_ATTACHMENTS
    )

    def __init__(
        self, hass: HomeAssistant, entry: HomeAgentConfigEntry, subentry: ConfigSubentry
    ) -> None:
        """Make the agent of an AI task subentry."""
        self._entry = entry
        self._agent = HomeAgent(hass, merged_config(entry, subentry))
        self._residency = entry.runtime_data.residencies[subentry.subentry_id]
        self._attr_unique_id = subentry.subentry_id
        self._attr_device_info = device_info(entry, subentry)

    @override
    async def async_added_to_hass(self) -> None:
        """Listen to changes of the server's availability."""
        await super().async_added_to_hass()
        self.async_on_remove(self._residency.changed.add(self.async_write_ha_state))

    @property
    @override
    def available(self) -> bool:
        """Return whether the server answers."""
        return self._residency.coordinator.last_update_success

    @override
    async def _async_generate_data(
        self, task: ai_task.GenDataTask, chat_log: conversation.ChatLog
    ) -> ai_task.GenDataTaskResult:
        """Return the text, or the data if the task has a structure.

        Raise a HomeAssistantError if the server fails, or if the answer does not fit
        the structure even after the model was asked to correct it.
        """
        output = None
        if task.structure is not None:
            output = StructuredOutput(task.structure, chat_log.llm_api)
        try:
            await self._agent.async_answer(chat_log, self.entity_id, output)
        except ModelServerError as err:
            _LOGGER.error("No answer to an AI task: %s", err.log_text)
            if isinstance(err, InvalidAuth):
                self._entry.async_start_reauth(self.hass)
            raise
        answer = last_answer(chat_log)
        try:
            data = output.parse(answer) if output else answer
        except StructureMismatch as err:
            _LOGGER.warning("The answer to an AI task does not fit its structure")
            raise HomeAssistantError(
                translation_domain=DOMAIN, translation_key="structure_mismatch"
            ) from err
        return ai_task.GenDataTaskResult(chat_log.conversation_id, data)

"""The AI task entity: data that a model generates for automations and scripts."""

from collections.abc import Iterator
from contextlib import contextmanager
import logging
from typing import Final, override

from homeassistant.components import ai_task, conversation
from homeassistant.config_entries import ConfigSubentry
from homeassistant.const import MAJOR_VERSION, MINOR_VERSION
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .agent import HomeAgent, last_answer
from .const import CONF_LLM_SERVER_KIND, DOMAIN, SUBENTRY_AI_TASK
from .device import device_info
from .model.role import merged_config
from .prompt.evaluation import evaluation_answer, evaluation_prompt
from .prompt.structured_output import StructuredOutput, StructureMismatch
from .runtime import HomeAgentConfigEntry
from .servers.base import ServerKind
from .servers.errors import InvalidAuth, ModelServerError
from .servers.factory import reports_logprobs

_LOGGER = logging.getLogger(__name__)

# Several tasks may run at the same time.
PARALLEL_UPDATES = 0
# AI tasks that evaluate questions are new in 2026.11.
_HAS_EVALUATION: Final = (MAJOR_VERSION, MINOR_VERSION) >= (2026, 11)


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

    def __init__(
        self, hass: HomeAssistant, entry: HomeAgentConfigEntry, subentry: ConfigSubentry
    ) -> None:
        """Make the agent of an AI task subentry."""
        self._entry = entry
        self._agent = HomeAgent(hass, merged_config(entry, subentry))
        self._residency = entry.runtime_data.residencies[subentry.subentry_id]
        self._attr_unique_id = subentry.subentry_id
        self._attr_device_info = device_info(entry, subentry)
        self._attr_supported_features = (
            ai_task.AITaskEntityFeature.GENERATE_DATA
            | ai_task.AITaskEntityFeature.SUPPORT_ATTACHMENTS
        )
        if _HAS_EVALUATION and reports_logprobs(
            ServerKind(entry.data[CONF_LLM_SERVER_KIND])
        ):
            self._attr_supported_features |= ai_task.AITaskEntityFeature.EVALUATE

    @override
    async def async_added_to_hass(self) -> None:
        """Listen to changes of the server's availability."""
        await super().async_added_to_hass()
        self.async_on_remove(self._residency.changed.add(self.async_write_ha_state))

    @property
    @override
    def available(self) -> bool:
        """Return whether the server answers."""
        return self._residency.coordinator.is_answering

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
        with self._reported_errors():
            await self._agent.async_answer(chat_log, self.entity_id, output)
        answer = last_answer(chat_log)
        try:
            data = output.parse(answer) if output else answer
        except StructureMismatch as err:
            _LOGGER.warning("The answer to an AI task does not fit its structure")
            raise HomeAssistantError(
                translation_domain=DOMAIN, translation_key="structure_mismatch"
            ) from err
        return ai_task.GenDataTaskResult(chat_log.conversation_id, data)

    @override
    async def _async_evaluate(
        self, task: ai_task.EvaluationTask
    ) -> ai_task.EvaluationTaskResult:
        """Return the probabilities of the possible answers to each question.

        Raise a HomeAssistantError if the server fails or reports no probabilities.
        """
        questions = task.questions
        prompts = [evaluation_prompt(task, item) for item in questions.values()]
        with self._reported_errors():
            tokens = await self._agent.async_first_tokens(prompts)
        return ai_task.EvaluationTaskResult(
            {
                key: evaluation_answer(question, logprobs)
                for (key, question), logprobs in zip(
                    questions.items(), tokens, strict=True
                )
            }
        )

    @contextmanager
    def _reported_errors(self) -> Iterator[None]:
        """Log an error of the server; ask for a new key if the server refuses it."""
        try:
            yield
        except ModelServerError as err:
            _LOGGER.error("No answer to an AI task: %s", err.log_text)
            if isinstance(err, InvalidAuth):
                self._entry.async_start_reauth(self.hass)
            raise

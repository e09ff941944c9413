"""The tool by which the primary LLM asks a conversation agent or an AI task entity."""

import asyncio
import logging
from typing import Final, override

from homeassistant.components import ai_task, conversation
from homeassistant.const import STATE_UNAVAILABLE
from homeassistant.core import Context, HomeAssistant, split_entity_id
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import entity_registry as er, intent, llm

from ..const import DOMAIN
from .question import QuestionTool, question_passed_on

_LOGGER = logging.getLogger(__name__)

# The domains of the entities that can be asked.
ENTITY_DOMAINS: Final = (ai_task.DOMAIN, conversation.DOMAIN)

_DESCRIPTION: Final = (
    "Ask {name}, another AI assistant. Use it for questions that need deep knowledge,"
    " careful reasoning or longer texts, and for nothing that you can answer or do"
    " yourself. It sees nothing of this conversation but what you tell it."
)
# What the primary LLM reads if an agent has done something and says nothing.
_SILENT_RESPONSE: Final = "Done."


class ExternalEntityTool(QuestionTool):
    """A tool that asks a conversation or AI task entity of any integration.

    The entity's integration decides how long its model stays loaded: Home Agent
    sends no keep_alive.
    """

    def __init__(
        self, hass: HomeAssistant, entity_id: str, reference: str, timeout: float
    ) -> None:
        """Make the tool, also for an entity that does not exist yet.

        reference is the entity's id in the registry, which stays if the user renames
        the entity, or else its entity id. timeout is how many seconds a call may take.
        """
        domain, name = split_entity_id(entity_id)
        super().__init__(f"{DOMAIN}__ask_{name}")
        self.hass = hass
        self.description = _DESCRIPTION.format(name=name.replace("_", " "))
        if domain == conversation.DOMAIN:
            # The agent may control devices.
            self.annotations = llm.ToolAnnotations()
        self._reference = reference
        self._timeout = timeout

    @override
    async def _async_ask(
        self, llm_context: llm.LLMContext, prompt: str, context: str | None = None
    ) -> str:
        """Return the entity's answer to a question.

        Raise HomeAssistantError if the entity is unavailable, fails, gives no answer
        or takes too long. The text of its own error is neither logged nor passed on:
        it may hold an address or a part of an answer.
        """
        registry = er.async_get(self.hass)
        entity_id = er.async_resolve_entity_id(registry, self._reference) or ""
        state = self.hass.states.get(entity_id)
        if state is None or state.state == STATE_UNAVAILABLE:
            _LOGGER.warning("Cannot ask %s: it is unavailable", entity_id or self.name)
            raise _error(translation_key="external_entity_unavailable")
        question = f"{prompt}\n\n{context}" if context else prompt
        _LOGGER.debug(
            "Asking %s: %d characters in the question", entity_id, len(question)
        )
        try:
            async with asyncio.timeout(self._timeout):
                with question_passed_on():
                    answer = await self._async_answer(entity_id, question, llm_context)
        except TimeoutError as err:
            _LOGGER.warning("%s has not answered in %g s", entity_id, self._timeout)
            raise _error(translation_key="external_entity_timed_out") from err
        except HomeAssistantError as err:
            _LOGGER.warning("%s has not answered: %s", entity_id, type(err).__name__)
            raise _error(translation_key="external_llm_failed") from err
        if not (text := answer.strip()):
            raise _error(translation_key="external_llm_no_answer")
        return text

    async def _async_answer(
        self, entity_id: str, question: str, llm_context: llm.LLMContext
    ) -> str:
        """Return the answer of an entity; raise HomeAssistantError if it fails.

        The question begins a conversation of its own, with the rights of the speaker.
        """
        context = llm_context.context or Context()
        if split_entity_id(entity_id)[0] == ai_task.DOMAIN:
            generated = await ai_task.async_generate_data(
                self.hass,
                task_name="Question of an agent",
                entity_id=entity_id,
                instructions=question,
                context=context,
            )
            return str(generated.data or "")
        result = await conversation.async_converse(
            self.hass,
            question,
            None,
            context,
            language=llm_context.language,
            agent_id=entity_id,
        )
        response = result.response
        if response.response_type is intent.IntentResponseType.ERROR:
            # Home Assistant has turned the agent's exception into a spoken text.
            raise HomeAssistantError(response.error_code)
        spoken: str | None = response.speech.get("plain", {}).get("speech")
        return spoken or _SILENT_RESPONSE


def _error(*, translation_key: str) -> HomeAssistantError:
    """Return an error with a translated text, which the primary LLM gets."""
    return HomeAssistantError(
        translation_domain=DOMAIN, translation_key=translation_key
    )

"""The dialogs of the model roles: conversation agent, external LLM, embedding model."""

import logging
from typing import Any, override

from homeassistant.config_entries import SubentryFlowResult
from homeassistant.const import CONF_LLM_HASS_API, CONF_NAME
from homeassistant.helpers import llm
from homeassistant.helpers.selector import SelectOptionDict

from ..const import (
    CONF_CHROMA_API_KEY,
    CONF_CHROMA_URL,
    CONF_EXTERNAL_LLMS,
    CONF_VECTOR_STORE,
    SUBENTRY_EMBEDDING,
)
from ..model.role import Role
from ..servers.address import clean_url, shown_host
from ..servers.base import ModelServer
from ..servers.errors import CannotConnect, InvalidAuth, ModelServerError
from ..servers.session import async_get_session
from ..vector_store.chroma import async_check_chroma
from ..vector_store.engine import Engine
from .external_llms import external_llm_options
from .fields import (
    Fields,
    ai_task_fields,
    chroma_fields,
    conversation_fields,
    embedding_fields,
    external_llm_fields,
    flattened,
    name_field,
    new_subentry_values,
)
from .new_subentries import default_agent_name, free_title
from .role_flow import RoleFlow

_LOGGER = logging.getLogger(__name__)


class ConversationFlow(RoleFlow):
    """Add or change a conversation agent, which uses the server of the entry."""

    role = Role.LLM

    @override
    async def async_step_server(
        self, user_input: dict[str, Any] | None = None
    ) -> SubentryFlowResult:
        """Connect to the server, and go on to the settings.

        LLM APIs and other models that no longer exist are left out of the form.
        """
        if errors := await self._async_find_server():
            return self.async_abort(reason=next(iter(errors.values())))
        apis = {api.id for api in llm.async_get_apis(self.hass)}
        for key, known in (
            (CONF_LLM_HASS_API, apis),
            (CONF_EXTERNAL_LLMS, {option["value"] for option in self._externals()}),
        ):
            if chosen := self._values.get(key):
                self._values[key] = [item for item in chosen if item in known]
        return await self.async_step_settings()

    @override
    def _fields(self, server: ModelServer) -> Fields:
        """Return the fields that only a conversation agent has."""
        fields = conversation_fields(self.hass, self._externals(), server.kind)
        return name_field() | fields if self._is_new else fields

    def _externals(self) -> list[SelectOptionDict]:
        """Return the other models that the agent may ask."""
        subentry_id = (
            None if self._is_new else self._get_reconfigure_subentry().subentry_id
        )
        return external_llm_options(self.hass, self._get_entry(), subentry_id)

    @override
    async def async_step_user(
        self, user_input: dict[str, Any] | None = None
    ) -> SubentryFlowResult:
        """Add a conversation agent, and suggest a name that no other agent has."""
        self._values = {
            **new_subentry_values(self.role),
            CONF_NAME: default_agent_name(self.hass),
        }
        return await self._async_first_step()

    @override
    def _default_title(self, model: str) -> str:
        """Return the name of the model, with a number if an agent has that name."""
        return free_title(self.hass, self._subentry_type, model)


class AITaskFlow(ConversationFlow):
    """Add or change an AI task entity, which uses the server of the entry too."""

    @override
    def _fields(self, server: ModelServer) -> Fields:
        """Return the fields that an AI task entity has besides its model."""
        return ai_task_fields(server.kind)


class ExternalLLMFlow(RoleFlow):
    """Add or change an external LLM."""

    role = Role.EXTERNAL_LLM

    @override
    def _fields(self, server: ModelServer) -> Fields:
        """Return the fields that only an external LLM has."""
        return external_llm_fields(server.kind)


class EmbeddingFlow(RoleFlow):
    """Add or change the embedding model."""

    role = Role.EMBEDDING

    def __init__(self) -> None:
        """Start without checked data."""
        super().__init__()
        self._checked: dict[str, Any] = {}
        self._learned: dict[str, Any] = {}

    @override
    async def async_step_user(
        self, user_input: dict[str, Any] | None = None
    ) -> SubentryFlowResult:
        """Add the embedding model; abort if there is one already."""
        if any(self._get_entry().get_subentries_of_type(SUBENTRY_EMBEDDING)):
            return self.async_abort(reason="already_configured")
        return await super().async_step_user(user_input)

    @override
    def _fields(self, server: ModelServer) -> Fields:
        """Return the fields that only an embedding model has."""
        return embedding_fields()

    @override
    async def _async_save(
        self, data: dict[str, Any], learned: dict[str, Any]
    ) -> SubentryFlowResult:
        """Save the role; ask for a Chroma server first if the index is to be there."""
        if data.get(CONF_VECTOR_STORE) != Engine.CHROMA:
            return await super()._async_save(data, learned)
        self._checked, self._learned = data, learned
        return await self.async_step_chroma()

    async def async_step_chroma(
        self, user_input: dict[str, Any] | None = None
    ) -> SubentryFlowResult:
        """Ask for the Chroma server, and check that it answers."""
        errors: dict[str, str] = {}
        if user_input is not None:
            chroma = flattened(user_input)
            if not (errors := await self._async_check_chroma(chroma)):
                data = self._checked | chroma
                return await super()._async_save(data, self._learned)
        return self._form("chroma", chroma_fields(), user_input, errors)

    async def _async_check_chroma(self, chroma: dict[str, Any]) -> dict[str, str]:
        """Check that a Chroma server answers; return errors by field.

        The address in chroma is replaced by its cleaned form.
        """
        try:
            chroma[CONF_CHROMA_URL] = clean_url(chroma[CONF_CHROMA_URL])
            await async_check_chroma(
                async_get_session(self.hass),
                chroma[CONF_CHROMA_URL],
                chroma.get(CONF_CHROMA_API_KEY),
            )
        except ValueError:
            return {CONF_CHROMA_URL: "invalid_url"}
        except ModelServerError as err:
            _LOGGER.debug("The check of a Chroma server failed: %s", err.log_text)
            match err:
                case InvalidAuth():
                    return {CONF_CHROMA_API_KEY: "invalid_auth"}
                case CannotConnect():
                    return {CONF_CHROMA_URL: "cannot_connect"}
                case _:
                    return {CONF_CHROMA_URL: "no_chroma"}
        _LOGGER.debug("%s is a Chroma server", shown_host(chroma[CONF_CHROMA_URL]))
        return {}

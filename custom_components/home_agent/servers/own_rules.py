"""Servers whose own configuration decides how long a model stays in memory."""

from collections.abc import Collection, Sequence
from typing import override

from .address import server_root
from .base import (
    LoadedModel,
    ServerCapability,
    ServerKind,
    ServerModel,
    same_names,
)
from .cloud import CloudServer
from .messages import ChatRequest, JsonObject
from .openai_compatible import OpenAICompatibleServer


class OwnRulesServer(OpenAICompatibleServer):
    """The base class of servers that ignore a keep_alive; none is sent to them."""

    capabilities = ServerCapability.WARM

    @override
    def may_send_keep_alive(self, model: str) -> bool:
        """Return False: the server ignores the field."""
        return False


class OneModelServer(OwnRulesServer):
    """A server with one model, which it uses whatever name a request has."""

    @override
    def find(self, name: str, models: Sequence[ServerModel]) -> ServerModel | None:
        """Return the server's only model, whatever the name; None if it lists none."""
        return models[0] if models else None


class VLLMServer(OwnRulesServer):
    """vLLM: it loads its models when it starts, and never unloads one."""

    kind = ServerKind.VLLM
    reports_logprobs = True
    capabilities = ServerCapability.WARM | ServerCapability.LIST

    @override
    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the number of tokens of a request's prompt, as the server counts them.

        /tokenize takes messages and tools as a chat does (vLLM,
        TokenizeChatRequest). Raise a ModelServerError if the server fails.
        """
        body = self._chat_body(request)
        wanted: JsonObject = {
            key: body[key] for key in ("model", "messages", "tools") if key in body
        }
        url = f"{server_root(self.connection.url)}/tokenize"
        answer = await self._post(url, wanted)
        if (count := answer.integer("count")) is None:
            raise answer.malformed("count", "a whole number")
        return count

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel]:
        """Return the models that the server lists, all of which are in memory.

        max_model_len is a field of vLLM, not of OpenAI's API.
        """
        return [
            LoadedModel(
                name=(name := model.text("id")),
                names=same_names(names, name),
                is_indefinite=True,
                context_length=model.integer("max_model_len"),
            )
            for model in (await self._models_answer()).objects("data")
        ]


class TabbyAPIServer(OneModelServer):
    """TabbyAPI: one model, changed only with the operator's admin key."""

    kind = ServerKind.TABBYAPI


class KoboldCppServer(OneModelServer):
    """KoboldCpp: one model, unloaded by --adminunloadtimeout if at all."""

    kind = ServerKind.KOBOLDCPP


class LiteLLMServer(CloudServer):
    """LiteLLM: a proxy for models of any provider, which may cost money.

    It forwards unknown fields such as keep_alive, and a strict provider behind it then
    refuses the whole request; LiteLLM's setting drop_params does not prevent that.
    """

    kind = ServerKind.LITELLM

"""Servers that keep their models by rules of their own, set where they run."""

from collections.abc import Sequence
from typing import override

from .address import server_root
from .base import LoadedModel, ServerCapability, ServerKind, ServerModel
from .messages import ChatRequest, JsonObject
from .openai_compatible import CloudServer, OpenAICompatibleServer


class OwnRulesServer(OpenAICompatibleServer):
    """A server that ignores a keep_alive; so it gets none."""

    capabilities = ServerCapability.WARM

    @override
    def may_send_keep_alive(self, model: str) -> bool:
        """Return False: the field has no effect."""
        return False


class OneModelServer(OwnRulesServer):
    """A server with one model, which it uses whatever requests call it."""

    @override
    def find(self, name: str, models: Sequence[ServerModel]) -> ServerModel | None:
        """Return the one model."""
        return models[0] if models else None


class VLLMServer(OwnRulesServer):
    """vLLM: what it serves is always in memory."""

    kind = ServerKind.VLLM
    capabilities = ServerCapability.WARM | ServerCapability.LIST

    @override
    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the tokens that the server itself makes of a request's prompt.

        /tokenize takes messages and tools as a chat does (vLLM,
        TokenizeChatRequest). Raise a ModelServerError if the server fails.
        """
        body = self._chat_body(request)
        wanted: JsonObject = {"model": body["model"], "messages": body["messages"]}
        if "tools" in body:
            wanted["tools"] = body["tools"]
        url = f"{server_root(self.connection.url)}/tokenize"
        answer = await self.http.post(url, wanted)
        return int(answer["count"])

    @override
    async def loaded_models(self) -> list[LoadedModel]:
        """Return the models that it serves.

        max_model_len is vLLM's own addition to the list.
        """
        answer = await self.http.get(self._url("models"))
        return [
            LoadedModel(
                name=model["id"],
                is_indefinite=True,
                context_length=model.get("max_model_len"),
            )
            for model in answer.get("data") or ()
        ]


class TabbyAPIServer(OneModelServer):
    """TabbyAPI: one model, changed only with the operator's admin key."""

    kind = ServerKind.TABBYAPI


class KoboldCppServer(OneModelServer):
    """KoboldCpp: one model, unloaded by --adminunloadtimeout if at all."""

    kind = ServerKind.KOBOLDCPP


class LiteLLMServer(CloudServer):
    """LiteLLM: a proxy whose models may be anybody's, and may cost money.

    It forwards unknown fields, and strict providers behind it then refuse the
    whole request; drop_params does not help.
    """

    kind = ServerKind.LITELLM

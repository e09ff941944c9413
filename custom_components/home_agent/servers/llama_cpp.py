"""llama.cpp's server: with one model, or as a router of several."""

import asyncio
from collections.abc import Collection
from typing import Final, override

from .address import server_root
from .base import (
    LOAD_TIMEOUT,
    LoadedModel,
    ServerCapability,
    ServerKind,
    same_names,
)
from .errors import ModelServerError, RequestRefused, ServerTimedOut
from .messages import ChatRequest, JsonObject, LoadRequest
from .own_rules import OneModelServer, OwnRulesServer

_POLL_SECONDS: Final = 0.5


class LlamaCppServer(OneModelServer):
    """One model, always loaded unless --sleep-idle-seconds lets it sleep."""

    kind = ServerKind.LLAMA_CPP
    reports_logprobs = True
    capabilities = ServerCapability.WARM | ServerCapability.LIST

    @override
    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the number of tokens of a request's prompt, as the server counts them.

        None if there are images in it, which cannot be counted this way. Raise a
        ModelServerError if the server fails or is too old for such a request.
        """
        if any(message.get("images") for message in request.messages):
            return None
        root = server_root(self.connection.url)
        body = self._chat_body(request)
        template = await self._post(f"{root}/apply-template", body)
        # With the flags that the server sets for a chat (tools/server/server.cpp).
        text: JsonObject = {
            "content": template.text("prompt"),
            "add_special": True,
            "parse_special": True,
        }
        answer = await self._post(f"{root}/tokenize", text)
        if not isinstance(tokens := answer.value("tokens"), list):
            raise answer.malformed("tokens", "a list")
        return len(tokens)

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel]:
        """Return the one model, which stands for every name, unless it sleeps.

        A sleeping server has dropped weights and prompt cache until the next
        request; /props does not wake it. While it starts it answers 503.
        """
        try:
            props = await self._get(f"{server_root(self.connection.url)}/props")
        except ModelServerError as err:
            if err.status != 503:
                raise
            return [LoadedModel(name="", names=frozenset(names), is_loading=True)]
        if props.flag("is_sleeping"):
            return []
        settings = props.optional_object("default_generation_settings")
        alias = props.optional_text("model_alias")
        return [
            LoadedModel(
                name=alias or props.optional_text("model_path") or "",
                names=frozenset(names),
                is_indefinite=True,
                context_length=settings.integer("n_ctx") if settings else None,
            )
        ]


class LlamaCppRouter(OwnRulesServer):
    """llama.cpp as a router: it loads what a request needs, --models-max at a time."""

    kind = ServerKind.LLAMA_CPP_ROUTER
    reports_logprobs = True
    capabilities = (
        ServerCapability.WARM
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
    )

    @override
    async def loaded_models(self, names: Collection[str]) -> list[LoadedModel]:
        """Return the models that are loaded or being loaded."""
        return [
            LoadedModel(
                name=name, names=same_names(names, name), is_loading=state == "loading"
            )
            for name, state in (await self._states()).items()
            if state in ("loaded", "loading")
        ]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model; return when it is loaded.

        The router answers before that, so its list is read until it says so.
        """
        try:
            await self.http.post(
                self._router_url("models/load"), {"model": request.model}
            )
        except RequestRefused as err:
            if "already" not in err.detail:
                raise
        try:
            async with asyncio.timeout(LOAD_TIMEOUT):
                state: str | None = "loading"
                while state == "loading":
                    await asyncio.sleep(_POLL_SECONDS)
                    state = (await self._states()).get(request.model)
        except TimeoutError as err:
            detail = f"the model is not loaded after {LOAD_TIMEOUT:g} s"
            raise ServerTimedOut(self.http.host, detail) from err
        if state not in ("loaded", "sleeping"):
            raise self.http.error(f"the model is {state} after loading it")

    @override
    async def unload(self, model: str) -> None:
        """Unload a model."""
        try:
            await self.http.post(self._router_url("models/unload"), {"model": model})
        except RequestRefused as err:
            if "not running" not in err.detail:
                raise

    async def _states(self) -> dict[str, str]:
        """Return the state of each model that the router knows."""
        answer = await self._get(self._router_url("models"))
        return {
            model.text("id"): (status.optional_text("value") if status else None) or ""
            for model in answer.objects("data")
            for status in (model.optional_object("status"),)
        }

    def _router_url(self, path: str) -> str:
        """Return an address of the router's own API."""
        return f"{server_root(self.connection.url)}/{path}"

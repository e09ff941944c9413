"""llama.cpp's own server: with one model, or as a router of several."""

import asyncio
from typing import Any, Final, override

from .address import server_root
from .base import LOAD_TIMEOUT, LoadedModel, ServerCapability, ServerKind
from .errors import ModelServerError, RequestRefused
from .messages import ChatRequest, LoadRequest
from .own_rules import OneModelServer, OwnRulesServer

_POLL_SECONDS: Final = 0.5


class LlamaCppServer(OneModelServer):
    """One model, always loaded; --sleep-idle-seconds lets it sleep."""

    kind = ServerKind.LLAMA_CPP
    capabilities = ServerCapability.WARM | ServerCapability.LIST

    @override
    def is_model(self, name: str, loaded: LoadedModel) -> bool:
        """Return True: requests get the one model whatever they call it."""
        return True

    @override
    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the tokens that the server itself makes of a request's prompt.

        Images are no text; a prompt with some is not counted. Raise a
        ModelServerError if the server fails or is too old to count.
        """
        if any(message.get("images") for message in request.messages):
            return None
        root = server_root(self.connection.url)
        body = self._chat_body(request)
        prompt = await self.http.post(f"{root}/apply-template", body)
        # As the server does it for a chat (tools/server/server.cpp).
        text = {"content": prompt["prompt"], "add_special": True, "parse_special": True}
        answer = await self.http.post(f"{root}/tokenize", text)
        return len(answer["tokens"])

    @override
    async def loaded_models(self) -> list[LoadedModel]:
        """Return the model, unless it sleeps.

        A sleeping server has dropped weights and prompt cache until the next
        request; /props does not wake it. While it starts it answers 503.
        """
        try:
            props = await self.http.get(f"{server_root(self.connection.url)}/props")
        except ModelServerError as err:
            if err.status != 503:
                raise
            return [LoadedModel(name="", is_loading=True)]
        if props.get("is_sleeping"):
            return []
        settings = props.get("default_generation_settings") or {}
        return [
            LoadedModel(
                name=props.get("model_alias") or props.get("model_path") or "",
                is_indefinite=True,
                context_length=settings.get("n_ctx"),
            )
        ]


class LlamaCppRouter(OwnRulesServer):
    """llama.cpp as a router: it loads on demand, --models-max at a time."""

    kind = ServerKind.LLAMA_CPP_ROUTER
    capabilities = (
        ServerCapability.WARM
        | ServerCapability.LIST
        | ServerCapability.LOAD
        | ServerCapability.UNLOAD
    )

    @override
    async def loaded_models(self) -> list[LoadedModel]:
        """Return the models that are loaded or on their way."""
        return [
            LoadedModel(name=name, is_loading=value == "loading")
            for name, value in (await self._states()).items()
            if value in ("loaded", "loading")
        ]

    @override
    async def load(self, request: LoadRequest) -> None:
        """Load a model; return when it is loaded.

        The router answers before that, so it is asked until it says so.
        """
        try:
            await self.http.post(
                self._router_url("models/load"), {"model": request.model}
            )
        except RequestRefused as err:
            if "already" not in err.detail:
                raise
        async with asyncio.timeout(LOAD_TIMEOUT):
            state: str | None = "loading"
            while state == "loading":
                await asyncio.sleep(_POLL_SECONDS)
                state = (await self._states()).get(request.model)
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
        """Return what became of each model that the router knows."""
        answer: Any = await self.http.get(self._router_url("models"))
        return {
            model["id"]: (model.get("status") or {}).get("value", "")
            for model in answer.get("data") or ()
        }

    def _router_url(self, path: str) -> str:
        """Return an address of the router's own API."""
        return f"{server_root(self.connection.url)}/{path}"

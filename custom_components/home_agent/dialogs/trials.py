"""Try what a model of a role will do, before its configuration is saved."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
import logging
from typing import Any, Final

from homeassistant.core import HomeAssistant, callback

from ..model.role import ModelRole, Role, configured_models
from ..model.use import model_uses
from ..servers.base import ModelServer, ServerCapability, ServerKind, collect
from ..servers.errors import (
    InvalidAuth,
    ModelNotFound,
    ModelServerError,
    ToolsNotSupported,
)
from ..servers.messages import ChatRequest, ToolSpec
from .role_check import RoleCheck, needs_tools

_LOGGER = logging.getLogger(__name__)

# Seconds for one trial. A server that refuses something answers at once; one that
# loads a large model first needs longer than a dialog should wait.
TRIAL_TIMEOUT: Final = 15.0
# Seconds for unloading what a trial has loaded, after the dialog.
_UNLOAD_TIMEOUT: Final = 30.0
_MAX_TOKENS: Final = 32
_QUESTION: Final = "Turn on the kitchen light."
_TOOL: Final[ToolSpec] = {
    "name": "HassTurnOn",
    "description": "Turn on a light",
    "parameters": {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    },
}
# The settings of a role that change its trial.
_SETTINGS: Final = (
    *("base_url", "api_key", "proxy_headers", "model", "keep_alive"),
    *("num_ctx", "think", "stream", "temperature", "top_p"),
)


def is_trial_needed(
    role: Role, before: Mapping[str, Any], after: Mapping[str, Any]
) -> bool:
    """Return whether a trial can show something new after a change of a role.

    before and after are flat configurations.
    """
    return needs_tools(role, after) > needs_tools(role, before) or any(
        after.get(role.key(name)) != before.get(role.key(name)) for name in _SETTINGS
    )


class Trials:
    """The trial requests of one dialog, and what they leave in memory.

    A trial that fails, or takes too long, is shown once: when the user submits the
    form again, the model is accepted without another trial.
    """

    def __init__(self, hass: HomeAssistant) -> None:
        """Start without a trial."""
        self._hass = hass
        self._shown: set[tuple[Role, str, str]] = set()
        self._loaded: list[tuple[ModelRole, ModelServer]] = []
        self.has_ended = False

    async def async_try(self, check: RoleCheck) -> None:
        """Send one small request as the role will send it; add an error to check.

        Nothing is sent to a server that may charge for it. An external LLM, which is
        often too large to be loaded for this, is tried only where it must be found
        out whether the server refuses keep_alive.
        """
        role, server = check.model_role, check.server
        if role is None or server is None or not server.is_own(role.model):
            return
        if role.role is Role.EXTERNAL_LLM and (
            server.kind is not ServerKind.OPENAI_COMPATIBLE
        ):
            return
        key = (role.role, server.connection.url, role.model)
        if key in self._shown:
            _LOGGER.debug("%s is accepted without another trial", role.model)
            return
        try:
            async with asyncio.timeout(TRIAL_TIMEOUT), self._watch(role, server):
                await _async_send(check, role, server)
        except ToolsNotSupported as err:
            _LOGGER.debug("%s cannot use tools: %s", role.model, err.log_text)
            check.add_tools_error()
        except (ModelNotFound, InvalidAuth) as err:
            check.add_server_error(err)
        except ModelServerError as err:
            _LOGGER.debug("The trial of %s failed: %s", role.model, err.log_text)
            self._shown.add(key)
            check.errors[role.role.key("model")] = "model_trial_failed"
            check.placeholders["error"] = err.detail or type(err).__name__
        except TimeoutError:
            _LOGGER.debug(
                "The trial of %s has no answer after %.0f s", role.model, TRIAL_TIMEOUT
            )
            self._shown.add(key)
            check.errors[role.role.key("model")] = "model_trial_timed_out"
            check.placeholders["seconds"] = f"{TRIAL_TIMEOUT:.0f}"

    @callback
    def async_end(self) -> None:
        """End with the dialog: unload the models that no role uses after it."""
        self.has_ended = True
        if self._loaded:
            self._hass.async_create_background_task(
                self._async_unload(), "unload the models of a dialog"
            )

    @asynccontextmanager
    async def _watch(self, role: ModelRole, server: ModelServer) -> AsyncIterator[None]:
        """Remember a model that the trial in the block loads, or holds longer."""
        use = role.use
        is_held = await _is_held(role, server)
        if not is_held and all(known.use is not use for known, _ in self._loaded):
            self._loaded.append((role, server))
        use.begin_turn(interrupts_priming=role.role is not Role.EMBEDDING)
        # The trial replaces what the server's prompt cache has.
        use.primed_prefix = None
        try:
            yield
        finally:
            use.end_turn()
            if self.has_ended:
                self.async_end()

    async def _async_unload(self) -> None:
        """Unload the models of the trials that no role of any entry uses."""
        uses = model_uses(self._hass)
        configured = [
            uses.async_get(url, model) for url, model in configured_models(self._hass)
        ]
        loaded, self._loaded = self._loaded, []
        for role, server in loaded:
            if any(use is role.use for use in configured):
                continue
            _LOGGER.debug("Unloading %s, which was only tried", role.model)
            try:
                async with asyncio.timeout(_UNLOAD_TIMEOUT):
                    await server.unload(role.model)
            except (ModelServerError, TimeoutError) as err:
                _LOGGER.debug("Cannot unload %s: %s", role.model, type(err).__name__)


async def _is_held(role: ModelRole, server: ModelServer) -> bool:
    """Return whether a trial leaves nothing behind on the server.

    So it is if the model was in memory indefinitely before, or if the server can
    neither report that nor unload.
    """
    needed = ServerCapability.LIST | ServerCapability.UNLOAD
    if needed not in server.capabilities:
        return True
    try:
        loaded = await server.loaded_models({role.model})
    except ModelServerError:
        return True
    return loaded is None or any(
        model.is_indefinite and role.model in (model.name, *model.names)
        for model in loaded
    )


async def _async_send(check: RoleCheck, role: ModelRole, server: ModelServer) -> None:
    """Send the request of a trial; raise a ModelServerError if it fails.

    It carries the keep_alive that is being configured, or the longer one of another
    role that uses the model, as all requests do.
    """
    keep_alive = role.keep_alive_to_send(check.keep_alive)
    _LOGGER.debug(
        "A trial request with keep_alive %s goes to %s, model %s",
        keep_alive.text,
        server.http.host,
        role.model,
    )
    with role.use.count_request(keep_alive, is_configured=True):
        if role.role is Role.EMBEDDING:
            (vector,) = await server.embed(role.model, ["test"], keep_alive)
            outcome = f"a vector of {len(vector)} numbers"
        else:
            tools = [_TOOL] if check.needs_tools else []
            request = replace(
                role.chat_request(
                    [{"role": "user", "content": _QUESTION}], keep_alive, tools
                ),
                max_tokens=_MAX_TOKENS,
            )
            outcome = await _async_chat(check, server, request)
    _LOGGER.debug(
        "The trial request was answered with %s; keep_alive is %s",
        outcome,
        "refused" if server.keep_alive_refused else "accepted or ignored",
    )


async def _async_chat(
    check: RoleCheck, server: ModelServer, request: ChatRequest
) -> str:
    """Send a chat request, streamed if the role streams; return what came, for the log.

    A small model may answer with text instead of the call: that is no fault of it.
    """
    if check.config.get(check.role.key("stream"), True):
        answer = await collect(server.chat_stream(request))
    else:
        answer = await server.chat(request)
    return "a tool call" if answer.tool_calls else "a text"

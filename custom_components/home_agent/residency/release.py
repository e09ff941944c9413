"""Unload the models of removed roles: with keep_alive -1 nothing else would do it."""

from collections.abc import Iterable
import logging

from homeassistant.core import HomeAssistant, callback

from ..model.role import ModelRole, configured_models
from ..servers.address import server_id
from ..servers.base import ModelServer, ServerCapability
from ..servers.errors import ModelServerError, NotSupported
from ..servers.ollama_names import full_name
from .core_ollama import core_ollama_models

_LOGGER = logging.getLogger(__name__)

_NEEDED = ServerCapability.KEEP_ALIVE | ServerCapability.LIST | ServerCapability.UNLOAD


@callback
def async_release_models(hass: HomeAssistant, roles: Iterable[ModelRole]) -> None:
    """Unload the models of roles that were removed or have another model now.

    A model that another role uses, of any entry that is not disabled, stays in memory,
    and so does one that Home Assistant's own Ollama integration uses. Nobody waits for
    the servers.
    """
    by_name = {(server_id(role.url), full_name(role.model)): role for role in roles}
    for (root, name), role in by_name.items():
        if name not in {full_name(model) for model in _models_in_use(hass, root)}:
            hass.async_create_background_task(
                _async_release(hass, role), f"unload {role.model}"
            )


async def _async_release(hass: HomeAssistant, role: ModelRole) -> None:
    """Unload a model after its last turn, unless a role uses it by another name."""
    # A turn that runs would load the model again by its next request.
    await role.use.idle.wait()
    async with role.use.load_lock:
        try:
            server = await role.server()
            if _NEEDED not in server.capabilities or not server.is_own(role.model):
                return
            if await _is_only_user(server, role.model, _models_in_use(hass, role.url)):
                _LOGGER.debug("Unloading %s: no role uses it any more", role.model)
                with role.use.unloading():
                    await server.unload(role.model)
        except NotSupported as err:
            _LOGGER.debug("Not unloading %s: %s", role.model, err.log_text)
        except ModelServerError as err:
            _LOGGER.warning(
                "Cannot unload %s, which no role uses any more: %s",
                role.model,
                err.log_text,
            )


def _models_in_use(hass: HomeAssistant, url: str) -> set[str]:
    """Return the names of the models that are used on the server at url."""
    root = server_id(url)
    ours = configured_models(hass, include_disabled=False)
    return {model for address, model in ours if server_id(address) == root} | {
        model for _, model in core_ollama_models(hass, url)
    }


async def _is_only_user(server: ModelServer, model: str, in_use: set[str]) -> bool:
    """Return whether a model is in memory and none of the names in use stands for it.

    Ollama loads a file once, however many names stand for it. Raise a ModelServerError
    if the server fails.
    """
    for loaded in await server.loaded_models(in_use | {model}) or ():
        if model in loaded.names:
            return not loaded.names & in_use
    return False

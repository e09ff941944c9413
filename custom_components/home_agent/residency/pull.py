"""Let a server download a model: once, however many dialogs wait for it."""

import asyncio
import logging
from typing import Final

from homeassistant.core import HomeAssistant, callback
from homeassistant.util.hass_dict import HassKey

from ..const import DOMAIN
from ..listeners import Listeners
from ..servers.address import server_id
from ..servers.errors import ModelServerError
from ..servers.ollama_names import full_name
from .checks.model_missing import check_model_missing
from .loader import ModelLoader
from .state import ModelResidency

_LOGGER = logging.getLogger(__name__)


class ModelPull:
    """The download of a model for all roles whose dialogs have started it.

    progressed is notified of the downloaded fraction, 0 to 1. has_result stays False
    if the task ends without a result: a reload of the entry cancels it, or it raises an
    unexpected error. failure is the error of the server, None if the model was
    downloaded.
    """

    def __init__(self, loader: ModelLoader) -> None:
        """Start the download for the model of a loader."""
        self.progressed = Listeners[float]()
        self.has_result = False
        self.failure: str | None = None
        self._loader = loader
        self._residencies = [loader.residency]
        # A task of the entry goes on when the user closes the dialog.
        self.task: asyncio.Task[None] = (
            loader.residency.entry.async_create_background_task(
                loader.residency.hass, self._async_run(), "pull a model"
            )
        )

    @callback
    def add_role(self, residency: ModelResidency) -> None:
        """Take in another role that waits for the model."""
        if residency not in self._residencies:
            self._residencies.append(residency)

    async def _async_run(self) -> None:
        """Download the model, then reload the entries of the roles.

        The reload loads the model if Keep ready is on.
        """
        try:
            async for fraction in self._loader.async_pull():
                self.progressed.notify(fraction)
        except ModelServerError as err:
            self.failure = err.detail
            self.has_result = True
            model = self._loader.residency.role.model
            _LOGGER.warning("Cannot download %s: %s", model, err.log_text)
            return
        self.has_result = True
        for residency in self._residencies:
            check_model_missing(residency, None)
            entry_id = residency.entry.entry_id
            residency.hass.config_entries.async_schedule_reload(entry_id)


_PULLS: Final[HassKey[dict[tuple[str, str], ModelPull]]] = HassKey(f"{DOMAIN}_pulls")


@callback
def async_pull_model(hass: HomeAssistant, loader: ModelLoader) -> ModelPull:
    """Return the download of a loader's model; start it unless it runs already."""
    pulls = hass.data.setdefault(_PULLS, {})
    role = loader.residency.role
    key = server_id(role.url), full_name(role.model)
    pull = pulls.get(key)
    if pull is None or pull.task.done():
        pull = pulls[key] = ModelPull(loader)
    pull.add_role(loader.residency)
    return pull

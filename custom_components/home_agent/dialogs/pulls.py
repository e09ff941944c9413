"""Let servers download models while a dialog waits."""

from collections.abc import Callable, Iterable
from contextlib import aclosing
import logging

from homeassistant.core import HomeAssistant

from ..servers.errors import ModelServerError
from .role_check import RoleCheck

_LOGGER = logging.getLogger(__name__)


class Pulls:
    """The downloads of one dialog.

    task downloads the models one after the other; it is done when all of them are
    there or one has failed. Home Assistant cancels it when the user closes the dialog:
    the server then stops the download, and goes on from there the next time. models
    are their names, to be shown.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        missing: Iterable[RoleCheck],
        update_progress: Callable[[float], None],
    ) -> None:
        """Start to download the models that checks have found missing.

        update_progress gets the fraction of each file that is there, from 0 to 1.
        """
        self._update_progress = update_progress
        # The reason of the server by the model that it cannot download.
        self._failed: dict[str, str] = {}
        by_model = {(check.server_url, check.model): check for check in missing}
        self.models = ", ".join(model for _, model in by_model)
        self.task = hass.async_create_background_task(
            self._async_pull(list(by_model.values())), f"download {self.models}"
        )

    def add_errors(self, missing: Iterable[RoleCheck]) -> None:
        """Add why models are still missing after the download."""
        for check in missing:
            model_key = check.role.key("model")
            if reason := self._failed.get(check.model):
                check.errors[model_key] = "model_pull_failed"
                check.placeholders["error"] = reason
            elif not self._failed:
                check.errors[model_key] = "model_not_found"

    async def _async_pull(self, missing: list[RoleCheck]) -> None:
        """Download models; end at the first one that fails."""
        for check in missing:
            if check.server is None:
                continue
            _LOGGER.debug("%s downloads %s", check.server.http.host, check.model)
            try:
                async with aclosing(check.server.pull(check.model)) as fractions:
                    async for fraction in fractions:
                        self._update_progress(min(fraction, 1.0))
            except ModelServerError as err:
                _LOGGER.debug("Cannot download %s: %s", check.model, err.log_text)
                self._failed[check.model] = err.detail or type(err).__name__
                return

"""The issue "model_missing": the server does not have a role's model."""

from datetime import datetime, timedelta
import logging
from typing import Final

from homeassistant.core import callback
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.event import async_track_time_interval
from homeassistant.util import dt as dt_util

from ...servers.base import ServerCapability
from ...servers.errors import ModelNotFound, ModelServerError
from ..loader import ModelLoader
from ..state import ModelResidency, ResidencyEvent
from .issues import clear_issue, is_raised, raise_issue

_LOGGER = logging.getLogger(__name__)

# How often the server is asked for its models while one is missing, and otherwise.
_WHILE_MISSING: Final = timedelta(minutes=5)
_OTHERWISE: Final = timedelta(hours=1)


@callback
def check_model_missing(residency: ModelResidency, err: ModelNotFound | None) -> None:
    """Raise the issue if err says that the model is missing, else clear it."""
    if err is None:
        clear_issue("model_missing", residency)
        return
    can_pull = ServerCapability.PULL in residency.capabilities
    raise_issue(
        "model_missing",
        residency,
        fix={"pull": True} if can_pull else None,
        severity=ir.IssueSeverity.ERROR,
    )


class ModelMissingCheck:
    """Looks for the model of a role in the list of its server.

    The first look is that of the warm-up.
    """

    def __init__(self, loader: ModelLoader) -> None:
        """Look now and then, and after a sign that the model may be gone."""
        self._loader = loader
        self._residency = residency = loader.residency
        self._checked_at = dt_util.utcnow()
        for stop in (
            async_track_time_interval(
                residency.hass, self._async_check_if_due, _WHILE_MISSING
            ),
            residency.event_occurred.add(self._event_occurred),
            residency.use.request_failed.add(self._request_failed),
        ):
            residency.entry.async_on_unload(stop)

    @callback
    def _event_occurred(self, event: ResidencyEvent) -> None:
        """Look after an eviction: a server unloads a model that is deleted."""
        if event is ResidencyEvent.EVICTED:
            self._check_in_background()

    @callback
    def _request_failed(self, err: ModelServerError) -> None:
        """Look if the server says that it does not have the model."""
        if isinstance(err, ModelNotFound):
            self._check_in_background()

    @callback
    def _check_in_background(self) -> None:
        """Look until the entry is unloaded."""
        self._residency.entry.async_create_background_task(
            self._residency.hass, self._async_check(), "check that the model exists"
        )

    async def _async_check_if_due(self, now: datetime) -> None:
        """Look if the model is missing, or if the last look is long ago."""
        if (
            is_raised("model_missing", self._residency)
            or now - self._checked_at >= _OTHERWISE
        ):
            await self._async_check()

    async def _async_check(self) -> None:
        """Raise or clear the issue; load a model that is there again."""
        residency, loader = self._residency, self._loader
        if not residency.may_be_warmed or not residency.coordinator.last_update_success:
            return
        self._checked_at = dt_util.utcnow()
        is_wanted = is_raised("model_missing", residency) and loader.keeps_ready
        try:
            await loader.async_check_model()
            check_model_missing(residency, None)
            if is_wanted:
                await loader.async_keep_ready("the server has the model again")
        except ModelNotFound as err:
            check_model_missing(residency, err)
        except ModelServerError as err:
            _LOGGER.debug("Cannot check %s: %s", residency.role.model, err.log_text)

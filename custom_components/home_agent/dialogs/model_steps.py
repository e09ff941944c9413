"""What a dialog does with the models that a form names: download and try them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, override

from homeassistant.core import HomeAssistant, callback
from homeassistant.data_entry_flow import (
    FlowContext,
    FlowHandler,
    FlowResult,
    UnknownFlow,
)

from .pulls import Pulls
from .role_check import RoleCheck
from .trials import Trials


class ModelSteps[
    ContextT: FlowContext,
    ResultT: FlowResult[Any, Any],
    HandlerT,
](FlowHandler[ContextT, ResultT, HandlerT]):
    """The part of a dialog that follows the submission of a form with models.

    A model that the server does not have is downloaded, while the dialog shows the
    progress; then the form is submitted again. Models that are there are tried. A
    dialog that is closed stops its download and unloads what it has only tried.
    """

    def __init__(self) -> None:
        """Start without a download and without a trial."""
        super().__init__()
        self._pulls: Pulls | None = None
        self._trials: Trials | None = None

    @abstractmethod
    async def _async_submit_again(self) -> ResultT:
        """Submit the form again, after a download."""

    async def _async_use_models(
        self, hass: HomeAssistant, checks: Sequence[RoleCheck], *, may_try: bool = True
    ) -> ResultT | None:
        """Return the step that downloads models; without one, try all models.

        Errors are added to checks; with an error, or without may_try, nothing is tried.
        """
        if any(check.errors for check in checks):
            return None
        if missing := [check for check in checks if check.can_be_pulled]:
            if self._pulls is None:
                self._pulls = Pulls(hass, missing, self.async_update_progress)
                return await self.async_step_pull()
            self._pulls.add_errors(missing)
            self._pulls = None
            return None
        self._pulls = None
        if self._trials is None:
            self._trials = Trials(hass)
        for check in checks if may_try else ():
            await self._trials.async_try(check)
        if self._trials.has_ended:
            # The user has closed the dialog in the meantime: nothing is saved.
            raise UnknownFlow
        return None

    async def async_step_pull(
        self, user_input: dict[str, Any] | None = None
    ) -> ResultT:
        """Show the progress of the download."""
        if self._pulls is None or self._pulls.task.done():
            return self.async_show_progress_done(next_step_id="pulled")
        return self.async_show_progress(
            step_id="pull",
            progress_action="pull",
            progress_task=self._pulls.task,
            description_placeholders={"models": self._pulls.models},
        )

    async def async_step_pulled(
        self, user_input: dict[str, Any] | None = None
    ) -> ResultT:
        """Go on after the download; raise what was not expected in it."""
        if self._pulls is not None:
            self._pulls.task.result()
        return await self._async_submit_again()

    @callback
    @override
    def async_remove(self) -> None:
        """Leave nothing behind when the dialog ends."""
        if self._trials is not None:
            self._trials.async_end()
        super().async_remove()

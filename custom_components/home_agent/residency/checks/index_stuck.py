"""The issue "index_stuck": syncs of the index have failed for some time."""

from datetime import timedelta
from typing import Final

from homeassistant.core import callback
from homeassistant.util import dt as dt_util

from ...vector_db_manager import VectorDBManager
from ..state import ModelResidency
from .issues import clear_issue, raise_issue

# How long syncs must have failed before the issue is raised: a server may be off for
# some minutes.
_LONG: Final = timedelta(minutes=15)


@callback
def check_index(residency: ModelResidency, manager: VectorDBManager) -> None:
    """Raise or clear the issue with the progress of the index."""

    @callback
    def progressed() -> None:
        progress = manager.sync.progress
        if progress.failing_since is None:
            clear_issue("index_stuck", residency)
        elif dt_util.utcnow() - progress.failing_since >= _LONG:
            raise_issue(
                "index_stuck",
                residency,
                indexed=str(progress.indexed),
                total=str(progress.total),
                error=progress.error,
            )

    residency.entry.async_on_unload(manager.sync.progressed.add(progressed))

"""The issue "index_stuck": the exposed entities cannot be indexed."""

from typing import Final

from homeassistant.core import callback

from ...vector_db_manager import VectorDBManager
from ..state import ModelResidency
from .issues import clear_issue, raise_issue

# Failed attempts in a row: with the pauses between them a quarter of an hour.
_OFTEN: Final = 5


@callback
def check_index(residency: ModelResidency, manager: VectorDBManager) -> None:
    """Raise or clear the issue with the progress of the index."""

    @callback
    def progressed() -> None:
        progress = manager.progress
        if not progress.failures:
            clear_issue("index_stuck", residency)
        elif progress.failures >= _OFTEN:
            raise_issue(
                "index_stuck",
                residency,
                indexed=str(progress.indexed),
                total=str(progress.total),
                error=progress.error,
            )

    residency.entry.async_on_unload(manager.progressed.add(progressed))

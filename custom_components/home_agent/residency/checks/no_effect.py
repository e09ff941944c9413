"""The issue "no_effect": a keep_alive is set, and the server ignores or refuses it."""

from homeassistant.core import callback

from ...servers.factory import takes_keep_alive
from ..state import ModelResidency
from .issues import clear_issue, raise_issue


@callback
def check_no_effect(residency: ModelResidency) -> None:
    """Raise or clear the issue, by the kind of the server."""
    connection = residency.coordinator.connection
    is_set = residency.role.role.key("keep_alive") in residency.subentry.data
    has_effect = connection.kind is None or (
        takes_keep_alive(connection.kind) and not connection.keep_alive_refused
    )
    if has_effect or not is_set:
        clear_issue("no_effect", residency)
        return
    raise_issue(
        "no_effect",
        residency,
        fix={"keep_alive": None},
        keep_alive=residency.keep_alive.text,
    )

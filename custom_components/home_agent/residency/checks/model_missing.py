"""The issue "model_missing": the server does not have a role's model."""

from homeassistant.core import callback
from homeassistant.helpers import issue_registry as ir

from ...servers.base import ServerCapability
from ...servers.errors import ModelNotFound
from ..state import ModelResidency
from .issues import clear_issue, raise_issue


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

"""What is wrong with the residency of models, as repairs."""

from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import issue_registry as ir

from .const import DOMAIN
from .residency import ModelResidency
from .servers.errors import ModelNotFound


@callback
def model_missing(
    hass: HomeAssistant, residency: ModelResidency, err: ModelNotFound | None
) -> None:
    """Report that a server does not have a model, or that it has."""
    issue_id = f"model_missing_{residency.subentry.subentry_id}"
    if err is None:
        ir.async_delete_issue(hass, DOMAIN, issue_id)
        return
    ir.async_create_issue(
        hass,
        DOMAIN,
        issue_id,
        is_fixable=False,
        severity=ir.IssueSeverity.ERROR,
        translation_key="model_missing",
        translation_placeholders={
            "model": residency.role.model,
            "host": err.host,
            "title": residency.subentry.title,
        },
    )

"""The notice "models_do_not_fit": a server cannot keep all models in memory together.

It is also how Home Agent remembers that: the models are not loaded one after the
other, each in place of the one before, whenever Home Assistant starts.
"""

from collections.abc import Iterable, Sequence

from homeassistant.core import callback
from homeassistant.helpers import issue_registry as ir

from ...const import DOMAIN
from ...servers.model_names import shown_model
from ..state import ModelResidency
from .issues import clear_issue, issue_id, raise_issue


@callback
def report_models_do_not_fit(
    residency: ModelResidency,
    *,
    kept: Sequence[ModelResidency],
    wanted: Sequence[ModelResidency],
) -> None:
    """Raise the notice for the model whose load made the server unload another one.

    kept are the roles whose models stay in memory, wanted all whose models are to be
    loaded before a request needs them. The others are loaded only when they are used;
    a model of several roles stays for all of them.
    """
    stays = {other.role.model for other in kept}
    raise_issue(
        "models_do_not_fit",
        residency,
        kept=_names(kept),
        waiting=_names(other for other in wanted if other.role.model not in stays),
        models=_names(wanted),
    )


@callback
def is_known_not_to_fit(
    residency: ModelResidency, wanted: Iterable[ModelResidency]
) -> bool:
    """Return whether the notice for a model is there, and about the same models.

    A notice about other models is cleared: the user has changed the settings.
    """
    registry = ir.async_get(residency.hass)
    issue = registry.async_get_issue(DOMAIN, issue_id("models_do_not_fit", residency))
    if issue is None:
        return False
    if (issue.translation_placeholders or {}).get("models") == _names(wanted):
        return True
    clear_issue("models_do_not_fit", residency)
    return False


@callback
def clear_models_do_not_fit(wanted: Iterable[ModelResidency]) -> None:
    """Clear the notice: all models have been in memory together."""
    for residency in wanted:
        clear_issue("models_do_not_fit", residency)


def _names(residencies: Iterable[ModelResidency]) -> str:
    """Return the names of models, each once."""
    names = (shown_model(item.role.model) for item in residencies)
    return ", ".join(dict.fromkeys(names))

"""What can be wrong with a model in memory: one file for each repair issue.

All checks look at what has really happened, not at what might.
"""

from homeassistant.core import callback

from ..loader import ModelLoader
from .cadence import CadenceCheck
from .keep_alive_differs import KeepAliveDiffersCheck
from .keep_alive_refused import KeepAliveRefusedCheck
from .model_missing import ModelMissingCheck
from .no_effect import check_no_effect
from .not_held import NotHeldCheck
from .num_ctx import NumCtxCheck
from .prompt_too_long import PromptTooLongCheck
from .pushed_out import PushedOutCheck


@callback
def async_start_checks(loader: ModelLoader) -> None:
    """Check the model of a role until its entry is unloaded."""
    residency = loader.residency
    check_no_effect(residency)
    CadenceCheck(residency)
    KeepAliveDiffersCheck(residency)
    KeepAliveRefusedCheck(residency)
    ModelMissingCheck(loader)
    NotHeldCheck(residency)
    NumCtxCheck(residency)
    PromptTooLongCheck(residency)
    PushedOutCheck(residency)

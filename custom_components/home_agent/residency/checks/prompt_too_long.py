"""The issue "prompt_too_long": a prompt does not fit the context of the model."""

from homeassistant.core import callback

from ...model.use import PromptSized
from ...prompt.context_size import ROOM_FOR_AN_ANSWER, prompt_room
from ...servers.base import ServerKind
from ..state import ModelResidency
from .issues import clear_issue, raise_issue


class PromptTooLongCheck:
    """Looks at each prompt of a role before it is sent."""

    def __init__(self, residency: ModelResidency) -> None:
        """Check each prompt until the entry is unloaded."""
        self._residency = residency
        residency.entry.async_on_unload(residency.use.prompt_sized.add(self._check))

    @callback
    def _check(self, prompt: PromptSized) -> None:
        """Raise the issue if the last prompt does not fit, clear it if it does."""
        residency = self._residency
        if prompt.subentry_id != residency.subentry.subentry_id:
            return
        kind = residency.coordinator.connection.kind
        limit = residency.role.context_size(kind)
        if limit is None or prompt.tokens <= prompt_room(limit):
            clear_issue("prompt_too_long", residency)
            return
        fix = None
        if kind is ServerKind.OLLAMA:
            # Room for some more entities and turns, as a power of two.
            needed = prompt.tokens + 4 * ROOM_FOR_AN_ANSWER
            fix = {"num_ctx": 1 << (needed - 1).bit_length()}
        raise_issue(
            "prompt_too_long",
            residency,
            fix=fix,
            tokens=str(prompt.tokens),
            limit=str(limit),
        )

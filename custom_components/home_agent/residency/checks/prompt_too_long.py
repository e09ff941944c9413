"""The issue "prompt_too_long": a prompt does not fit the context of the model."""

from homeassistant.core import callback

from ...model.use import PromptSized
from ...prompt.context_size import ROOM_FOR_AN_ANSWER, prompt_room
from ...servers.base import ServerKind
from ..state import ModelResidency
from .issues import clear_issue, raise_issue


class PromptTooLongCheck:
    """Looks at each prompt of a role that its server has counted or refused."""

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
        limit = residency.role.context_size(residency.coordinator.connection.kind)
        fits = limit is None or prompt.tokens <= prompt_room(limit)
        if fits and not prompt.is_refused:
            clear_issue("prompt_too_long", residency)
        elif limit is not None:
            tokens = prompt.tokens
            if prompt.is_refused:
                # The estimate may be smaller than the context, but the server says that
                # the prompt is longer.
                tokens = max(tokens, limit)
            raise_issue(
                "prompt_too_long",
                residency,
                fix=self._fix(tokens, limit),
                tokens=str(tokens),
                limit=str(limit),
            )

    def _fix(self, tokens: int, limit: int) -> dict[str, int] | None:
        """Return the data of the fix, None if no context size is large enough.

        limit is the present size. The new one has room for some more entities and
        turns, as a power of two, but not for more than the model was trained for.
        """
        residency = self._residency
        if residency.coordinator.connection.kind is not ServerKind.OLLAMA:
            return None
        needed = tokens + 4 * ROOM_FOR_AN_ANSWER
        size = 1 << (needed - 1).bit_length()
        size = min(size, residency.use.max_context or size)
        if size <= limit or tokens > prompt_room(size):
            return None
        return {"num_ctx": size}

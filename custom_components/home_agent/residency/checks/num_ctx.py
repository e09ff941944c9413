"""The issue "num_ctx": users of one model on Ollama ask for different context sizes.

Ollama loads the model again whenever the size changes from one request to the next.
"""

from collections.abc import Iterator
import logging
from typing import Any

from homeassistant.config_entries import (
    SIGNAL_CONFIG_ENTRY_CHANGED,
    ConfigEntry,
    ConfigEntryChange,
)
from homeassistant.core import callback
from homeassistant.helpers.dispatcher import async_dispatcher_connect

from ...const import DEFAULT_NUM_CTX
from ...model.role import Role
from ...model.use import PromptSized, model_uses
from ...prompt.context_size import prompt_room
from ...servers.base import ServerKind
from ...servers.errors import ModelServerError
from ..core_ollama import CORE_OLLAMA, core_ollama_models
from ..state import ModelResidency
from .issues import check_with_users, clear_issue, raise_issue

_LOGGER = logging.getLogger(__name__)


class NumCtxCheck:
    """Compares the context sizes of all users of a role's model."""

    def __init__(self, residency: ModelResidency) -> None:
        """Check now, and whenever a size may have changed.

        That is when a role that uses the model is added or removed, when the user
        changes Home Assistant's own Ollama integration, and with each prompt.
        """
        self._residency = residency
        entry, hass, use = residency.entry, residency.hass, residency.use
        is_ollama = residency.coordinator.connection.kind is ServerKind.OLLAMA
        if residency.role.role is Role.EMBEDDING or not is_ollama:
            return
        check_with_users(residency, self._check)
        for stop in (
            use.prompt_sized.add(self._prompt_sized),
            async_dispatcher_connect(
                hass, SIGNAL_CONFIG_ENTRY_CHANGED, self._entry_changed
            ),
        ):
            entry.async_on_unload(stop)
        entry.async_create_background_task(
            hass, self._async_read_max_context(), f"context of {residency.role.model}"
        )

    @callback
    def _prompt_sized(self, _: PromptSized) -> None:
        """Check again, because prompts may no longer fit the suggested size."""
        self._check()

    @callback
    def _entry_changed(self, _: ConfigEntryChange, entry: ConfigEntry[Any]) -> None:
        """Check again if Home Assistant's own Ollama integration has changed."""
        if entry.domain == CORE_OLLAMA:
            self._check()

    async def _async_read_max_context(self) -> None:
        """Read how long a context the model was trained for, and check again."""
        try:
            await self._residency.role.async_read_max_context()
        except ModelServerError as err:
            _LOGGER.debug("Cannot read the model's context: %s", err.log_text)
        if self._residency.hass.is_running:
            self._check()

    @callback
    def _check(self) -> None:
        """Raise the issue if the role should ask for another context size.

        A size that is only larger than the model was trained for is no issue: Ollama
        loads the model with what it was trained for (ModelRole.context_size).
        """
        residency, use = self._residency, self._residency.use
        own = residency.role.num_ctx
        ours = {
            user.title: user.num_ctx
            for user in use.users
            if user.num_ctx is not None
            and user.subentry_id != residency.subentry.subentry_id
        }
        core = dict(self._core_sizes())
        # A fix can only change settings of Home Agent; of those the largest stays.
        wanted = max(core.values() or (own, *ours.values()))
        wanted = min(wanted, use.max_context or wanted)
        others = {title: size for title, size in (ours | core).items() if size != own}
        if wanted == own or not others:
            clear_issue("num_ctx", residency)
            return
        raise_issue(
            "num_ctx",
            residency,
            fix={"num_ctx": wanted} if self._do_prompts_fit(wanted) else None,
            num_ctx=str(own),
            others=", ".join(f"{title}: {size}" for title, size in others.items()),
        )

    def _do_prompts_fit(self, size: int) -> bool:
        """Return whether the last prompts of all roles fit a context of a size.

        If not, the others must be changed: the fix of prompt_too_long.py would undo
        this one.
        """
        shared = self._residency.use.shared
        tokens = [
            shared.prompt_tokens.get(user.subentry_id, 0) for user in shared.users
        ]
        return max(tokens, default=0) <= prompt_room(size)

    def _core_sizes(self) -> Iterator[tuple[str, int]]:
        """Yield title and size of each user in Home Assistant's Ollama integration."""
        residency = self._residency
        url = residency.coordinator.connection.url
        uses = model_uses(residency.hass)
        for subentry, model in core_ollama_models(residency.hass, url):
            size = subentry.data.get("num_ctx", DEFAULT_NUM_CTX)
            is_same_model = uses.async_get(url, model).shared is residency.use.shared
            if is_same_model and isinstance(size, int | float):
                yield f"Ollama, {subentry.title}", int(size)

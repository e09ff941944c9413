"""The issue "num_ctx": users of one model on Ollama ask for different context sizes.

Ollama loads the model again whenever the size changes from one request to the next.
"""

from collections.abc import Iterator
from typing import Final

from homeassistant.core import callback

from ...const import DEFAULT_NUM_CTX
from ...model.role import Role
from ...servers.address import server_id
from ...servers.base import ServerKind
from ..state import ModelResidency
from .issues import clear_issue, raise_issue

_CORE_OLLAMA: Final = "ollama"


class NumCtxCheck:
    """Compares the context sizes of all users of a role's model."""

    def __init__(self, residency: ModelResidency) -> None:
        """Check now, and when a user of the model comes or goes."""
        self._residency = residency
        is_ollama = residency.coordinator.connection.kind is ServerKind.OLLAMA
        if residency.role.role is not Role.EMBEDDING and is_ollama:
            residency.entry.async_on_unload(
                residency.use.users_changed.add(self._check)
            )
            self._check()

    @callback
    def _check(self) -> None:
        """Raise the issue if the role should ask for a larger context."""
        residency = self._residency
        own = residency.role.num_ctx
        ours = {
            user.title: user.num_ctx
            for user in residency.use.users
            if user.num_ctx is not None
            and user.subentry_id != residency.subentry.subentry_id
        }
        core = dict(self._core_sizes())
        # A fix can only change settings of Home Agent; of those the largest stays.
        wanted = max(core.values() or (own, *ours.values()))
        if wanted == own:
            clear_issue("num_ctx", residency)
            return
        others = {title: size for title, size in (ours | core).items() if size != own}
        raise_issue(
            "num_ctx",
            residency,
            fix={"num_ctx": wanted},
            num_ctx=str(own),
            others=", ".join(f"{title}: {size}" for title, size in others.items()),
        )

    def _core_sizes(self) -> Iterator[tuple[str, int]]:
        """Yield title and size of each user in Home Assistant's Ollama integration."""
        residency = self._residency
        root = server_id(residency.coordinator.connection.url)
        entries = residency.hass.config_entries.async_entries(
            _CORE_OLLAMA, include_disabled=False
        )
        for entry in entries:
            # Data of another integration: it may be of any kind.
            try:
                is_same_server = server_id(str(entry.data.get("url", ""))) == root
            except ValueError:
                continue
            for subentry in entry.subentries.values() if is_same_server else ():
                size = subentry.data.get("num_ctx", DEFAULT_NUM_CTX)
                if subentry.data.get("model") == residency.role.model and isinstance(
                    size, int | float
                ):
                    yield f"Ollama, {subentry.title}", int(size)

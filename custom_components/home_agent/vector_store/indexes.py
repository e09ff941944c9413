"""The open indexes of one embedding subentry: its model's and the previous model's."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
import logging
from typing import Any

from homeassistant.core import HomeAssistant, callback

from ..servers.errors import ModelServerError
from .base import VectorStore
from .engine import async_open_store

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Index:
    """The texts and vectors of one embedding model, in their store."""

    model: str
    store: VectorStore


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How many of the exposed entities are indexed, and why no more.

    failures is the number of failed syncs since the last successful one; error is the
    log text of the last failure, "" without one.
    """

    indexed: int = 0
    total: int = 0
    failures: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """How many entities a sync left in the index, embedded and removed."""

    indexed: int
    embedded: int
    removed: int


class Indexes:
    """Opens, writes and closes the indexes of one embedding subentry.

    current belongs to the configured model, None until it is opened. previous
    belongs to the model that was configured before; it answers questions until the
    index of the current model is complete, and is None then.
    """

    def __init__(
        self, hass: HomeAssistant, config: Mapping[str, Any], model: str
    ) -> None:
        """Keep the indexes in the store of a flat configuration; open nothing yet."""
        self._hass = hass
        self._config = config
        self._model = model
        self.current: Index | None = None
        self.previous: Index | None = None
        self._opening = asyncio.Lock()
        # Held while keys are removed, so that no store is closed meanwhile.
        self._removing = asyncio.Lock()
        # Cleared while Home Assistant makes a backup.
        self._writable = asyncio.Event()
        self._writable.set()

    async def async_open(self) -> Index:
        """Return the current index; open it, and the previous one, if necessary.

        Raise a ModelServerError if the store's server fails.
        """
        async with self._opening:
            if self.current is None:
                current = await self._async_open_model(self._model)
                if previous := await current.store.other_model():
                    _LOGGER.debug(
                        "Until the index of %s is complete, %s embeds questions",
                        self._model,
                        previous,
                    )
                    self.previous = await self._async_open_model(previous)
                self.current = current
            return self.current

    async def _async_open_model(self, model: str) -> Index:
        """Return the index of a model."""
        return Index(model, await async_open_store(self._hass, self._config, model))

    async def async_write[*Ts](
        self, write: Callable[[*Ts], Awaitable[None]], *args: *Ts
    ) -> None:
        """Call a store's method that writes, after the backup if one is being made."""
        await self._writable.wait()
        await write(*args)

    async def async_remove_unless(self, is_wanted: Callable[[str], bool]) -> None:
        """Remove the keys that are not wanted from all open indexes.

        A server that fails is logged: the next complete pass removes its keys.
        """
        await self._writable.wait()
        async with self._removing:
            for index in filter(None, (self.current, self.previous)):
                try:
                    keys = await index.store.texts()
                    unwanted = [key for key in keys if not is_wanted(key)]
                    if unwanted:
                        await index.store.remove(unwanted)
                        _LOGGER.debug(
                            "Removed %d hidden entities from the index of %s",
                            len(unwanted),
                            index.model,
                        )
                except ModelServerError as err:
                    _LOGGER.debug("Cannot remove from the index: %s", err.log_text)

    async def async_close_previous(self) -> None:
        """Close the previous model's index, if there is one, and forget it."""
        async with self._removing:
            if self.previous is not None:
                previous, self.previous = self.previous, None
                await previous.store.close()

    async def async_close(self) -> None:
        """Close all open indexes."""
        await self.async_close_previous()
        async with self._removing:
            if self.current is not None:
                current, self.current = self.current, None
                await current.store.close()

    async def async_delete(self) -> None:
        """Delete the indexes of all models from their store.

        Raise a ModelServerError if the store's server fails.
        """
        current = await self.async_open()
        await self.async_close_previous()
        self.current = None
        await current.store.delete()

    async def async_hold_writes(self) -> None:
        """Bring all data into the index's file, and let writes wait from now on."""
        self._writable.clear()
        if self.current is not None:
            await self.current.store.checkpoint()

    @callback
    def release_writes(self) -> None:
        """Let waiting and later writes go on."""
        self._writable.set()

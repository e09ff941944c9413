"""The index of one embedding subentry: a store for each of its models."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
import logging
from typing import Any

from homeassistant.core import HomeAssistant, callback

from ..vector_store.base import StoreClosed, StoreError, VectorStore
from ..vector_store.engine import async_open_store

_LOGGER = logging.getLogger(__name__)


class Index:
    """Opens, writes and closes the stores of one embedding subentry.

    current belongs to the configured model, None until it is opened. previous
    belongs to the model that was configured before; it answers questions until all
    entities are in the current store, and is None then.
    """

    def __init__(
        self, hass: HomeAssistant, config: Mapping[str, Any], model: str
    ) -> None:
        """Make an index of a model; open no store yet.

        config is the configuration of the embedding role in one mapping.
        """
        self._hass = hass
        self._config = config
        self._model = model
        self.current: VectorStore | None = None
        self.previous: VectorStore | None = None
        self._is_closed = False
        # Held while stores are opened or closed, and while entities are removed.
        self._lock = asyncio.Lock()
        # Cleared while Home Assistant makes a backup.
        self._writable = asyncio.Event()
        self._writable.set()

    async def async_open(self) -> VectorStore:
        """Return the current store; open it, and the previous one, if necessary.

        Raise StoreError if a store cannot be opened, StoreClosed after async_close.
        """
        if self.current is not None:
            return self.current
        async with self._lock:
            if self._is_closed:
                raise StoreClosed
            if self.current is None:
                current = await self._async_open_model(self._model)
                try:
                    self.previous = await self._async_open_previous(current)
                except BaseException:
                    await current.close()
                    raise
                self.current = current
            return self.current

    async def _async_open_previous(self, current: VectorStore) -> VectorStore | None:
        """Return the store of the model that was configured before, if there is one."""
        if (model := await current.other_model()) is None:
            return None
        _LOGGER.debug(
            "Until the index of %s is complete, %s embeds questions",
            self._model,
            model,
        )
        return await self._async_open_model(model)

    async def _async_open_model(self, model: str) -> VectorStore:
        """Return the store of a model."""
        return await async_open_store(self._hass, self._config, model)

    async def async_write[*Ts](
        self, write: Callable[[*Ts], Awaitable[None]], *args: *Ts
    ) -> None:
        """Call a store's method that writes, after the backup if one is being made."""
        await self._writable.wait()
        await write(*args)

    async def async_remove_unless(
        self, is_wanted: Callable[[str], bool]
    ) -> tuple[dict[str, str], int]:
        """Remove the entities that are not wanted from all open stores.

        The keys of a store are entity ids. Return the texts that remain in the current
        store, by entity id, and how many were removed from it. Raise StoreError if a
        store fails.
        """
        kept: dict[str, str] = {}
        removed = 0
        async with self._lock:
            for store in filter(None, (self.previous, self.current)):
                texts = await store.texts()
                kept = {key: text for key, text in texts.items() if is_wanted(key)}
                removed = len(texts) - len(kept)
                if removed:
                    await self.async_write(store.remove, texts.keys() - kept.keys())
                    _LOGGER.debug(
                        "Removed %d entities from the index of %s", removed, store.model
                    )
        return kept, removed

    async def async_close_previous(self) -> None:
        """Close the previous model's store, if there is one, and forget it."""
        async with self._lock:
            store, self.previous = self.previous, None
            await _async_close(store)

    async def async_reopen_later(self) -> None:
        """Close all stores; the next async_open opens them again.

        A file is checked, and made again if it is damaged, when it is opened.
        """
        async with self._lock:
            stores = self.previous, self.current
            self.previous = self.current = None
            for store in stores:
                await _async_close(store)

    async def async_close(self) -> None:
        """Close all stores, and open none from now on."""
        self._is_closed = True
        self._writable.set()
        await self.async_reopen_later()

    async def async_hold_writes(self) -> None:
        """Write all data to the file of the index, and delay writes from now on.

        If the store fails, log that and do not raise: the index can be made again, but
        the backup must not fail.
        """
        self._writable.clear()
        if self.current is None:
            return
        try:
            await self.current.checkpoint()
        except StoreError as err:
            _LOGGER.warning(
                "The backup may lack the newest entries of an index: %s", err.log_text
            )

    @callback
    def release_writes(self) -> None:
        """Let the delayed writes and later ones go on."""
        self._writable.set()


async def _async_close(store: VectorStore | None) -> None:
    """Close a store, if there is one; log why that fails."""
    if store is None:
        return
    try:
        await store.close()
    except StoreError as err:
        _LOGGER.debug("Cannot close the index of %s: %s", store.model, err.log_text)

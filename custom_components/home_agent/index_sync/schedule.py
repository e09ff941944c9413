"""When the index is synced with the exposed entities, and when that is retried."""

from datetime import timedelta
import logging
from typing import Final

from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
from homeassistant.helpers import entity_registry as er
from homeassistant.helpers.start import async_at_started

from ..home.exposed import is_exposed
from ..home.exposed_tracker import exposed_entity_tracker
from ..model.use import ModelUse
from ..servers.errors import ModelServerError, ServerBusy, is_away
from ..vector_store.base import StoreClosed, StoreError
from .background import RequestedWork
from .index import Index
from .sync import IndexSync, SyncResult

_LOGGER = logging.getLogger(__name__)

# Seconds from the first change to a sync: a renamed area changes many entities.
SYNC_COOLDOWN: Final = 5.0
# Seconds from the first change to the removal of entities that are no longer exposed.
REMOVAL_COOLDOWN: Final = 0.5
# Wait after the first failed sync. It doubles with each further failure, up to
# RETRY_LAST. While a server is unavailable, it stays at RETRY_FIRST.
RETRY_FIRST: Final = timedelta(minutes=1)
RETRY_LAST: Final = timedelta(hours=1)


class IndexSchedule:
    """Syncs the index when Home Assistant has started, and when that is needed again.

    That is when exposed entities change, and after a failed sync. While the user keeps
    the model unloaded, background syncs wait, because a sync would load the model.
    Removals go on.
    """

    def __init__(
        self,
        hass: HomeAssistant,
        index: Index,
        sync: IndexSync,
        use: ModelUse,
    ) -> None:
        """Do nothing until async_start; use is that of the embedding model."""
        self._hass = hass
        self._index = index
        self._sync = sync
        self._use = use
        self._is_sync_postponed = False
        # False until Home Assistant has started: earlier, a sync would remove entities
        # that are not loaded yet.
        self._is_started = False
        self._unsubscribe: list[CALLBACK_TYPE] = []
        self._retry_in = RETRY_FIRST
        self.syncs = RequestedWork(
            hass, "sync the index", SYNC_COOLDOWN, self._async_sync
        )
        self._removals = RequestedWork(
            hass, "remove from the index", REMOVAL_COOLDOWN, self._async_remove
        )

    @callback
    def async_start(self) -> None:
        """Keep the index up to date from Home Assistant's start until async_stop."""
        self._unsubscribe = [
            async_at_started(self._hass, self._async_on_started),
            exposed_entity_tracker(self._hass).async_listen(self._exposed_changed),
            self._use.requests_changed.add(self._requests_changed),
        ]

    async def async_stop(self) -> None:
        """Stop tracking, and cancel what is running in the background."""
        self._is_started = False
        while self._unsubscribe:
            self._unsubscribe.pop()()
        await self.syncs.async_stop()
        await self._removals.async_stop()

    @callback
    def request_sync(self) -> None:
        """Sync once after SYNC_COOLDOWN, for all requests until then."""
        if self._hass.is_running and self._is_started:
            self.syncs.request()

    async def _async_on_started(self, hass: HomeAssistant) -> None:
        """Request the first sync: all entities are loaded now."""
        self._is_started = True
        self.request_sync()

    @callback
    def _exposed_changed(self) -> None:
        """Request a sync, and the removal of entities that are no longer exposed."""
        self.request_sync()
        if self._is_started and self._index.current is not None:
            self._removals.request()

    async def _async_remove(self) -> None:
        """Remove entities that are deleted or no longer exposed.

        This needs no model server.
        """
        try:
            await self._index.async_remove_unless(self._is_kept)
        except StoreError as err:
            _LOGGER.debug("Cannot remove from the index: %s", err.log_text)

    @callback
    def _is_kept(self, entity_id: str) -> bool:
        """Return whether an entity is exposed, and not deleted.

        A registered entity without a state is kept for now: its integration may be
        reloading.
        """
        return is_exposed(self._hass, entity_id) and (
            self._hass.states.get(entity_id) is not None
            or er.async_get(self._hass).async_get(entity_id) is not None
        )

    async def async_sync_now(self, *, embed_all: bool = False) -> SyncResult:
        """Sync as IndexSync.async_run does; after a failure, schedule another attempt.

        Raise what async_run raises.
        """
        try:
            result = await self._sync.async_run(embed_all=embed_all)
        except StoreClosed:
            raise
        except (ModelServerError, StoreError) as err:
            self._schedule_retry(err.log_text, is_unavailable=_is_unavailable(err))
            raise
        except Exception as err:
            self._schedule_retry(type(err).__name__, is_unavailable=False)
            raise
        self._retry_in = RETRY_FIRST
        return result

    @callback
    def _requests_changed(self) -> None:
        """Request the sync that was postponed while the model was unloaded."""
        if self._is_sync_postponed and not self._use.unloaded_by_user:
            self._is_sync_postponed = False
            self.request_sync()

    async def _async_sync(self) -> None:
        """Sync in the background; a failure is only logged."""
        if self._use.unloaded_by_user:
            _LOGGER.debug("No sync until the embedding model is used again")
            self._is_sync_postponed = True
            return
        try:
            await self.async_sync_now()
        except StoreClosed:
            _LOGGER.debug("The sync ended because the index was closed")
        except (ModelServerError, StoreError) as err:
            _LOGGER.debug("The sync failed: %s", err.log_text)
        except Exception:
            _LOGGER.exception("Unexpected error in a sync")

    @callback
    def _schedule_retry(self, reason: str, *, is_unavailable: bool) -> None:
        """Schedule the next sync after a failed one."""
        retry_in = RETRY_FIRST if is_unavailable else self._retry_in
        self._retry_in = min(2 * retry_in, RETRY_LAST)
        if self._is_started:
            _LOGGER.debug("The next sync is in %s, since: %s", retry_in, reason)
            self.syncs.request(retry_in.total_seconds())


def _is_unavailable(err: ModelServerError | StoreError) -> bool:
    """Return whether the model server or the store's server is unavailable for now."""
    return any(
        isinstance(error, ModelServerError)
        and (isinstance(error, ServerBusy) or is_away(error))
        for error in (err, err.__cause__)
    )

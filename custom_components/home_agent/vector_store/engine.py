"""The choice of the store that holds an index."""

from collections.abc import Mapping, Set as AbstractSet
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from homeassistant.core import HomeAssistant
from homeassistant.helpers.storage import STORAGE_DIR

from ..const import (
    CONF_CHROMA_API_KEY,
    CONF_CHROMA_URL,
    CONF_SUBENTRY_ID,
    CONF_VECTOR_STORE,
    DOMAIN,
)
from ..servers.session import async_get_session
from .base import StoreError, VectorStore
from .chroma import ChromaStore, async_delete_collections
from .embedded import EmbeddedStore
from .sqlite import remove_index

# The id of the index of a configuration that belongs to no subentry.
_DEFAULT_INDEX: Final = "default"


class Engine(StrEnum):
    """The kinds of store that the user can choose."""

    EMBEDDED = "embedded"
    CHROMA = "chroma"


async def async_open_store(
    hass: HomeAssistant, config: Mapping[str, Any], model: str
) -> VectorStore:
    """Return the store of a model in the index that a flat configuration describes.

    Choosing Chroma removes the file of the embedded store. Raise StoreError if the
    file cannot be used or the Chroma server fails.
    """
    index = _index_id(config)
    if config.get(CONF_VECTOR_STORE) != Engine.CHROMA:
        return await EmbeddedStore.open(index_path(hass, index), model)
    session = async_get_session(hass)
    url, key = config[CONF_CHROMA_URL], config.get(CONF_CHROMA_API_KEY)
    store = await ChromaStore.open(session, url, key, index, model)
    # The embedded index is not needed any more: both hold the same entities.
    await _async_remove_file(hass, index)
    return store


async def async_delete_index(hass: HomeAssistant, config: Mapping[str, Any]) -> None:
    """Delete the index that a flat configuration describes; its store is closed.

    Raise StoreError if the file cannot be removed or the Chroma server fails.
    """
    index = _index_id(config)
    await _async_remove_file(hass, index)
    if config.get(CONF_VECTOR_STORE) == Engine.CHROMA:
        session = async_get_session(hass)
        url, key = config[CONF_CHROMA_URL], config.get(CONF_CHROMA_API_KEY)
        await async_delete_collections(session, url, key, index)


async def _async_remove_file(hass: HomeAssistant, index: str) -> None:
    """Remove the file of an embedded index; raise StoreError if that fails."""
    try:
        await hass.async_add_executor_job(remove_index, index_path(hass, index))
    except OSError as err:
        raise StoreError(f"{type(err).__name__}: {err.strerror}") from err


async def async_delete_files_except(
    hass: HomeAssistant, indexes: AbstractSet[str]
) -> None:
    """Delete the files of all embedded indexes but those with these ids.

    Raise StoreError if a file cannot be removed.
    """

    def others() -> set[str]:
        folder = index_path(hass).parent
        # The id is the third part of a name.
        found = {path.stem.split(".")[2] for path in folder.glob(f"{DOMAIN}.index.*.*")}
        return found - indexes - {_DEFAULT_INDEX}

    for index in await hass.async_add_executor_job(others):
        await _async_remove_file(hass, index)


def _index_id(config: Mapping[str, Any]) -> str:
    """Return the id of the index of a flat configuration."""
    return config.get(CONF_SUBENTRY_ID) or _DEFAULT_INDEX


def index_path(hass: HomeAssistant, index: str = _DEFAULT_INDEX) -> Path:
    """Return the path of an embedded index, in Home Assistant's storage folder."""
    return Path(hass.config.path(STORAGE_DIR, f"{DOMAIN}.index.{index}.db"))

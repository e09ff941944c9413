"""The choice of the store that holds an index."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

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
from .base import VectorStore
from .chroma import ChromaStore
from .embedded import EmbeddedStore
from .sqlite import remove_files


class Engine(StrEnum):
    """The kinds of store that the user can choose."""

    EMBEDDED = "embedded"
    CHROMA = "chroma"


async def async_open_store(
    hass: HomeAssistant, config: Mapping[str, Any], model: str
) -> VectorStore:
    """Return the store of a model in the index that a flat configuration describes.

    Choosing Chroma removes the file of the embedded store. Raise a ModelServerError
    if the Chroma server fails.
    """
    index = config.get(CONF_SUBENTRY_ID) or "default"
    if config.get(CONF_VECTOR_STORE) != Engine.CHROMA:
        return await EmbeddedStore.open(index_path(hass, index), model)
    session = async_get_session(hass)
    url, key = config[CONF_CHROMA_URL], config.get(CONF_CHROMA_API_KEY)
    store = await ChromaStore.open(session, url, key, index, model)
    # The embedded index is not needed any more: both hold the same entities.
    await hass.async_add_executor_job(remove_files, index_path(hass, index))
    return store


def index_path(hass: HomeAssistant, index: str = "default") -> Path:
    """Return the path of an embedded index, in Home Assistant's storage folder."""
    return Path(hass.config.path(STORAGE_DIR, f"{DOMAIN}.index.{index}.db"))

"""The store on a Chroma server, by its HTTP API version 2 (Chroma 1.0 and later)."""

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from functools import wraps
import hashlib
from itertools import batched
import logging
import math
from typing import Any, Final, Self, override

import aiohttp

from ..const import DOMAIN
from ..servers.address import split_credentials
from ..servers.answers import Answer
from ..servers.errors import MalformedAnswer, ModelServerError, RequestRefused
from ..servers.http import HttpClient
from .base import DimensionChanged, StoreEmpty, StoreError, VectorStore, as_rows

_LOGGER = logging.getLogger(__name__)

_COLLECTIONS: Final = (
    "/api/v2/tenants/default_tenant/databases/default_database/collections"
)
# Fewer items than any Chroma server allows in one request (max_batch_size of its
# /api/v2/pre-flight-checks).
_PAGE: Final = 1000
# Seconds until the first byte of an answer, and between two.
_IDLE_TIMEOUT: Final = 30.0
# A search asks for this many times more keys than requested, and again this many
# times more while too many of them are not allowed.
_DEPTH_FACTOR: Final = 4


def _raises_store_error[**P, T](
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a method raise a StoreError where the server fails."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except ModelServerError as err:
            raise StoreError(err.log_text) from err

    return call


class ChromaStore(VectorStore):
    """One Chroma collection for each model.

    The collections of one index have the index's id in their metadata.
    """

    def __init__(self, http: HttpClient, url: str, index: str, model: str) -> None:
        """Use the server at url; open makes the collection."""
        super().__init__(model)
        self._http = http
        self._url = f"{url}{_COLLECTIONS}"
        self._index = index
        self._id = ""

    @classmethod
    @_raises_store_error
    async def open(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        api_key: str | None,
        index: str,
        model: str,
    ) -> Self:
        """Return the store of a model, with an existing or a new collection.

        index is the id of the index, unique among all that use the server. Raise
        StoreError if the server fails, refuses the key or is not Chroma.
        """
        http = _client(session, url, api_key)
        url, _ = split_credentials(url)
        await _collections(http, f"{url}{_COLLECTIONS}")
        store = cls(http, url, index, model)
        await store._get_or_create()
        return store

    async def _get_or_create(self) -> None:
        """Remember the id of the model's collection; create it if necessary."""
        # Names of collections allow fewer characters than names of models.
        digest = hashlib.sha256(self.model.encode()).hexdigest()[:16]
        answer = await self._http.post(
            self._url,
            {
                "name": f"{DOMAIN}-{self._index}-{digest}",
                "metadata": {DOMAIN: self._index, "model": self.model},
                "configuration": {"hnsw": {"space": "cosine"}},
                "get_or_create": True,
            },
        )
        self._id = Answer(self._http.host, answer).text("id")

    async def _collections_by_model(self) -> dict[str, Answer]:
        """Return the collections of this index by the models that they belong to."""
        return await _collections_of_index(self._http, self._url, self._index)

    @override
    @_raises_store_error
    async def texts(self) -> dict[str, str]:
        """Return the text of every key, read in pages."""
        found: dict[str, str] = {}
        while True:
            page = {"include": ["documents"], "limit": _PAGE, "offset": len(found)}
            answer = Answer(self._http.host, await self._post("get", page))
            ids, documents = answer.texts("ids"), answer.value("documents")
            if ids is None:
                raise answer.malformed("ids", "a list of texts")
            if not isinstance(documents, list) or len(documents) != len(ids):
                raise answer.malformed("documents", f"a list of {len(ids)} texts")
            known = len(found)
            # A document that is no text counts as "", so that a sync replaces it.
            texts = (text if isinstance(text, str) else "" for text in documents)
            found |= zip(ids, texts, strict=True)
            if len(ids) < _PAGE or len(found) == known:
                return found

    @override
    @_raises_store_error
    async def put(self, texts: Mapping[str, str], vectors: list[list[float]]) -> None:
        """Add or replace texts by key, with one vector for each in the same order.

        Raise DimensionChanged if the vectors' dimension is not the stored ones', and
        StoreError if a vector is unusable.
        """
        as_rows(vectors)  # checks them
        body = {
            "ids": list(texts),
            "documents": list(texts.values()),
            "embeddings": vectors,
        }
        await self._post("upsert", body)

    @override
    @_raises_store_error
    async def remove(self, keys: Iterable[str]) -> None:
        """Remove keys with their texts and vectors."""
        for page in batched(keys, _PAGE, strict=False):
            await self._post("delete", {"ids": page})

    @override
    @_raises_store_error
    async def clear(self) -> None:
        """Replace the collection by an empty one, whose dimension is still open."""
        if stored := (await self._collections_by_model()).get(self.model):
            await _drop(self._http, self._url, stored)
        await self._get_or_create()

    @override
    @_raises_store_error
    async def search(
        self, vector: list[float], limit: int, allowed: Collection[str]
    ) -> list[tuple[str, float]]:
        """Return at most limit allowed keys with their cosine similarity, -1 to 1.

        The nearest to the vector come first; Chroma's search is approximate. Raise
        StoreEmpty if the collection is empty or was lost, DimensionChanged if the
        vector's dimension is not that of the stored ones, and StoreError if it is
        unusable.
        """
        as_rows([vector])  # checks it
        # Chroma's own filter by ids fails if it does not know one of them.
        depth = _DEPTH_FACTOR * limit
        while True:
            body = {
                "query_embeddings": [vector],
                "n_results": depth,
                "include": ["distances"],
            }
            ranking = _ranking(Answer(self._http.host, await self._post("query", body)))
            if not ranking:
                raise StoreEmpty
            found = [(key, 1 - distance) for key, distance in ranking if key in allowed]
            if len(found) >= limit or len(ranking) < depth:
                return found[:limit]
            depth *= _DEPTH_FACTOR

    @override
    @_raises_store_error
    async def other_model(self) -> str | None:
        """Return the other model of this index with the most keys, None without one."""
        counts = {
            model: await self._count(collection)
            for model, collection in (await self._collections_by_model()).items()
            if model != self.model
        }
        most = max(counts, key=counts.__getitem__, default=None)
        return most if most is not None and counts[most] else None

    async def _count(self, collection: Answer) -> int:
        """Return the number of keys in a collection."""
        count = await self._http.get(f"{self._url}/{collection.text('id')}/count")
        if not isinstance(count, int):
            raise MalformedAnswer(self._http.host, "the count is not a whole number")
        return count

    @override
    @_raises_store_error
    async def drop_other_models(self) -> None:
        """Remove the collections of all other models of this index."""
        for model, collection in (await self._collections_by_model()).items():
            if model != self.model:
                await _drop(self._http, self._url, collection)

    @override
    async def checkpoint(self) -> None:
        """Do nothing: the data is not in a file on this machine."""

    @override
    async def close(self) -> None:
        """Do nothing: the HTTP session belongs to Home Assistant."""

    async def _check_dimension(self, body: Mapping[str, Any]) -> None:
        """Raise DimensionChanged if the vectors of a refused request explain it.

        Chroma names the reason only in the text of its answer, which may change.
        """
        (vector, *_) = body.get("embeddings") or body.get("query_embeddings") or ([],)
        collection = (await self._collections_by_model()).get(self.model)
        stored = collection.integer("dimension") if collection is not None else None
        if vector and stored and len(vector) != stored:
            raise DimensionChanged

    async def _post(self, operation: str, body: Mapping[str, Any]) -> Any:
        """Return the answer to an operation on the collection, such as "query".

        A collection that somebody removed on the server is created again, empty.
        """
        try:
            return await self._http.post(f"{self._url}/{self._id}/{operation}", body)
        except RequestRefused as err:
            if err.status != 404:
                await self._check_dimension(body)
                raise
        _LOGGER.debug("The collection of %s is not there: creating it", self.model)
        await self._get_or_create()
        return await self._http.post(f"{self._url}/{self._id}/{operation}", body)


@_raises_store_error
async def async_delete_collections(
    session: aiohttp.ClientSession, url: str, api_key: str | None, index: str
) -> None:
    """Delete the collections of all models of an index from the server at url.

    Raise StoreError if the server fails, refuses the key or is not Chroma.
    """
    http, collections_url = _client(session, url, api_key), f"{url}{_COLLECTIONS}"
    found = await _collections_of_index(http, collections_url, index)
    for collection in found.values():
        await _drop(http, collections_url, collection)


async def async_check_chroma(
    session: aiohttp.ClientSession, url: str, api_key: str | None
) -> None:
    """Raise a ModelServerError if no Chroma server 1.0 or later answers at url."""
    plain_url, _ = split_credentials(url)
    await _collections(_client(session, url, api_key), f"{plain_url}{_COLLECTIONS}")


def _client(
    session: aiohttp.ClientSession, url: str, api_key: str | None
) -> HttpClient:
    """Return the HTTP client for a Chroma server.

    A user and a password in url are for a proxy in front of it, which reads the header
    Authorization. Chroma takes its key in a header of its own too.
    """
    url, headers = split_credentials(url)
    if api_key and headers:
        headers["X-Chroma-Token"] = api_key
    elif api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return HttpClient(session, url, headers, _IDLE_TIMEOUT)


async def _collections(http: HttpClient, url: str) -> list[Answer]:
    """Return all collections; raise a ModelServerError if this is not Chroma."""
    answer = await http.get(url)
    if not isinstance(answer, list):
        raise http.error("a server answers, but it is not Chroma")
    return Answer(http.host, {"collections": answer}).objects("collections")


async def _collections_of_index(
    http: HttpClient, url: str, index: str
) -> dict[str, Answer]:
    """Return the collections of an index by the models that they belong to."""
    return {
        metadata.text("model"): collection
        for collection in await _collections(http, url)
        if (metadata := collection.optional_object("metadata")) is not None
        and metadata.value(DOMAIN) == index
    }


async def _drop(http: HttpClient, url: str, collection: Answer) -> None:
    """Delete a collection from the server."""
    async with http.request("DELETE", f"{url}/{collection.text('name')}"):
        pass


def _ranking(answer: Answer) -> list[tuple[str, float]]:
    """Return the keys and distances of a query's one vector, the nearest first.

    Raise MalformedAnswer if the answer does not have one distance for each key.
    """
    match answer.value("ids"), answer.value("distances"):
        case [list(keys)], [list(distances)] if len(keys) == len(distances):
            pass
        case _:
            raise answer.malformed("ids", "one list of keys with their distances")
    if not all(isinstance(key, str) for key in keys):
        raise answer.malformed("ids", "a list of texts")
    if not all(
        isinstance(distance, int | float) and math.isfinite(distance)
        for distance in distances
    ):
        raise answer.malformed("distances", "a list of numbers")
    return list(zip(keys, distances, strict=True))

"""A Chroma server as a store, over its HTTP API (version 2, Chroma 1.0 and later)."""

from collections.abc import Collection, Iterable, Mapping
import hashlib
from itertools import batched
from typing import Any, Final, Self, override

import aiohttp

from ..const import DOMAIN
from ..servers.errors import RequestRefused
from ..servers.http import HttpClient
from .base import DimensionChanged, VectorStore

_COLLECTIONS: Final = (
    "/api/v2/tenants/default_tenant/databases/default_database/collections"
)
# Below the least that a Chroma server takes in one request (/pre-flight-checks).
_PAGE: Final = 1000
_IDLE_TIMEOUT: Final = 30.0
# The ranking is read this many times deeper than asked for, and deeper still while
# too many of the best are not allowed.
_DEEPER: Final = 4


class ChromaStore(VectorStore):
    """The collection of one model; all of an index are told by their metadata."""

    def __init__(self, http: HttpClient, url: str, index: str, model: str) -> None:
        """Keep a model's vectors of an index on the server at url."""
        self._http = http
        self._url = f"{url}{_COLLECTIONS}"
        self._index = index
        self._model = model
        self._id = ""

    @classmethod
    async def open(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        api_key: str | None,
        index: str,
        model: str,
    ) -> Self:
        """Return the collection of a model, made if it is not there.

        index tells the collections of one index from all others on the server. Raise
        a ModelServerError if the server is away, refuses the key or is no Chroma.
        """
        http = _client(session, url, api_key)
        await _collections(http, f"{url}{_COLLECTIONS}")
        store = cls(http, url, index, model)
        await store._make()
        return store

    async def _make(self) -> None:
        """Make the collection, or find it."""
        # A name may have letters, digits, dots and dashes; a model's has others.
        digest = hashlib.sha256(self._model.encode()).hexdigest()[:16]
        answer = await self._http.post(
            self._url,
            {
                "name": f"{DOMAIN}-{self._index}-{digest}",
                "metadata": {DOMAIN: self._index, "model": self._model},
                "configuration": {"hnsw": {"space": "cosine"}},
                "get_or_create": True,
            },
        )
        self._id = answer["id"]

    async def _ours(self) -> dict[str, dict[str, Any]]:
        """Return the collections of this index by their models."""
        return {
            collection["metadata"]["model"]: collection
            for collection in await _collections(self._http, self._url)
            if (collection.get("metadata") or {}).get(DOMAIN) == self._index
        }

    @override
    async def texts(self) -> dict[str, str]:
        """Return the text of every key, asked for in pages."""
        found: dict[str, str] = {}
        while True:
            page = {"include": ["documents"], "limit": _PAGE, "offset": len(found)}
            answer = await self._post("get", page)
            found |= zip(answer["ids"], answer["documents"], strict=True)
            if len(answer["ids"]) < _PAGE:
                return found

    @override
    async def put(self, texts: Mapping[str, str], vectors: list[list[float]]) -> None:
        """Store texts by key with their vectors, in the same order.

        Raise DimensionChanged if the vectors are not as long as those stored.
        """
        body = {
            "ids": list(texts),
            "documents": list(texts.values()),
            "embeddings": vectors,
        }
        await self._post("upsert", body)

    @override
    async def remove(self, keys: Iterable[str]) -> None:
        """Remove keys and their vectors."""
        for page in batched(keys, _PAGE, strict=False):
            await self._post("delete", {"ids": page})

    @override
    async def clear(self) -> None:
        """Remove the collection and make a new one, of vectors of any length."""
        await self._drop((await self._ours())[self._model])
        await self._make()

    @override
    async def search(
        self, vector: list[float], limit: int, allowed: Collection[str]
    ) -> list[tuple[str, float]]:
        """Return the allowed keys nearest to a vector with their cosine similarity.

        The best come first; Chroma's search is approximate. Raise DimensionChanged
        if the vector is not as long as those stored.
        """
        # Its own filter by ids fails as soon as it does not know one of them.
        depth = _DEEPER * limit
        while True:
            body = {
                "query_embeddings": [vector],
                "n_results": depth,
                "include": ["distances"],
            }
            answer = await self._post("query", body)
            ranking = list(zip(answer["ids"][0], answer["distances"][0], strict=True))
            found = [(key, 1 - distance) for key, distance in ranking if key in allowed]
            if len(found) >= limit or len(ranking) < depth:
                return found[:limit]
            depth *= _DEEPER

    @override
    async def other_model(self) -> str | None:
        """Return the other model that most is stored of, None if there is none."""
        counts = {
            model: await self._http.get(f"{self._url}/{collection['id']}/count")
            for model, collection in (await self._ours()).items()
            if model != self._model
        }
        most = max(counts, key=counts.__getitem__, default=None)
        return most if most is not None and counts[most] else None

    @override
    async def drop_other_models(self) -> None:
        """Remove what is stored of models that are used no more."""
        for model, collection in (await self._ours()).items():
            if model != self._model:
                await self._drop(collection)

    @override
    async def delete(self) -> None:
        """Remove the collections of all models."""
        for collection in (await self._ours()).values():
            await self._drop(collection)

    @override
    async def checkpoint(self) -> None:
        """Do nothing: no file here is the store's."""

    @override
    async def close(self) -> None:
        """Do nothing: the session is Home Assistant's."""

    async def _compare(self, body: Mapping[str, Any]) -> None:
        """Raise DimensionChanged if that is why a request was refused.

        The answer says so only in its text.
        """
        (vector, *_) = body.get("embeddings") or body.get("query_embeddings") or ([],)
        stored = (await self._ours())[self._model]["dimension"]
        if vector and stored and len(vector) != stored:
            raise DimensionChanged

    async def _drop(self, collection: Mapping[str, Any]) -> None:
        """Remove a collection."""
        url = f"{self._url}/{collection['name']}"
        async with self._http.request("DELETE", url):
            pass

    async def _post(self, what: str, body: Mapping[str, Any]) -> Any:
        """Ask something of the collection.

        It may have been removed on the server: then it is made anew, empty.
        """
        try:
            return await self._http.post(f"{self._url}/{self._id}/{what}", body)
        except RequestRefused as err:
            if err.status != 404:
                await self._compare(body)
                raise
        await self._make()
        return await self._http.post(f"{self._url}/{self._id}/{what}", body)


async def async_check_chroma(
    session: aiohttp.ClientSession, url: str, api_key: str | None
) -> None:
    """Raise a ModelServerError if no Chroma server of version 1 answers at url."""
    await _collections(_client(session, url, api_key), f"{url}{_COLLECTIONS}")


def _client(
    session: aiohttp.ClientSession, url: str, api_key: str | None
) -> HttpClient:
    """Return what sends requests to a Chroma server."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return HttpClient(session, url, headers, _IDLE_TIMEOUT)


async def _collections(http: HttpClient, url: str) -> list[dict[str, Any]]:
    """Return all collections; raise a ModelServerError if it is no Chroma server."""
    answer = await http.get(url)
    if not isinstance(answer, list):
        raise http.error("it answers, but is no Chroma server")
    return answer

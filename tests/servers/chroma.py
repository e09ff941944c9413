"""A stand-in Chroma server: the requests of API version 2 that Home Agent sends."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
import math
from typing import Any

from aiohttp import web

from .stand_in import StandIn

_COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"

type _Body = dict[str, Any]


@dataclass
class _Collection:
    """A collection: documents and vectors by id."""

    id: str
    name: str
    metadata: dict[str, Any]
    documents: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, list[float]] = field(default_factory=dict)
    dimension: int | None = None

    def described(self) -> dict[str, Any]:
        """Return the collection as the server lists it."""
        return {
            "id": self.id,
            "name": self.name,
            "metadata": self.metadata,
            "dimension": self.dimension,
        }


class ChromaStandIn(StandIn):
    """A Chroma server that keeps its collections in memory."""

    def __init__(self) -> None:
        """Start without a collection."""
        super().__init__()
        self.collections: dict[str, _Collection] = {}
        self._made = 0
        self._operations: dict[
            str, Callable[[_Collection, _Body], web.StreamResponse]
        ] = {
            "get": self._get,
            "upsert": self._upsert,
            "delete": self._delete,
            "query": self._query,
        }

    async def _answer(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        """Return the answer to a request, whose path may have a collection's id."""
        self.routes = {
            ("GET", _COLLECTIONS): self._list,
            ("POST", _COLLECTIONS): self._create,
        }
        for item in self.collections.values():
            base = f"{_COLLECTIONS}/{item.id}"
            for operation in self._operations:
                self.routes["POST", f"{base}/{operation}"] = self._on(item, operation)
            self.routes["GET", f"{base}/count"] = self._counted(item)
            self.routes["DELETE", f"{_COLLECTIONS}/{item.name}"] = self._dropped(item)
        return await super()._answer(request, raw)

    async def _list(self, _request: web.Request, _body: _Body) -> web.Response:
        """List the collections."""
        return web.json_response(
            [item.described() for item in self.collections.values()]
        )

    async def _create(self, _request: web.Request, body: _Body) -> web.Response:
        """Return a collection by its name; create it if necessary."""
        name = body["name"]
        if name not in self.collections:
            self._made += 1
            self.collections[name] = _Collection(
                f"id-{self._made}", name, body["metadata"]
            )
        return web.json_response(self.collections[name].described())

    def _on(
        self, item: _Collection, operation: str
    ) -> Callable[[web.Request, _Body], Awaitable[web.StreamResponse]]:
        """Return the handler of an operation on a collection."""

        async def handle(_request: web.Request, body: _Body) -> web.StreamResponse:
            return self._operations[operation](item, body)

        return handle

    def _counted(
        self, item: _Collection
    ) -> Callable[[web.Request, _Body], Awaitable[web.StreamResponse]]:
        """Return the handler that counts the ids of a collection."""

        async def handle(_request: web.Request, _body: _Body) -> web.StreamResponse:
            return web.json_response(len(item.documents))

        return handle

    def _dropped(
        self, item: _Collection
    ) -> Callable[[web.Request, _Body], Awaitable[web.StreamResponse]]:
        """Return the handler that removes a collection."""

        async def handle(_request: web.Request, _body: _Body) -> web.StreamResponse:
            del self.collections[item.name]
            return web.json_response({})

        return handle

    def _get(self, item: _Collection, body: _Body) -> web.Response:
        """Return a page of the ids with their documents."""
        start = body["offset"]
        page = list(item.documents.items())[start : start + body["limit"]]
        return web.json_response(
            {"ids": [key for key, _ in page], "documents": [text for _, text in page]}
        )

    def _upsert(self, item: _Collection, body: _Body) -> web.Response:
        """Add or replace documents with their vectors."""
        sizes = {len(vector) for vector in body["embeddings"]}
        if sizes - {item.dimension or max(sizes)}:
            return web.json_response(self.error_body(400, "dimension"), status=400)
        item.dimension = max(sizes)
        item.documents |= zip(body["ids"], body["documents"], strict=True)
        item.vectors |= zip(body["ids"], body["embeddings"], strict=True)
        return web.json_response({})

    def _delete(self, item: _Collection, body: _Body) -> web.Response:
        """Remove ids."""
        for key in body["ids"]:
            item.documents.pop(key, None)
            item.vectors.pop(key, None)
        return web.json_response({})

    def _query(self, item: _Collection, body: _Body) -> web.Response:
        """Return the nearest ids with their cosine distances."""
        (query,) = body["query_embeddings"]
        if item.dimension not in (None, len(query)):
            return web.json_response(self.error_body(400, "dimension"), status=400)
        distances = {
            key: 1 - _cosine(query, vector) for key, vector in item.vectors.items()
        }
        best = sorted(distances, key=distances.__getitem__)[: body["n_results"]]
        return web.json_response(
            {"ids": [best], "distances": [[distances[key] for key in best]]}
        )


def _cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of two vectors."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))

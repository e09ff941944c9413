"""What the stores raise if their file is damaged or their server answers nonsense."""

import base64
import json
import logging
from typing import Any

import aiohttp
from aiohttp import web
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
import pytest

from custom_components.home_agent.servers.errors import (
    ModelServerError,
)
from custom_components.home_agent.servers.session import async_get_session
from custom_components.home_agent.vector_store.base import StoreError
from custom_components.home_agent.vector_store.chroma import (
    ChromaStore,
    async_check_chroma,
    async_delete_collections,
)
from tests.servers.stand_in import StandIn

COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"
OURS = {"home_agent": "index"}


def chroma(**answers: Any) -> StandIn:
    """Return a Chroma server that gives these answers, by operation."""
    usual = {
        "list": [],
        "create": {"id": "x", "name": "n"},
        "get": {"ids": [], "documents": []},
        "query": {"ids": [["a"]], "distances": [[0.5]]},
        "count": 0,
    }

    def reply(operation: str) -> Any:
        async def handle(_request: Any, _body: Any) -> web.Response:
            return web.json_response((usual | answers)[operation])

        return handle

    server = StandIn()
    server.routes |= {
        ("GET", COLLECTIONS): reply("list"),
        ("POST", COLLECTIONS): reply("create"),
        ("POST", f"{COLLECTIONS}/x/get"): reply("get"),
        ("POST", f"{COLLECTIONS}/x/query"): reply("query"),
        ("GET", f"{COLLECTIONS}/y/count"): reply("count"),
    }
    return server


async def use(session: aiohttp.ClientSession, url: str) -> None:
    """Call the methods of a Chroma store that read an answer."""
    store = await ChromaStore.open(session, url, None, "index", "model")
    await store.other_model()
    await store.texts()
    await store.search([1.0, 0.0], 5, {"a"})
    await store.clear()
    await async_delete_collections(session, url, None, "index")


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("create", []),
        ("create", {}),
        ("create", None),
        ("create", {"id": 1}),
        ("list", [1]),
        ("list", [{"metadata": "x"}]),
        ("list", [{"metadata": OURS}]),
        ("list", [{"metadata": {**OURS, "model": []}}]),
        ("list", [{"metadata": {**OURS, "model": "other"}}]),
        ("list", [{"metadata": {**OURS, "model": "model"}}]),
        ("get", []),
        ("get", {}),
        ("get", {"ids": [1], "documents": ["a"]}),
        ("get", {"ids": ["a"], "documents": []}),
        ("query", None),
        ("query", {}),
        ("query", {"ids": [], "distances": []}),
        ("query", {"ids": [["a"]], "distances": [[]]}),
        ("query", {"ids": [["a"]], "distances": [[None]]}),
        ("query", {"ids": [[["a"]]], "distances": [[0.5]]}),
    ],
)
async def test_malformed_answers_of_chroma(
    hass: HomeAssistant, operation: str, answer: Any
) -> None:
    """Each raises StoreError, which all callers handle."""
    async with chroma(**{operation: answer}) as server:
        with pytest.raises(StoreError) as raised:
            await use(async_get_clientsession(hass), server.url)
        assert raised.value.log_text.startswith("MalformedAnswer")


@pytest.mark.parametrize("count", [None, "1", [], {}])
async def test_malformed_count_of_chroma(hass: HomeAssistant, count: Any) -> None:
    """A count that is no number raises StoreError."""
    other = {"id": "y", "name": "n", "metadata": {**OURS, "model": "other"}}
    async with chroma(list=[other], count=count) as server:
        with pytest.raises(StoreError) as raised:
            await use(async_get_clientsession(hass), server.url)
        assert raised.value.log_text.startswith("MalformedAnswer")


async def test_repeated_page_of_chroma(hass: HomeAssistant) -> None:
    """A server that ignores the offset does not make texts() read indefinitely."""
    ids = [str(number) for number in range(1000)]
    async with chroma(get={"ids": ids, "documents": [None, *ids[1:]]}) as server:
        session = async_get_clientsession(hass)
        store = await ChromaStore.open(session, server.url, None, "index", "model")
        assert await store.texts() == {**dict(zip(ids, ids, strict=True)), "0": ""}


@pytest.mark.parametrize("key", [None, "chroma-key-1234"])
async def test_a_password_and_a_key_of_chroma_are_kept_apart(
    hass: HomeAssistant, key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has its header, and neither is in a log or an error."""
    caplog.set_level(logging.DEBUG)
    headers: list[Any] = []
    status = 200

    async def refuse(request: web.Request, _body: Any) -> web.Response:
        headers.append(request.headers)
        text = json.dumps(dict(request.headers))
        return web.json_response([] if status == 200 else text, status=status)

    async with chroma() as server:
        server.routes["GET", COLLECTIONS] = refuse
        url = server.url.replace("://", "://ada:pass-word-5678@")
        session = async_get_session(hass)
        await async_check_chroma(session, url, key)
        await ChromaStore.open(session, url, key, "index", "model")
        status = 400
        with pytest.raises(ModelServerError) as caught:
            await async_check_chroma(session, url, key)
    basic = base64.b64encode(b"ada:pass-word-5678").decode()
    for sent in headers:
        assert sent["Authorization"] == f"Basic {basic}"
        assert sent.get("X-Chroma-Token") == key
    assert len(headers) == 3
    texts = caplog.text + caught.value.detail + str(caught.value.host)
    for secret in ("pass-word-5678", basic, "chroma-key-1234"):
        assert secret not in texts

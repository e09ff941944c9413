"""A running Home Assistant and a stand-in Ollama, for tests without an event loop.

Both run on the event loop of a thread of their own: Playwright's pages are moved
from the thread of the test.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
import socket
import threading
import time
from typing import Any, Self

import aiohttp

from scripts.home_assistant import Api, make_assistant, start

from ..servers import OllamaStandIn

FLOW = "/api/config/config_entries/flow"
MODELS_PAGE = {
    "llm_model": "llama3.2:3b",
    "llm_keep_alive": "-1",
    "external_llm": {
        "external_llm_model": "llama3.2:70b",
        "external_llm_keep_alive": "2m",
    },
    "embedding": {
        "embedding_model": "nomic-embed-text:latest",
        "embedding_keep_alive": "10m",
    },
}


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _with_changes(
    schema: list[dict[str, Any]], changes: dict[str, Any]
) -> dict[str, Any]:
    """Return what a form shows, with changes."""
    values: dict[str, Any] = {}
    for item in schema:
        name = item["name"]
        if item.get("type") == "expandable":
            values[name] = _with_changes(item["schema"], changes)
        elif name in changes:
            values[name] = changes[name]
        else:
            shown = (item.get("description") or {}).get("suggested_value")
            value = item.get("default") if shown is None else shown
            if value is not None:
                values[name] = value
    return values


class House:
    """Home Assistant with the example home, and a model server for each test."""

    ollama: OllamaStandIn
    api: Api

    def __init__(self, folder: Path) -> None:
        """Use this configuration folder."""
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        """Start Home Assistant."""
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        """Start Home Assistant with the example home."""
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.api, _ = await start(
            self._stack, session, self._folder, port=free_port(), is_large=False
        )

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine that runs on the loop of the servers."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def soon(self, call: Callable[[], object]) -> None:
        """Make a call on the loop of the servers, and wait until it is made."""

        async def made() -> None:
            call()

        self.run(made())

    def get(self, path: str) -> Any:
        """Return the JSON at a path of Home Assistant."""
        return self.run(self.api.get(path))

    def post(self, path: str, body: Any = None) -> Any:
        """Return Home Assistant's answer to a request."""
        return self.run(self.api.post(path, body))

    def command(self, kind: str, **fields: Any) -> Any:
        """Return the result of a WebSocket command."""

        async def send() -> Any:
            async with self.api.socket() as web_socket:
                return await web_socket.command(kind, **fields)

        return self.run(send())

    def state(self, entity_id: str) -> str:
        """Return the state of an entity."""
        return str(self.get(f"/api/states/{entity_id}")["state"])

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of Home Agent."""
        entries = self.command("config_entries/get", domain="home_agent")
        return list(entries)

    def subentries(self) -> list[dict[str, Any]]:
        """Return the subentries of the only entry of Home Agent."""
        (entry,) = self.entries()
        found = self.command(
            "config_entries/subentries/list", entry_id=entry["entry_id"]
        )
        return list(found)

    def issues(self) -> list[str]:
        """Return the translation keys of all repair issues."""
        issues = self.command("repairs/list_issues")["issues"]
        return sorted(issue["translation_key"] for issue in issues)

    def set_up(self, models: dict[str, Any] | None = None) -> None:
        """Set up Home Agent, with all three roles unless others are given."""
        pages = {"llm_base_url": self.ollama.url}, models or MODELS_PAGE
        result = self.run(self.api.fill_in("home_agent", *pages))
        assert result["type"] == "create_entry", result
        self.wait_until(lambda: self.entries()[0]["state"] == "loaded")

    def reconfigure(self, subentry_type: str, **changes: Any) -> None:
        """Change settings of the first subentry of a type, in its dialog."""
        (entry,) = self.entries()
        subentry = next(
            item for item in self.subentries() if item["subentry_type"] == subentry_type
        )
        flow = "/api/config/config_entries/subentries/flow"
        form = self.post(
            flow,
            {
                "handler": [entry["entry_id"], subentry_type],
                "subentry_id": subentry["subentry_id"],
            },
        )
        if form["step_id"] == "server":
            form = self.post(f"{flow}/{form['flow_id']}", {})
        values = _with_changes(form["data_schema"], changes)
        result = self.post(f"{flow}/{form['flow_id']}", values)
        assert result["reason"] == "reconfigure_successful", result
        self.wait_until(lambda: self.entries()[0]["state"] == "loaded")

    def ask(self, sentence: str) -> str:
        """Return the answer of the agent."""
        answer = self.post(
            "/api/services/conversation/process?return_response",
            {"text": sentence, "agent_id": "conversation.home_agent"},
        )
        speech = answer["service_response"]["response"]["speech"]
        return str(speech["plain"]["speech"])

    def search(self, query: str) -> dict[str, Any]:
        """Return what the action that searches entities finds."""
        path = "/api/services/home_agent/search_entities?return_response"
        found: dict[str, Any] = self.post(path, {"query": query})["service_response"]
        return found

    def make_assistant(self) -> None:
        """Let the Assist dialog use the agent."""

        async def make() -> None:
            async with self.api.socket() as web_socket:
                await make_assistant(web_socket)

        self.run(make())

    def start_server(self, **options: Any) -> None:
        """Start a model server that has the models of the stand-in Ollama."""
        self.ollama = OllamaStandIn(**options)
        self.run(self.ollama.start())

    def clear(self) -> None:
        """Remove the entries of Home Agent, and stop the model server."""
        for entry in self.entries():
            path = f"/api/config/config_entries/entry/{entry['entry_id']}"
            self.run(self.api.delete(path))
        self.run(self.ollama.stop())

    @staticmethod
    def wait_until(is_true: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something is true; raise AssertionError if it does not come."""
        end = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < end, "this did not become true in time"
            time.sleep(0.2)

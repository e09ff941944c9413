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

from ..servers import ManualClock, OllamaStandIn, RuleBrain

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


class House:
    """Home Assistant with the example home, and the model server in it."""

    ollama: OllamaStandIn
    clock: ManualClock
    api: Api

    def __init__(self, folder: Path) -> None:
        """Use this configuration folder."""
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        """Start both."""
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both."""
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        """Start the model server and Home Assistant."""
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.clock = ManualClock()
        self.ollama = await self._stack.enter_async_context(
            OllamaStandIn(clock=self.clock)
        )
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

    def make_assistant(self) -> None:
        """Let the Assist dialog use the agent."""

        async def make() -> None:
            async with self.api.socket() as web_socket:
                await make_assistant(web_socket)

        self.run(make())

    def clear(self) -> None:
        """Remove the entries, and make the model server as new."""
        flows = self.command("config_entries/flow/progress")
        for flow in flows:
            self.run(self.api.delete(f"{FLOW}/{flow['flow_id']}"))
        for entry in self.entries():
            path = f"/api/config/config_entries/entry/{entry['entry_id']}"
            self.run(self.api.delete(path))
        self.soon(self._clear_server)

    def _clear_server(self) -> None:
        """Forget what tests did to the model server."""
        ollama = self.ollama
        ollama.release()
        ollama.faults.clear()
        ollama.requests.clear()
        ollama.brain = RuleBrain()
        for name in list(ollama.memory.residents):
            ollama.memory.unload(name)

    @staticmethod
    def wait_until(is_true: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something is true; raise AssertionError if it does not come."""
        end = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < end, "this did not become true in time"
            time.sleep(0.2)

"""Ten turns in a large home: what a real llama.cpp server evaluates in each.

    .venv/bin/python -m benchmarks.ten_turns [--exposed N] [--without-core]

One conversation by retrieval, and the same through Home Assistant's own llama_cpp
integration, which has the list of all entities in its prompt. Between each of them
and its server stands a recorder. New text is what a request has beyond the one
before, by the server's own template and tokenizer: the answer, the next question with
what is told beside it, and the template around them. The model's context is 8,192
tokens. See embedding_models.py for what has to be installed.
"""

import argparse
import asyncio
from dataclasses import dataclass, field
import json
from pathlib import Path
import re
from statistics import median
import time
from typing import Any, Self

import aiohttp
from aiohttp import web
from homeassistant import loader
from homeassistant.components import conversation
from homeassistant.config_entries import ConfigSubentryData
from homeassistant.core import Context, HomeAssistant
from homeassistant.helpers import frame
from homeassistant.setup import async_setup_component

import tests.ha_2026_11  # isort: skip - before the plugin
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_test_home_assistant,
)

import custom_components.home_agent
from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.model.role import ModelRole, Role, merged_config
from custom_components.home_agent.residency.primer import Primer
from scripts import llama_cpp_server

from .embedding_models import EmbeddingServer
from .home import furnish

assert tests.ha_2026_11
assert custom_components.home_agent

TEMPLATE = Path("tests/live/tools.jinja").read_text()
QUESTIONS = (
    "Say hello to Ada.",
    "Is the kitchen window open?",
    "How warm is it in the bathroom?",
    "And in the cellar?",
    "Is anybody in the hallway?",
    "How much solar power do we have?",
    "Tell me about the garage door.",
    "Is the coffee machine on?",
    "What is the pool temperature?",
    "Thank you, good night.",
)
_TIMINGS = re.compile(rb'"timings":(\{[^}]*\})')


@dataclass
class Recorder:
    """Passes requests on to a server, and keeps what it evaluated for each."""

    target: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    url: str = ""
    refusal: str = ""

    async def __aenter__(self) -> Self:
        """Begin to serve on a free port."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
        await self._runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.Response:
        raw = await request.read()
        started = time.perf_counter()
        # A session of its own: the server closes kept connections after a stream.
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session,
            session.request(
                request.method, f"{self.target}{request.path_qs}", data=raw
            ) as answer,
        ):
            body = await answer.read()
            if request.path.endswith("chat/completions"):
                if found := _TIMINGS.findall(body):
                    timings = json.loads(found[-1])
                    self.bodies.append(json.loads(raw))
                    self.evaluated.append(timings["prompt_n"])
                    self.seconds.append(time.perf_counter() - started)
                else:
                    self.refusal = body.decode()
            return web.Response(
                body=body, status=answer.status, content_type=answer.content_type
            )

    async def sizes(self) -> list[int]:
        """Return the tokens of each request's prompt."""
        found = []
        async with aiohttp.ClientSession() as session:

            async def ask(path: str, body: dict[str, Any]) -> Any:
                url = f"{self.target}{path}"
                async with session.post(url, json=body) as answer:
                    return await answer.json()

            for body in self.bodies:
                prompt = (await ask("/apply-template", body))["prompt"]
                text = {"content": prompt, "add_special": True, "parse_special": True}
                found.append(len((await ask("/tokenize", text))["tokens"]))
        return found


def subentry(kind: str, title: str, data: dict[str, Any]) -> ConfigSubentryData:
    """Return a subentry for add_entry."""
    return ConfigSubentryData(
        subentry_type=kind, title=title, data=data, unique_id=None
    )


async def add_entry(
    hass: HomeAssistant,
    domain: str,
    data: dict[str, Any],
    *subentries: ConfigSubentryData,
) -> None:
    """Set up an entry with its subentries."""
    entry = MockConfigEntry(
        domain=domain,
        version=2 if domain == DOMAIN else 1,
        data=data,
        subentries_data=subentries,
    )
    entry.add_to_hass(hass)
    assert await hass.config_entries.async_setup(entry.entry_id)
    await hass.async_block_till_done(wait_background_tasks=True)


async def ours(hass: HomeAssistant, url: str, embedding_url: str, mode: str) -> None:
    """Set up an agent of ours."""
    agent = {
        "llm_model": "smollm2",
        "llm_hass_api": ["assist"],
        "llm_max_tokens": 16,
        "llm_temperature": 0.0,
        "llm_warm_up": False,
        "entity_mode": mode,
    }
    embedding = {
        "embedding_base_url": embedding_url,
        "embedding_model": "minilm",
        "embedding_warm_up": False,
    }
    await add_entry(
        hass,
        DOMAIN,
        {"llm_base_url": url},
        subentry("conversation", mode, agent),
        subentry("embedding", "Embedding", embedding),
    )
    (entry,) = hass.config_entries.async_entries(DOMAIN)
    (manager,) = entry.runtime_data.vector_db_managers.values()
    await manager.sync.async_run()


async def core(hass: HomeAssistant, url: str) -> None:
    """Set up Home Assistant's own integration."""
    agent = {
        "chat_model": "smollm2",
        "llm_hass_api": ["assist"],
        "max_tokens": 16,
        "temperature": 0.0,
        "streaming": True,
    }
    await add_entry(
        hass,
        "llama_cpp",
        {"base_url": f"{url}/v1", "api_key": "none"},
        subentry("conversation", "core", agent),
    )


async def talk(hass: HomeAssistant, name: str, recorder: Recorder) -> None:
    """Ask all questions in one conversation, and print what each cost."""
    agent_id = next(
        state.entity_id
        for state in hass.states.async_all("conversation")
        if state.name == name
    )
    conversation_id = None
    requests = []
    for question in QUESTIONS:
        before = len(recorder.bodies)
        answer = await conversation.async_converse(
            hass, question, conversation_id, Context(), "en", agent_id
        )
        conversation_id = answer.conversation_id
        requests.append(range(before, len(recorder.bodies)))
    if not all(requests):
        print(f"\n{name}: the server refuses: {recorder.refusal}")
        return
    sizes = await recorder.sizes()
    print(f"\n{name} | prompt tokens | new text | evaluated | ratio | seconds")
    ratios = []
    for turn, indices in enumerate(requests, 1):
        evaluated = sum(recorder.evaluated[index] for index in indices)
        first, last = indices[0], indices[-1]
        new = sizes[last] - (sizes[first - 1] if first else 0)
        seconds = sum(recorder.seconds[index] for index in indices)
        ratios.append(evaluated / new)
        print(
            f"turn {turn} | {sizes[last]} | {new} | {evaluated} |"
            f" {evaluated / new:.3f} | {seconds:.2f}"
        )
    print(
        f"turns 2 to 10: ratio at most {max(ratios[1:]):.3f}, median"
        f" {median(ratios[1:]):.3f}"
    )


async def prompt_tokens(hass: HomeAssistant) -> int:
    """Return the tokens of the agent's prompt and tools, before any question."""
    (entry,) = hass.config_entries.async_entries(DOMAIN)
    subentry, _ = entry.subentries.values()
    primer: Primer = entry.runtime_data.primers[subentry.subentry_id]
    assert primer.make_prefix
    role = ModelRole(hass, merged_config(entry, subentry), Role.LLM)
    messages, tools = await primer.make_prefix(None)
    server = await role.server()
    request = role.chat_request(messages, KeepAlive.parse("5m"), tools)
    return await server.count_tokens(request) or 0


async def run(exposed: int, *, with_core: bool) -> None:
    """Print the tables."""
    async with EmbeddingServer() as embedding, async_test_home_assistant() as hass:
        frame.async_setup(hass)
        hass.data.pop(loader.DATA_CUSTOM_COMPONENTS, None)
        for component in ("homeassistant", "intent", "llm", "conversation"):
            assert await async_setup_component(hass, component, {})
        furnish(hass, exposed)
        server = llama_cpp_server.start(num_ctx=512, chat_template=TEMPLATE)
        for mode in ("assist", "retrieval"):
            await ours(hass, server.listening_address, embedding.url, mode)
            tokens = await prompt_tokens(hass)
            print(f"{exposed} exposed entities, mode {mode!r}: {tokens} prompt tokens")
            for entry in hass.config_entries.async_entries():
                await hass.config_entries.async_remove(entry.entry_id)
        del server
        for name in ("retrieval", *(("core",) if with_core else ())):
            server = llama_cpp_server.start(num_ctx=40960, chat_template=TEMPLATE)
            async with Recorder(server.listening_address) as recorder:
                if name == "core":
                    await core(hass, recorder.url)
                else:
                    await ours(hass, recorder.url, embedding.url, name)
                await talk(hass, name, recorder)
                for entry in hass.config_entries.async_entries():
                    await hass.config_entries.async_remove(entry.entry_id)
            del server
        await hass.async_stop(force=True)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--exposed", type=int, default=500)
    parser.add_argument("--without-core", action="store_true")
    options = parser.parse_args()
    asyncio.run(run(options.exposed, with_core=not options.without_core))


if __name__ == "__main__":
    main()

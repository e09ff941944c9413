"""A model that the server does not have is downloaded in the dialog."""

import asyncio
from typing import Any

from aiohttp import web
from homeassistant.core import Event, HomeAssistant
from homeassistant.data_entry_flow import EVENT_DATA_ENTRY_FLOW_PROGRESS_UPDATE
import pytest

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.dialogs.model_select import (
    CHAT_MODELS,
    EMBEDDING_MODELS,
)
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn, OpenAIStandIn
from tests.servers.ollama_models import GIB, StandInModel
from tests.unit.test_config_flow import Dialogs, fields, options, suggested

QWEN = StandInModel("qwen3:4b")
BGE = StandInModel("bge-m3:latest", ("embedding",), GIB)


async def after_download(home: HomeAssistant, browser: Dialogs) -> dict[str, Any]:
    """Return what comes after a download; the page asks for it by itself."""
    await home.async_block_till_done(wait_background_tasks=True)
    return await browser.fill_in()


async def test_an_empty_ollama_is_set_up(home: HomeAssistant, browser: Dialogs) -> None:
    """Both models are chosen from the list, downloaded with progress, and used."""
    progress: list[float] = []

    async def note(event: Event) -> None:
        progress.append(event.data["progress"])

    home.bus.async_listen(EVENT_DATA_ENTRY_FLOW_PROGRESS_UPDATE, note)
    async with OllamaStandIn(()) as server:
        server.library = {"qwen3:4b": QWEN, "bge-m3": BGE}
        await browser.start()
        form = await browser.fill_in(llm_base_url=server.url)
        assert form["description_placeholders"]["count"] == "0"
        names = options(form, "llm_model")
        assert names == [model.name for model in CHAT_MODELS]
        # The one that docs/FIRST_TEN_MINUTES.md recommends.
        assert names[0] == "llama3.2:3b"
        listed = options(form, "embedding_model", "embedding")
        assert listed == [model.name for model in EMBEDDING_MODELS]
        shown = await browser.fill_in(
            llm_model="qwen3:4b",
            llm_keep_alive="45m",
            embedding={"embedding_model": "bge-m3"},
        )
        assert (shown["type"], shown["step_id"]) == ("progress", "pull")
        assert shown["description_placeholders"] == {"models": "qwen3:4b, bge-m3"}
        result = await after_download(home, browser)
        assert result["type"] == "create_entry"
        await home.async_block_till_done()
        assert progress == [0, 0.5, 1, 0, 0.5, 1]
        assert [body["model"] for body in server.sent("/api/pull")] == [
            *("qwen3:4b", "bge-m3"),
        ]
        (entry,) = home.config_entries.async_entries(DOMAIN)
        assert len(entry.subentries) == 3
        assert server.sent("/api/chat")[0]["keep_alive"] == "45m"
        assert home.states.get("conversation.home_agent")


async def test_a_name_that_cannot_be_downloaded(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """The form comes back with the server's reason, and with what was written."""
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)
    shown = await browser.fill_in(llm_model="qwen33:4b", llm_keep_alive="45m")
    assert shown["type"] == "progress"
    form = await after_download(home, browser)
    assert form["errors"] == {"llm_model": "model_pull_failed"}
    error = form["description_placeholders"]["error"]
    assert error == "pull model manifest: file does not exist"
    assert suggested(form) == {"llm_model": "qwen33:4b", "llm_keep_alive": "45m"}
    # The next try downloads again.
    ollama.library["qwen33:4b"] = StandInModel("qwen33:4b")
    await browser.fill_in(llm_model="qwen33:4b", llm_keep_alive="45m")
    result = await after_download(home, browser)
    assert result["type"] == "create_entry"


async def test_a_role_gets_a_model_that_is_downloaded(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """When the form comes back, the list has the model among those of the server."""
    entry = await make_entry(ollama.url, conversation={})
    ollama.library["qwen3:4b"] = StandInModel("qwen3:4b", ("completion",))
    form = await browser.start([entry.entry_id, "conversation"])
    names = options(form, "llm_model")
    assert names[:4] == ["llama3.2:3b", "llama3.2:70b", "llava:7b", "qwen3:8b"]
    assert names[4:] == [
        model.name
        for model in CHAT_MODELS
        if model.name not in ("llama3.2:3b", "qwen3:8b")
    ]
    values = {"llm_model": "qwen3:4b", "advanced": {}}
    shown = await browser.fill_in(**values, llm_hass_api=["assist"])
    assert shown["type"] == "progress"
    form = await after_download(home, browser)
    assert form["errors"] == {"llm_hass_api": "model_cannot_use_tools"}
    select = fields(form)["llm_model"]["selector"]["select"]
    assert {"value": "qwen3:4b", "label": "qwen3:4b"} in select["options"]
    result = await browser.fill_in(**values)
    assert result["type"] == "create_entry"


async def test_a_closed_dialog_stops_the_download(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """Nobody waits for it any more; the server keeps what it has."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def pull(request: web.Request, _: object) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"status":"pulling","total":4,"completed":1}\n')
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return response

    ollama.routes["POST", "/api/pull"] = pull
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)
    shown = await browser.fill_in(llm_model="qwen3:4b")
    await began.wait()
    home.config_entries.flow.async_abort(shown["flow_id"])
    await ended.wait()
    await home.async_block_till_done(wait_background_tasks=True)
    assert not home.config_entries.async_entries(DOMAIN)


@pytest.mark.parametrize("model", ["local-model", "gone"])
async def test_a_server_that_cannot_download(browser: Dialogs, model: str) -> None:
    """Its list has only its own models, and a missing one is an error."""
    async with OpenAIStandIn() as server:
        await browser.start()
        form = await browser.fill_in(llm_base_url=server.url)
        assert options(form, "llm_model") == ["local-embedding", "local-model"]
        result = await browser.fill_in(llm_model=model)
        expected = {"llm_model": "model_not_found"} if model == "gone" else None
        assert result.get("errors") == expected

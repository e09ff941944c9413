"""The stand-ins answer as real servers did (tests/recorded, Ollama v0.24.0)."""

from collections.abc import AsyncIterator
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.recorded.exchange import Exchange, load_folder
from tests.servers import OllamaStandIn, Reply, RuleBrain, StandInModel, ToolUse
from tests.servers.others import LlamaCppStandIn

FOLDER = Path(__file__).parents[1] / "recorded" / "ollama"
TABLE = FOLDER.with_name("ollama_refusals.json")
REFUSALS: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
EXCHANGES = load_folder(FOLDER)
TURN_ON = [ToolUse("turn_on", {"name": "lamp"}), ToolUse("turn_on", {"name": "fan"})]
# What the real model answered, so far as the shape of an answer depends on it.
REPLIES = {
    "tools_call": Reply(tools=(TURN_ON[0],)),
    "tools_two_calls": Reply(tools=tuple(TURN_ON)),
    # A call that is cut off is no text and no call.
    "tools_cut_call": Reply(finish_reason="length", chunks=()),
    "v1_tools_call": Reply(tools=(TURN_ON[0],)),
    "chat_logprobs": Reply(
        "Yes", finish_reason="length", logprobs=(("Yes", -0.5), ("No", -1.5))
    ),
}
# Real models have more to show than a stand-in. The first token takes no time to
# generate: it comes with the evaluation of the prompt.
MORE = {"show": {"tensors", "model_info"}, "chat_logprobs_whole": {"eval_duration"}}


@pytest.fixture
async def server(socket_enabled: None) -> AsyncIterator[OllamaStandIn]:
    """Return a stand-in with the models that the real server had."""
    plain = StandInModel(
        "smollm2:135m", ("completion",), file="smollm2", context_length=8192
    )
    tools = StandInModel(
        "smollm2-tools:135m",
        ("completion", "tools"),
        file="smollm2",
        context_length=8192,
    )
    async with OllamaStandIn([plain, tools], version="0.24.0") as stand_in:
        yield stand_in


async def send(
    url: str, method: str, path: str, body: Any, headers: dict[str, str] | None = None
) -> aiohttp.ClientResponse:
    """Return the answer to a request; a body that is a text is sent as it is."""
    if body is not None and not isinstance(body, str):
        body = json.dumps(body)
    async with aiohttp.ClientSession() as session:
        answer = await session.request(
            method,
            URL(url + path, encoded=True),
            data=body,
            headers={"Content-Type": "application/json", **(headers or {})},
            allow_redirects=False,
        )
        await answer.read()
        return answer


async def test_refusals(server: OllamaStandIn) -> None:
    """Each wrong request has the status and the text that the real server gave."""
    wrong = []
    for row in REFUSALS:
        method, path = row["request"].split(" ", 1)
        answer = await send(
            server.url, method, path, row.get("body"), row.get("headers")
        )
        text = await answer.text()
        try:
            said = json.loads(text)
        except ValueError:
            said = text
        if (answer.status, said) != (row["status"], row["answer"]):
            wrong.append((row, answer.status, said))
    assert len(REFUSALS) > 400
    assert not wrong


@pytest.mark.parametrize("name", EXCHANGES)
async def test_shape_of_answers(server: OllamaStandIn, name: str) -> None:
    """Each answer has the same fields, with values of the same types."""
    recorded = EXCHANGES[name]
    subject = name.rpartition("_")[0]
    reply = REPLIES.get(subject, Reply("One two three", finish_reason="length"))
    server.brain = RuleBrain([reply])
    if "loaded" in name:
        await send(server.url, "POST", "/api/generate", {"model": "smollm2:135m"})
    answer = await send(server.url, recorded.method, recorded.path, recorded.body)
    assert answer.status == recorded.status
    assert answer.content_type == content_type(recorded)
    ours = Exchange("", "", 200, (await answer.read(),))
    assert shape(parsed(ours), MORE.get(name, ())) == shape(
        parsed(recorded), MORE.get(name, ())
    )


async def test_the_stand_in_of_llama_cpp(socket_enabled: None) -> None:
    """What it has of /props and of errors is as a real llama.cpp has it."""
    recorded = load_folder(FOLDER.with_name("llama_cpp"))
    body = recorded["apply_template"].body
    async with LlamaCppStandIn(models=["tiny"]) as stand_in:

        async def answer(method: str, path: str, body: Any = None) -> Any:
            return await (await send(stand_in.url, method, path, body)).json()

        props = await answer("GET", "/props")
        template = await answer("POST", "/apply-template", body)
        tokens = await answer("POST", "/tokenize", recorded["tokenize"].body)
        stand_in.state = "loading"
        assert await answer("GET", "/props") == recorded["props_loading"].json
    real = recorded["props"].json
    settings = real["default_generation_settings"]
    real["default_generation_settings"] = {"n_ctx": settings["n_ctx"]}
    assert shape(props) == shape({key: real[key] for key in props})
    assert shape(template) == shape(recorded["apply_template"].json)
    assert shape(tokens) == shape(recorded["tokenize"].json)


async def test_the_recorded_prompt_that_was_cut(server: OllamaStandIn) -> None:
    """A prompt that is too long is cut to the context without a word."""
    recorded = EXCHANGES["chat_cut_prompt"]
    answer = await send(server.url, "POST", "/api/chat", recorded.body)
    count = recorded.json["prompt_eval_count"]
    assert (await answer.json())["prompt_eval_count"] == count == 16


def content_type(exchange: Exchange) -> str:
    """Return the type of an answer without its charset."""
    return exchange.headers["content-type"].partition(";")[0]


def parsed(exchange: Exchange) -> Any:
    """Return an answer: its JSON, or the lines of a stream, or its text."""
    for read in (
        lambda: exchange.json,
        lambda: exchange.lines,
        lambda: exchange.events,
    ):
        try:
            value = read()
        except ValueError:
            continue
        # Each kind of line counts once: how many there are is the model's matter.
        return value if isinstance(value, dict) else {"lines": value}
    return exchange.raw.decode()


def shape(value: Any, more: Any = ()) -> Any:
    """Return the fields and types of a JSON value.

    Of a list, only the different shapes in it count; more are fields left out.
    """
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key not in more}
    if isinstance(value, list):
        shapes = sorted({json.dumps(shape(item), sort_keys=True) for item in value})
        return [json.loads(item) for item in shapes]
    if isinstance(value, bool):
        return value
    return "number" if isinstance(value, int | float) else type(value).__name__

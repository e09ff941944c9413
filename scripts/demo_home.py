"""Start Home Assistant with an example home and set up Home Agent in it.

All of it goes over the same HTTP and WebSocket calls that the web interface makes.
"""

import argparse
import asyncio
from contextlib import AsyncExitStack
import signal
import sys
from typing import Any, Final, Protocol

import aiohttp

from .home_assistant import ROOT, Api, answers, make_assistant, process, start, wait_for

OLLAMA: Final = "http://127.0.0.1:11434"
LLAMA_CPP_NOTE: Final = """
demo: using a real llama.cpp server with SmolLM2-135M, which needs 100 MB of memory.
demo: What to expect: real answers as they are generated, real loading and unloading.
demo: This model is about fifty times smaller than one for daily use. It only chats:
demo: it cannot use tools, so it controls nothing, and much of what it says is wrong.
"""
READY: Final = """
demo: ready at {url} - you are signed in already.
demo: Open Assist (top right) and try:
demo:   turn on the kitchen light
demo:   close all blinds on the ground floor
demo:   what is the temperature in the bedroom? ... and in the office?
demo:   is any window open?
demo:   turn everything off in the basement
demo: Ctrl-C ends it.
"""


class Poster(Protocol):
    """What sends requests to Home Assistant's HTTP API."""

    async def post(self, path: str, body: Any = None, *, form: bool = False) -> Any:
        """Return the JSON of an answer."""


def choose_models(form: dict[str, Any]) -> dict[str, Any]:
    """Return what to fill in for the models that a server has.

    The form has no keep_alive for a server that ignores it.
    """
    schema = {item["name"]: item for item in form["data_schema"]}
    embedding = {item["name"]: item for item in schema["embedding"]["schema"]}

    def choices(field: dict[str, Any]) -> list[str]:
        """Return the models that the server has; the others have a label."""
        options = field["selector"]["select"]["options"]
        names = [item if isinstance(item, str) else item["value"] for item in options]
        labels = [item if isinstance(item, str) else item["label"] for item in options]
        return [n for n, label in zip(names, labels, strict=True) if n == label]

    models = choices(schema["llm_model"])
    if not models:
        raise RuntimeError("the server has no model that can chat")
    values: dict[str, Any] = {"llm_model": models[0]}
    if {"llama3.2:3b", "llama3.2:70b"} <= set(models):
        values["llm_model"] = "llama3.2:3b"
        values["external_llm"] = {
            "external_llm_model": "llama3.2:70b",
            "external_llm_keep_alive": "2m",
        }
    if "llm_keep_alive" in schema:
        values["llm_keep_alive"] = "-1"
    embedders = [
        name for name in choices(embedding["embedding_model"]) if "emb" in name
    ]
    if embedders:
        values["embedding"] = {
            "embedding_model": embedders[0],
            "embedding_keep_alive": "10m",
        }
    return values


async def set_up_home_agent(api: Poster, server: str) -> None:
    """Go through Home Agent's own dialogs."""
    flow = "/api/config/config_entries/flow"
    form = await api.post(flow, {"handler": "home_agent"})
    path = f"{flow}/{form['flow_id']}"
    form = await api.post(path, {"llm_base_url": server})
    if form.get("step_id") != "models":
        raise RuntimeError(f"{server}: {form.get('errors') or form}")
    print(f"demo: Home Agent found {form['description_placeholders']}", flush=True)
    choice = choose_models(form)
    result = await api.post(path, choice)
    if result["type"] == "form":
        # A model that could not be tried, or not in time, is accepted the second time.
        print(f"demo: the dialog says {result['errors']}", flush=True)
        result = await api.post(path, choice)
    if result["type"] != "create_entry":
        raise RuntimeError(f"{server}: {result.get('errors') or result}")


async def check(api: Api) -> bool:
    """Return whether the agent turns on the kitchen light."""
    sentence = "turn on the kitchen light"
    answer = await api.post(
        "/api/services/conversation/process?return_response",
        {"text": sentence, "agent_id": "conversation.home_agent"},
    )
    said = answer["service_response"]["response"]["speech"]["plain"]["speech"]
    state = "?"
    for _ in range(50):
        state = (await api.get("/api/states/light.kitchen_light"))["state"]
        if state == "on":
            break
        await asyncio.sleep(0.1)
    print(f"demo: {sentence!r} -> {said!r}, the light is {state}", flush=True)
    return bool(state == "on")


async def model_server(
    arguments: argparse.Namespace, session: aiohttp.ClientSession, stack: AsyncExitStack
) -> str:
    """Return the address of the model server to use, started where needed."""
    if arguments.server:
        print(f"demo: using the model server at {arguments.server}", flush=True)
        return str(arguments.server)
    if arguments.llama_cpp:
        print(LLAMA_CPP_NOTE, flush=True)
        command = (sys.executable, "-m", "scripts.llama_cpp_server", "--port", "11436")
        await stack.enter_async_context(process(*command))
        url = "http://127.0.0.1:11436"
        await wait_for(session, f"{url}/v1/models", "llama.cpp")
        return url
    if await answers(session, f"{OLLAMA}/api/version"):
        print(f"demo: using the Ollama at {OLLAMA}", flush=True)
        return OLLAMA
    print("demo: no Ollama here, using a stand-in that understands simple commands")
    command = (sys.executable, "-m", "tests.servers", "--load-seconds", "2")
    await stack.enter_async_context(process(*command))
    await wait_for(session, f"{OLLAMA}/api/version", "the stand-in Ollama")
    return OLLAMA


async def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return the exit status."""
    shown_url = f"http://localhost:{arguments.port}"
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if await answers(session, f"http://127.0.0.1:{arguments.port}"):
            print(f"demo: something runs at {shown_url} already", file=sys.stderr)
            return 1
        server = await model_server(arguments, session, stack)
        api, hass = await start(
            stack,
            session,
            ROOT / ".demo",
            port=arguments.port,
            is_large=arguments.large,
        )
        await set_up_home_agent(api, server)
        async with api.socket() as socket:
            await make_assistant(socket)
        if arguments.check:
            return 0 if await check(api) else 1
        print(READY.format(url=shown_url), flush=True)
        await hass.wait()
        return 0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line, by default of this program's own."""
    parser = argparse.ArgumentParser(description="Home Agent in an example home")
    parser.add_argument("--server", help="the address of a model server")
    parser.add_argument(
        "--llama-cpp", action="store_true", help="a real server with a tiny model"
    )
    parser.add_argument(
        "--large", action="store_true", help="add forty guest rooms to the home"
    )
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument(
        "--check", action="store_true", help="turn on the kitchen light, and stop"
    )
    return parser.parse_args(arguments)


def main() -> None:
    """Read the command line and run the demo."""
    arguments = parse_arguments()
    # A stop from outside ends the servers too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(asyncio.run(run(arguments)))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()

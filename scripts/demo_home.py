"""Start Home Assistant with a small home and set up Home Agent in it.

All of it goes over the same HTTP and WebSocket calls that the web interface makes.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
import json
from pathlib import Path
import shutil
import signal
import sys
from typing import Any, Final, Protocol

import aiohttp

ROOT: Final = Path(__file__).parent.parent
CONFIG: Final = ROOT / ".demo"
URL: Final = "http://127.0.0.1:8123"
SHOWN_URL: Final = "http://localhost:8123"
OLLAMA: Final = "http://127.0.0.1:11434"
START_TIMEOUT: Final = 300

# Floor, area, domain, name.
HOME: Final = (
    ("Ground Floor", "Kitchen", "light", "Kitchen Light"),
    ("Ground Floor", "Kitchen", "switch", "Coffee Machine"),
    ("Ground Floor", "Living Room", "light", "Ceiling Lamp"),
    ("Ground Floor", "Living Room", "light", "Reading Lamp"),
    ("Ground Floor", "Living Room", "cover", "Living Room Blinds"),
    ("Upper Floor", "Bedroom", "light", "Bedside Lamp"),
    ("Upper Floor", "Bedroom", "sensor", "Bedroom Temperature"),
    ("Upper Floor", "Bathroom", "light", "Mirror Light"),
    ("Upper Floor", "Bathroom", "sensor", "Bathroom Humidity"),
)
SENSORS: Final = {
    "Bedroom Temperature": ("temperature", "°C", "19.5"),
    "Bathroom Humidity": ("humidity", "%", "58"),
}


def slug(name: str) -> str:
    """Return the name as a part of an entity id."""
    return name.lower().replace(" ", "_")


def template_entity(domain: str, name: str) -> dict[str, Any]:
    """Return an entity without hardware, remembered by an input_boolean."""
    entity: dict[str, Any] = {"name": name, "unique_id": slug(name)}
    if domain == "sensor":
        device_class, unit, state = SENSORS[name]
        return entity | {
            "device_class": device_class,
            "unit_of_measurement": unit,
            "state": f"{{{{ {state} }}}}",
        }
    helper = f"input_boolean.{slug(name)}"
    on, off = (
        {"action": f"input_boolean.turn_{value}", "target": {"entity_id": helper}}
        for value in ("on", "off")
    )
    if domain == "cover":
        return entity | {
            "state": f"{{{{ 'open' if is_state('{helper}', 'on') else 'closed' }}}}",
            "open_cover": on,
            "close_cover": off,
        }
    entity |= {
        "state": f"{{{{ is_state('{helper}', 'on') }}}}",
        "turn_on": on,
        "turn_off": off,
    }
    if domain == "light":
        level = f"input_number.{slug(name)}"
        entity |= {
            "level": f"{{{{ states('{level}') | int }}}}",
            "set_level": [
                {
                    "action": "input_number.set_value",
                    "target": {"entity_id": level},
                    "data": {"value": "{{ brightness }}"},
                },
                on,
            ],
        }
    return entity


def configuration() -> dict[str, Any]:
    """Return the configuration of Home Assistant."""
    by_domain: dict[str, list[dict[str, Any]]] = {}
    for _, _, domain, name in HOME:
        by_domain.setdefault(domain, []).append(template_entity(domain, name))
    switched = [name for _, _, domain, name in HOME if domain != "sensor"]
    lights = [name for _, _, domain, name in HOME if domain == "light"]
    return {
        "homeassistant": {
            "name": "Demo Home",
            "time_zone": "Europe/Berlin",
            "unit_system": "metric",
            "auth_providers": [
                {
                    "type": "trusted_networks",
                    "trusted_networks": ["127.0.0.1", "::1"],
                    "allow_bypass_login": True,
                },
                {"type": "homeassistant"},
            ],
        },
        "http": {"server_host": "127.0.0.1"},
        "frontend": {},
        "config": {},
        "conversation": {},
        "assist_pipeline": {},
        "history": {},
        "logbook": {},
        "input_boolean": {slug(name): {"name": name} for name in switched},
        "input_number": {
            slug(name): {"name": name, "min": 0, "max": 255, "initial": 180}
            for name in lights
        },
        "template": [{domain: items} for domain, items in by_domain.items()],
        "logger": {
            "default": "warning",
            "logs": {
                "custom_components.home_agent": "info",
                # The demo does not need ffmpeg and libturbojpeg.
                "haffmpeg": "fatal",
                "homeassistant.components.camera": "fatal",
                "homeassistant.components.ffmpeg": "fatal",
            },
        },
    }


def prepare_folder() -> None:
    """Make a new configuration folder, with this checkout's integration in it."""
    shutil.rmtree(CONFIG, ignore_errors=True)
    (CONFIG / "custom_components").mkdir(parents=True)
    (CONFIG / "custom_components" / "home_agent").symlink_to(
        ROOT / "custom_components" / "home_agent"
    )
    # The other steps of the onboarding set up integrations that go online.
    done = {"done": ["core_config", "analytics", "integration"]}
    onboarding = {"version": 4, "minor_version": 1, "key": "onboarding", "data": done}
    (CONFIG / ".storage").mkdir()
    (CONFIG / ".storage" / "onboarding").write_text(json.dumps(onboarding))
    # JSON is YAML.
    text = json.dumps(configuration(), indent=2, ensure_ascii=False)
    (CONFIG / "configuration.yaml").write_text(text, encoding="utf-8")


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program for as long as the demo runs."""
    running = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.terminate()
            await running.wait()


async def answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether anything answers at an address."""
    try:
        async with session.get(url) as response:
            return response.status < 500
    except aiohttp.ClientError:
        return False


async def wait_for(session: aiohttp.ClientSession, url: str, what: str) -> None:
    """Wait until something answers; raise TimeoutError if nothing does."""
    async with asyncio.timeout(START_TIMEOUT):
        while not await answers(session, url):
            await asyncio.sleep(0.3)
    print(f"demo: {what} is up", flush=True)


class Poster(Protocol):
    """What sends requests to Home Assistant's HTTP API."""

    async def post(self, path: str, body: Any = None, *, form: bool = False) -> Any:
        """Return the JSON of an answer."""


class Api:
    """Home Assistant's HTTP and WebSocket API, signed in as the demo's user."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Start signed out."""
        self._session = session
        self._headers: dict[str, str] = {}
        self._token = ""

    async def post(self, path: str, body: Any = None, *, form: bool = False) -> Any:
        """Return the JSON of an answer."""
        content: dict[str, Any] = {"data" if form else "json": body}
        async with self._session.post(
            URL + path, headers=self._headers, **content
        ) as response:
            if response.status >= 400:
                raise RuntimeError(f"{path}: {response.status} {await response.text()}")
            return await response.json()

    async def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        async with self._session.get(URL + path, headers=self._headers) as response:
            response.raise_for_status()
            return await response.json()

    async def sign_in(self) -> None:
        """Make the owner, the one step of the onboarding that is left."""
        client_id = f"{URL}/"
        user = await self.post(
            "/api/onboarding/users",
            {
                "name": "Demo",
                "username": "demo",
                "password": "demo",
                "client_id": client_id,
                "language": "en",
            },
        )
        token = await self.post(
            "/auth/token",
            {
                "grant_type": "authorization_code",
                "code": user["auth_code"],
                "client_id": client_id,
            },
            form=True,
        )
        self._token = token["access_token"]
        self._headers = {"Authorization": f"Bearer {self._token}"}

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[Socket]:
        """Return a WebSocket to Home Assistant."""
        async with self._session.ws_connect(f"{URL}/api/websocket") as raw:
            await raw.receive_json()
            await raw.send_json({"type": "auth", "access_token": self._token})
            await raw.receive_json()
            yield Socket(raw)


class Socket:
    """Commands over a WebSocket."""

    def __init__(self, raw: aiohttp.ClientWebSocketResponse) -> None:
        """Use an open connection."""
        self._raw = raw
        self._number = 0

    async def command(self, kind: str, **fields: Any) -> Any:
        """Return the result of a command."""
        self._number += 1
        await self._raw.send_json({"id": self._number, "type": kind, **fields})
        while True:
            message = await self._raw.receive_json()
            if message.get("id") == self._number and message["type"] == "result":
                if not message["success"]:
                    raise RuntimeError(f"{kind}: {message['error']}")
                return message["result"]


async def furnish(socket: Socket) -> None:
    """Put the entities into the rooms."""
    floors: dict[str, str] = {}
    # The onboarding made some rooms already.
    known = await socket.command("config/area_registry/list")
    areas = {area["name"]: area["area_id"] for area in known}
    placed: set[str] = set()
    for floor, area, domain, name in HOME:
        if floor not in floors:
            result = await socket.command("config/floor_registry/create", name=floor)
            floors[floor] = result["floor_id"]
        if area not in areas:
            result = await socket.command("config/area_registry/create", name=area)
            areas[area] = result["area_id"]
        if area not in placed:
            placed.add(area)
            await socket.command(
                "config/area_registry/update",
                area_id=areas[area],
                floor_id=floors[floor],
            )
        await socket.command(
            "config/entity_registry/update",
            entity_id=f"{domain}.{slug(name)}",
            area_id=areas[area],
        )


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


async def make_assistant(socket: Socket) -> None:
    """Make the voice assistant that the web interface offers first."""
    pipeline = await socket.command(
        "assist_pipeline/pipeline/create",
        name="Home Agent",
        language="en",
        conversation_engine="conversation.home_agent",
        conversation_language="en",
        stt_engine=None,
        stt_language=None,
        tts_engine=None,
        tts_language=None,
        tts_voice=None,
        wake_word_entity=None,
        wake_word_id=None,
        prefer_local_intents=False,
    )
    await socket.command(
        "assist_pipeline/pipeline/set_preferred", pipeline_id=pipeline["id"]
    )


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
        print("demo: using a real llama.cpp with SmolLM2-135M (it cannot use tools)")
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
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if await answers(session, URL):
            print(f"demo: something runs at {SHOWN_URL} already", file=sys.stderr)
            return 1
        server = await model_server(arguments, session, stack)
        prepare_folder()
        hass = await stack.enter_async_context(process("hass", "-c", str(CONFIG)))
        await wait_for(session, f"{URL}/api/onboarding", "Home Assistant")
        api = Api(session)
        await api.sign_in()
        while (await api.get("/api/config"))["state"] != "RUNNING":
            await asyncio.sleep(0.3)
        async with api.socket() as socket:
            # Listening on loopback only is a change that must be confirmed.
            await socket.command("http/config/promote")
            await furnish(socket)
            await set_up_home_agent(api, server)
            await make_assistant(socket)
        if arguments.check:
            return 0 if await check(api) else 1
        print(
            f"\ndemo: ready at {SHOWN_URL} - you are signed in already."
            "\ndemo: open Assist (top right) and say: turn on the kitchen light"
            "\ndemo: Ctrl-C ends it.\n",
            flush=True,
        )
        await hass.wait()
        return 0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line, by default of this program's own."""
    parser = argparse.ArgumentParser(description="Home Agent in a small home")
    parser.add_argument("--server", help="the address of a model server")
    parser.add_argument("--llama-cpp", action="store_true")
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

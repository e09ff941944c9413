"""A Home Assistant process in a folder of its own, and its HTTP and WebSocket API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
import json
from pathlib import Path
import shutil
import sys
from typing import Any, Final

import aiohttp

ROOT: Final = Path(__file__).parent.parent
START_TIMEOUT: Final = 300
_CONFIGURATION: Final[dict[str, Any]] = {
    "homeassistant": {
        "name": "Demo Home",
        "time_zone": "Europe/Berlin",
        "unit_system": "metric",
        "country": "DE",
        "currency": "EUR",
        "auth_providers": [
            {
                "type": "trusted_networks",
                "trusted_networks": ["127.0.0.1", "::1"],
                "allow_bypass_login": True,
            },
            {"type": "homeassistant"},
        ],
    },
    "frontend": {},
    "config": {},
    "conversation": {},
    "assist_pipeline": {},
    "history": {},
    "logbook": {},
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
# The other steps of the onboarding set up integrations that go online.
_ONBOARDING: Final = {"done": ["core_config", "analytics", "integration"]}


def _http(port: int) -> dict[str, Any]:
    """Return what Home Assistant stores when the user has confirmed the port.

    Given in YAML, it would ask the user to confirm it, and revert it if nobody does.
    """
    stable = {
        "server_host": ["127.0.0.1"],
        "server_port": port,
        "cors_allowed_origins": ["https://cast.home-assistant.io"],
        "login_attempts_threshold": -1,
        "ip_ban_enabled": True,
        "ssl_profile": "intermediate_v6",
        "use_x_frame_options": True,
        "created_at": "2026-11-01T00:00:00+00:00",
        "error": None,
        "error_message": None,
    }
    return {"stable": stable, "pending": None, "yaml_migration_done": True}


def prepare_folder(folder: Path, port: int) -> None:
    """Make a new configuration folder, with the integrations of this checkout."""
    shutil.rmtree(folder, ignore_errors=True)
    components = folder / "custom_components"
    components.mkdir(parents=True)
    for source in (
        ROOT / "custom_components" / "home_agent",
        ROOT / "scripts" / "example_home",
    ):
        (components / source.name).symlink_to(source)
    storage = folder / ".storage"
    storage.mkdir()
    for key, version, data in (
        ("onboarding", 4, _ONBOARDING),
        ("http", 3, _http(port)),
    ):
        stored = {"version": version, "minor_version": 1, "key": key, "data": data}
        (storage / key).write_text(json.dumps(stored))
    # JSON is YAML.
    text = json.dumps(_CONFIGURATION, indent=2, ensure_ascii=False)
    (folder / "configuration.yaml").write_text(text, encoding="utf-8")


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program until the context ends."""
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


class Api:
    """Home Assistant's HTTP and WebSocket API, signed in as the demo's user."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """Start signed out."""
        self.url = url
        self._session = session
        self._headers: dict[str, str] = {}
        self._token = ""

    async def post(self, path: str, body: Any = None, *, form: bool = False) -> Any:
        """Return the JSON of an answer; raise RuntimeError for an error."""
        content: dict[str, Any] = {"data" if form else "json": body}
        return await self._request("POST", path, **content)

    async def get(self, path: str) -> Any:
        """Return the JSON at a path; raise RuntimeError for an error."""
        return await self._request("GET", path)

    async def delete(self, path: str) -> Any:
        """Delete what is at a path; raise RuntimeError for an error."""
        return await self._request("DELETE", path)

    async def _request(self, method: str, path: str, **content: Any) -> Any:
        """Return the JSON of an answer; raise RuntimeError for an error."""
        async with self._session.request(
            method, self.url + path, headers=self._headers, **content
        ) as response:
            if response.status >= 400:
                raise RuntimeError(f"{path}: {response.status} {await response.text()}")
            return await response.json()

    async def sign_in(self) -> None:
        """Make the owner, the one step of the onboarding that is left."""
        client_id = f"{self.url}/"
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

    async def fill_in(self, handler: str, *pages: dict[str, Any]) -> Any:
        """Return the result of a set-up dialog, its pages filled in like this."""
        flow = "/api/config/config_entries/flow"
        result = await self.post(flow, {"handler": handler})
        for page in pages:
            result = await self.post(f"{flow}/{result['flow_id']}", page)
        return result

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[Socket]:
        """Return a WebSocket to Home Assistant."""
        async with self._session.ws_connect(f"{self.url}/api/websocket") as raw:
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
        """Return the result of a command; raise RuntimeError for an error."""
        self._number += 1
        await self._raw.send_json({"id": self._number, "type": kind, **fields})
        while True:
            message = await self._raw.receive_json()
            if message.get("id") == self._number and message["type"] == "result":
                if not message["success"]:
                    raise RuntimeError(f"{kind}: {message['error']}")
                return message["result"]


async def start(
    stack: AsyncExitStack,
    session: aiohttp.ClientSession,
    folder: Path,
    *,
    port: int,
    is_large: bool,
) -> tuple[Api, asyncio.subprocess.Process]:
    """Return a Home Assistant with the example home, and the process it runs in."""
    prepare_folder(folder, port)
    hass = await stack.enter_async_context(
        # With -P: this checkout has a package custom_components, the folder too.
        process(sys.executable, "-P", "-m", "homeassistant", "-c", str(folder))
    )
    api = Api(session, f"http://127.0.0.1:{port}")
    await wait_for(session, f"{api.url}/api/onboarding", "Home Assistant")
    await api.sign_in()
    while (await api.get("/api/config"))["state"] != "RUNNING":
        await asyncio.sleep(0.3)
    await api.fill_in("example_home", {"is_large": is_large})
    return api, hass


async def make_assistant(socket: Socket, agent: str = "conversation.home_agent") -> str:
    """Make the voice assistant that the web interface offers first; return its id."""
    pipeline = await socket.command(
        "assist_pipeline/pipeline/create",
        name="Home Agent",
        language="en",
        conversation_engine=agent,
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
    pipeline_id = str(pipeline["id"])
    await socket.command(
        "assist_pipeline/pipeline/set_preferred", pipeline_id=pipeline_id
    )
    return pipeline_id

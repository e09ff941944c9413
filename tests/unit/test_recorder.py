"""The recorder of exchanges: nothing is changed on the way, no secret is written."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.recorded.exchange import Exchange, load_folder
from tests.recorded.record import Recorder
from tests.recorded.replay import Replay
from tests.servers import OllamaStandIn, Reply, RuleBrain
from tests.servers.stand_in import Fault

KEY = "sk-very-secret"
PASSWORD = "pass-word"
CHAT = {"model": "llama3.2:3b", "messages": [{"role": "user", "content": "Hello"}]}


class Recording:
    """A recorder in front of a stand-in."""

    def __init__(self, server: OllamaStandIn, recorder: Recorder, to: Path) -> None:
        """Write to a folder."""
        self.server = server
        self.recorder = recorder
        self.url = recorder.url
        self.to = to

    async def send(self, path: str, body: Any, **headers: str) -> bytes:
        """Return the answer that comes through the recorder."""
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(self.url + path, json=body) as answer,
        ):
            return await answer.read()

    async def exchange(self) -> Exchange:
        """Return the one exchange, once the recorder has written everything."""
        await self.recorder.stop()
        (exchange,) = load_folder(self.to).values()
        return exchange


@pytest.fixture
async def recording(tmp_path: Path, socket_enabled: None) -> AsyncIterator[Recording]:
    """Return a recorder of a stand-in that wants a key."""
    async with OllamaStandIn(api_key=KEY) as server:
        address = server.url.replace("//", f"//user:{PASSWORD}@")
        async with Recorder(address, tmp_path) as recorder:
            yield Recording(server, recorder, tmp_path)


async def test_a_stream(recording: Recording) -> None:
    """The file has the request and the bytes of the answer, in its chunks."""
    recording.server.brain = RuleBrain([Reply("Grüße aus der Küche")])
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = await recording.send("/api/chat", CHAT, **headers)
    exchange = await recording.exchange()
    assert exchange.raw == answer
    assert len(exchange.chunks) == 5
    assert (exchange.method, exchange.path) == ("POST", "/api/chat")
    assert exchange.body == CHAT
    assert (exchange.status, exchange.end) == (200, "complete")
    assert exchange.headers["content-type"] == "application/x-ndjson"
    assert recording.server.requests[-1].body == CHAT
    async with (
        Replay([exchange]) as replay,
        aiohttp.ClientSession() as session,
        session.post(replay.url + "/api/chat") as again,
    ):
        assert await again.read() == answer


async def test_no_secret_is_written(recording: Recording) -> None:
    """Neither where it was sent nor where the server repeats it."""
    error = f"key {KEY} of /home/ada/models/tiny.gguf has the cookie c00kie-value"
    recording.server.faults.append(Fault(status=400, body={"error": error}))
    await recording.send(
        f"/api/chat?api_key=query-{KEY}&x=1",
        {**CHAT, "note": f"{PASSWORD} and {KEY}"},
        Authorization=f"Bearer {KEY}",
        Cookie="c00kie-value",
    )
    exchange = await recording.exchange()
    (file,) = recording.to.iterdir()
    text = file.read_text(encoding="utf-8")
    for secret in (KEY, PASSWORD, "c00kie", "ada"):
        assert secret not in text
    assert exchange.path == "/api/chat?api_key=REMOVED&x=1"
    assert exchange.body["note"] == "REMOVED and REMOVED"
    shown = "key REMOVED of /models/tiny.gguf has the cookie REMOVED"
    assert exchange.json == {"error": shown}


async def test_a_server_that_hangs_up(recording: Recording) -> None:
    """What came is written, and the client sees the break."""
    recording.server.faults.append(Fault(hang_up_after=100))
    with pytest.raises(aiohttp.ClientError):
        await recording.send("/api/chat", CHAT, Authorization=f"Bearer {KEY}")
    exchange = await recording.exchange()
    assert (exchange.end, len(exchange.raw)) == ("server closed", 100)


async def test_a_server_that_is_away(tmp_path: Path, socket_enabled: None) -> None:
    """The client gets an error that names the server, without a password."""
    async with OllamaStandIn() as server:
        url = server.url
    address = url.replace("//", f"//user:{PASSWORD}@")
    async with (
        Recorder(address, tmp_path) as recorder,
        aiohttp.ClientSession() as session,
        session.get(recorder.url + "/api/tags") as answer,
    ):
        assert answer.status == 502
        text = await answer.text()
    assert url in text
    assert PASSWORD not in text

"""A stream is the same answer wherever the network cuts it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from hypothesis import given, strategies as st
import pytest

from custom_components.home_agent.servers.base import (
    Connection,
    ModelServer,
    ServerKind,
    collect,
)
from custom_components.home_agent.servers.errors import ModelServerError
from custom_components.home_agent.servers.factory import connect
from custom_components.home_agent.servers.messages import ChatAnswer, ChatRequest
from tests.strategies import (
    ScriptedAnswer,
    cuts,
    json_line_bodies,
    scripted_answers,
    sse_bodies,
)

# A failing example is made smaller, which takes time.
pytestmark = pytest.mark.timeout(300)

REQUEST = ChatRequest(model="m", messages=[{"role": "user", "content": "Hello"}])
# The loop's steps from a chunk that is written to one that is read: the socket is
# found readable, the reader is woken, and runs.
STEPS = 4


class CutServer:
    """Answers each request with chunks, each of which the client reads by itself."""

    def __init__(self, port: int) -> None:
        """Serve at a port of loopback."""
        self.url = f"http://127.0.0.1:{port}"
        self.chunks: Sequence[bytes] = ()

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the requests of one connection, until the client hangs up."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length: ")[2]
                await reader.readexactly(int(length.split(b"\r\n")[0]))
                size = sum(len(chunk) for chunk in self.chunks)
                status = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
                for chunk in (status, *self.chunks):
                    writer.write(chunk)
                    for _ in range(STEPS):
                        await asyncio.sleep(0)
        writer.close()


@pytest.fixture
async def cut_server() -> AsyncIterator[CutServer]:
    """Return a server that cuts its answers."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await server.answer(reader, writer)

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        server = CutServer(listener.sockets[0].getsockname()[1])
        yield server
        listener.close_clients()


async def outcome(
    server: ModelServer, cut_server: CutServer, chunks: Sequence[bytes]
) -> ChatAnswer | tuple[type[ModelServerError], str]:
    """Return the answer that arrives in these chunks, or the error in its place."""
    cut_server.chunks = chunks
    try:
        return await collect(server.chat_stream(REQUEST))
    except ModelServerError as err:
        return type(err), err.detail


def check(answer: ChatAnswer, scripted: ScriptedAnswer) -> None:
    """Assert that an answer is what the model said."""
    assert [call.name for call in answer.tool_calls] == [
        call.name for call in scripted.calls
    ]
    content, thinking = "".join(scripted.pieces), "".join(scripted.thinking)
    # Tags that mark thinking are not part of the answer, and lone surrogates may be
    # replaced.
    if "<" not in content and _is_unicode(content + thinking):
        assert (answer.content, answer.thinking) == (content, thinking)


def _is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates."""
    return text == text.encode(errors="ignore").decode()


@pytest.mark.parametrize("kind", [ServerKind.OLLAMA, ServerKind.OPENAI_COMPATIBLE])
@given(data=st.data(), scripted=scripted_answers())
async def test_any_cut_is_the_same_answer(
    hass: HomeAssistant,
    cut_server: CutServer,
    kind: ServerKind,
    data: st.DataObject,
    scripted: ScriptedAnswer,
) -> None:
    """In one piece and in many; and that is what the model said."""
    bodies = json_line_bodies if kind is ServerKind.OLLAMA else sse_bodies
    body = data.draw(bodies(scripted), "body")
    session = async_get_clientsession(hass)
    server = await connect(session, Connection(cut_server.url, kind=kind))
    whole = await outcome(server, cut_server, [body])
    if isinstance(whole, ChatAnswer):
        check(whole, scripted)
    assert await outcome(server, cut_server, data.draw(cuts(body), "chunks")) == whole

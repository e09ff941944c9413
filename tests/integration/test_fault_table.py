"""The table of faults: what the user hears, what the log says, what is left.

    .venv/bin/python -m pytest tests/integration/test_fault_table.py -s -q

Each row gives one answer of a server, in raw bytes, to every request of a turn. After
it the server is well again, and the next turn of the same agent must work.
"""

from dataclasses import dataclass
import json
import logging
from typing import Any

from aiohttp import web
from homeassistant.core import HomeAssistant
from homeassistant.helpers import llm
import pytest

from tests.conftest import MakeEntry, say, speech
from tests.servers import OllamaStandIn, OpenAIStandIn, Reply
from tests.unit.test_turn_rules import TestAPI

KEY = "sk-1234567890abcdef"
CALL = {"name": "act", "arguments": {}}


@dataclass(frozen=True)
class Wire:
    """How one kind of server writes the parts of a streamed answer."""

    path: str
    content_type: str

    def event(self, message: dict[str, Any], reason: str | None = None) -> bytes:
        """Return one piece of an answer; reason ends it."""
        if self.path == "/api/chat":
            piece = {"message": message, "done": reason is not None}
            line = json.dumps(piece | ({"done_reason": reason} if reason else {}))
            return f"{line}\n".encode()
        choice = {"index": 0, "delta": message, "finish_reason": reason}
        end = "data: [DONE]\n\n" if reason else ""
        return f"data: {json.dumps({'choices': [choice]})}\n\n{end}".encode()

    def call(self, arguments: Any, reason: str | None, name: Any = "act") -> bytes:
        """Return an answer that calls a tool."""
        function = {"name": name, "arguments": arguments}
        call = {"index": 0, "id": "call1", "type": "function", "function": function}
        return self.event({"tool_calls": [call]}, reason)


OLLAMA = Wire("/api/chat", "application/x-ndjson")
OPENAI = Wire("/v1/chat/completions", "text/event-stream")


def ok(wire: Wire, body: bytes) -> bytes:
    """Return a whole answer with status 200."""
    return answer("200 OK", body, wire.content_type)


def answer(status: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return an answer in raw bytes."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def error(status: str, body: Any) -> bytes:
    """Return an error with a JSON body."""
    return answer(status, json.dumps(body).encode())


def faults(wire: Wire) -> dict[str, bytes]:
    """Return the raw answers by the names of their faults."""
    text = wire.event({"role": "assistant", "content": "The light "})
    whole = text + wire.event({"content": "is on."}, "stop")
    arguments: Any = "{}" if wire is OPENAI else {}
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return {
        "nothing at all": b"",
        "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
        "an empty body": ok(wire, b""),
        "null": ok(wire, b"null"),
        "a list": ok(wire, b"[]"),
        "an empty object": ok(wire, b"{}"),
        "a page with status 200": answer("200 OK", b"<html>Hi</html>", "text/html"),
        "a page with status 502": answer("502 X", b"<html>Bad</html>", "text/html"),
        "an error with status 200": ok(wire, b'{"error": "out of memory"}'),
        "400": error("400 Bad Request", {"error": "invalid options"}),
        "401 that repeats the key": error("401 X", {"error": f"bad key {KEY}"}),
        "403 about the key": error("403 X", {"error": "API key forbidden"}),
        "403 about money": error("403 X", {"error": "quota exceeded"}),
        "404 of the model": error("404 X", {"error": "model 'x' not found"}),
        "422 that repeats the prompt": error(
            "422 X", {"detail": [{"loc": ["body"], "msg": "no", "input": "PROMPT"}]}
        ),
        "429": error("429 X", {"error": {"message": "slow down"}}),
        "500": error("500 X", {"error": "llama runner terminated"}),
        "a redirect": answer("302 Found", b""),
        "a broken chunk": chunked + b"zz\r\n",
        "text, then a hang-up": chunked + b"%x\r\n%s\r\n" % (len(text), text),
        "text, then an error": ok(wire, text + b'{"error": "boom"}\n'),
        "text without an end": ok(wire, text),
        "bytes that are no UTF-8": ok(wire, whole.replace(b"light", b"li\xff\xfeht")),
        "a byte order mark": ok(wire, b"\xef\xbb\xbf" + whole),
        "content that is a number": ok(wire, wire.event({"content": 5}, "stop")),
        "only thinking": ok(wire, wire.event({"thinking": "Hm."}, "stop")),
        "an empty answer": ok(wire, wire.event({"content": ""}, "stop")),
        "cut off by the length": ok(wire, wire.event({"thinking": "Hm"}, "length")),
        "a call without a name": ok(wire, wire.call(arguments, "stop", None)),
        "a call that is cut off": ok(wire, wire.call('{"te', "length")),
        "a call of an unknown tool": ok(wire, wire.call(arguments, "stop", "gate")),
        "a call, then a hang-up": ok(wire, wire.call(arguments, None)),
    }


ROWS = [
    (kind, name)
    for kind, wire in (("Ollama", OLLAMA), ("OpenAI-compatible", OPENAI))
    for name in faults(wire)
]


@pytest.mark.parametrize(("kind", "name"), ROWS)
async def test_fault(
    home: HomeAssistant,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    name: str,
) -> None:
    """A sentence is heard, no secret is logged, nothing is done, all goes on."""
    wire = OLLAMA if kind == "Ollama" else OPENAI
    raw = faults(wire)[name]
    api = TestAPI(home)
    llm.async_register_api(home, api)
    server: Any = (
        OllamaStandIn() if kind == "Ollama" else OpenAIStandIn(models=["llama3.2:3b"])
    )

    async def broken(request: web.Request, body: dict[str, Any]) -> web.Response:
        assert request.transport is not None
        request.transport.write(raw)
        request.transport.close()
        return web.Response()

    async with server:
        entry = await make_entry(
            server.url,
            conversation={"llm_hass_api": ["test"]},
            llm_api_key=KEY,
        )
        route = ("POST", wire.path)
        well = server.routes[route]
        server.routes[route] = broken
        caplog.clear()
        caplog.set_level(logging.WARNING, "custom_components.home_agent")
        heard = speech(await say(home, "Go"))
        server.routes[route] = well
        logged = [
            record.getMessage()
            for record in caplog.records
            if record.name.startswith("custom_components.home_agent")
        ]
        (use,) = (role.use for role in entry.runtime_data.residencies.values())
        state = (use.running_requests, use.running_turns)
        server.brain.replies.append(Reply("Fine."))
        again = speech(await say(home, "And now?"))
        print(
            " | ".join((kind, name, heard, logged[0][:100] if logged else "-", again))
        )
    assert heard
    assert state == (0, 0)
    assert again == "Fine."
    # Every failure has one line in the log, and an answer has none.
    assert len(logged) == ("is on." not in heard)
    assert not api.calls
    assert not any(KEY in line or "PROMPT" in line for line in logged)

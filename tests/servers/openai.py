"""A stand-in for servers with an OpenAI-compatible API, lenient or strict."""

from collections.abc import Iterable
import json
import re
from typing import Any, Literal

from aiohttp import web

from .brain import RuleBrain
from .chat import ChatCall, Reply, text_of
from .embedding import embed
from .ollama_answers import top_logprobs
from .stand_in import StandIn

# What OpenAI itself knows; a strict server refuses everything else.
KNOWN_FIELDS = {
    "encoding_format",
    "frequency_penalty",
    "logprobs",
    "input",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
}

type Strictness = Literal["lenient", "openai", "groq", "mistral", "gemini"]


class OpenAIStandIn(StandIn):
    """A server that takes OpenAI's requests.

    strictness names the service whose error an unknown field gets. The arguments of
    a tool call are streamed in as many pieces as fragments; reasoning_field is the
    field of the thinking; done says whether streams end with [DONE].
    """

    def __init__(
        self,
        *,
        strictness: Strictness = "lenient",
        models: Iterable[str] = ("local-model", "local-embedding"),
        owned_by: str = "someone",
        prefix: str = "/v1",
        brain: RuleBrain | None = None,
        api_key: str | None = None,
        fragments: int = 3,
        reasoning_field: str = "reasoning_content",
        done: bool = True,
    ) -> None:
        """Have these models."""
        super().__init__(brain=brain, api_key=api_key)
        self.strictness = strictness
        self.models = list(models)
        self.owned_by = owned_by
        self.fragments = fragments
        self.reasoning_field = reasoning_field
        self.done = done
        self.routes = {
            ("GET", f"{prefix}/models"): self._models,
            ("POST", f"{prefix}/chat/completions"): self._chat,
            ("POST", f"{prefix}/embeddings"): self._embeddings,
        }

    def error_body(self, status: int, text: str) -> Any:
        """Return an error in OpenAI's form."""
        kind = "invalid_request_error"
        return {"error": {"message": text, "type": kind, "param": None, "code": None}}

    def error_line(self, text: str) -> bytes:
        """Return an error in the middle of a stream."""
        return f"data: {json.dumps(self.error_body(500, text))}\n\n".encode()

    async def _models(self, request: web.Request, _: Any) -> web.Response:
        data = [{"id": name, "owned_by": self.owned_by} for name in self.models]
        return web.json_response({"object": "list", "data": data})

    async def _chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        if refusal := self._refusal(body):
            return refusal
        names = [tool["function"]["name"] for tool in body.get("tools") or ()]
        reply = self.brain(ChatCall(body["model"], body["messages"], names))
        if not body.get("stream"):
            return await self.write_json(request, self._whole(reply, body))
        events = self._events(reply, body)
        lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
        lines.insert(1, b": ping\n\n")
        if self.done:
            lines.append(b"data: [DONE]\n\n")
        return await self.write_lines(request, "text/event-stream", lines)

    async def _embeddings(self, request: web.Request, body: Any) -> web.StreamResponse:
        if refusal := self._refusal(body):
            return refusal
        data = [
            {"index": index, "embedding": embed(text, 64)}
            for index, text in enumerate(body["input"])
        ]
        # The API does not promise an order.
        return await self.write_json(request, {"data": data[::-1]})

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        """Return the refusal of the first field that is not known."""
        unknown = next((key for key in body if key not in KNOWN_FIELDS), None)
        if unknown is None or self.strictness == "lenient":
            return None
        if self.strictness == "mistral":
            detail = {
                "type": "extra_forbidden",
                "loc": ["body", unknown],
                "msg": "Extra inputs are not permitted",
                "input": body[unknown],
            }
            answer: Any = {"object": "error", "message": {"detail": [detail]}}
            return web.json_response(answer, status=422)
        if self.strictness == "gemini":
            text = (
                f'Invalid JSON payload received. Unknown name "{unknown}":'
                " Cannot find field."
            )
            error = {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}
            return web.json_response([{"error": error}], status=400)
        texts = {
            "openai": f"Unrecognized request argument supplied: {unknown}",
            "groq": f"property '{unknown}' is unsupported",
        }
        text = texts[self.strictness]
        return web.json_response(self.error_body(400, text), status=400)

    def _whole(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
        """Return an answer in one piece."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.content}
        if reply.thinking:
            message[self.reasoning_field] = reply.thinking
        if reply.tools:
            message["tool_calls"] = [
                _tool_call(index, use.name, _text(use.arguments))
                for index, use in enumerate(reply.tools)
            ]
        reason = "tool_calls" if reply.tools else reply.finish_reason
        choice = {"index": 0, "message": message, "finish_reason": reason}
        if reply.logprobs:
            choice["logprobs"] = {"content": [top_logprobs(reply)]}
        return {"choices": [choice], "usage": _usage(body)}

    def _events(self, reply: Reply, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the events of a stream."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [
            {self.reasoning_field: piece}
            for piece in re.findall(r"\S+\s*", reply.thinking)
        ]
        deltas += [{"content": piece} for piece in reply.pieces()]
        for index, use in enumerate(reply.tools):
            deltas.append({"tool_calls": [_tool_call(index, use.name, "")]})
            text = _text(use.arguments)
            size = max(1, -(-len(text) // self.fragments))
            deltas += [
                {
                    "tool_calls": [
                        {
                            "index": index,
                            "function": {"arguments": text[at : at + size]},
                        }
                    ]
                }
                for at in range(0, len(text), size)
            ]
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            for delta in deltas
        ]
        reason = "tool_calls" if reply.tools else reply.finish_reason
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append({"choices": [], "usage": _usage(body)})
        return events


def _tool_call(index: int, name: str, arguments: str) -> dict[str, Any]:
    """Return a tool call, or its first piece."""
    return {
        "index": index,
        "id": f"call_{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _text(arguments: dict[str, Any] | str) -> str:
    """Return the arguments of a call as the text that OpenAI has."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _usage(body: dict[str, Any]) -> dict[str, Any]:
    """Return token counts: a word is a token, and the template has some too."""
    texts = [text_of(message) for message in body["messages"]]
    texts += [json.dumps(tool) for tool in body.get("tools") or ()]
    return {
        "prompt_tokens": max(20, len(" ".join(texts).split())),
        "completion_tokens": 5,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 12},
    }

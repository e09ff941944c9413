"""What a stand-in Ollama does with its models: find, load, answer and embed."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
import json
from typing import Any

from . import ollama_answers as answers
from .brain import RuleBrain
from .chat import ChatCall, Reply, text_of
from .clock import Clock
from .go_duration import keep_alive_seconds
from .ollama_answers import Json
from .ollama_models import (
    DEFAULT_MODELS,
    GIB,
    InvalidName,
    StandInModel,
    find_model,
    is_cloud_name,
)
from .ollama_requests import Refusal, check_format, check_options
from .residency import Memory, Resident
from .stand_in import StandIn

_SECONDS_PER_TOKEN = 1e-4
_NOT_FOUND = "model '{}' not found"
# /api/embed and /api/embeddings have a text of their own.
_NOT_FOUND_TO_EMBED = 'model "{}" not found, try pulling it first'
_TOO_LONG = "the input length exceeds the context length"
# The least context that Ollama loads a model with (server/sched.go, GetRunner).
_LEAST_NUM_CTX = 4


class OllamaEngine(StandIn):
    """The models of a stand-in Ollama, without its endpoints."""

    def __init__(
        self,
        models: Iterable[StandInModel] = DEFAULT_MODELS,
        *,
        brain: RuleBrain | None = None,
        api_key: str | None = None,
        clock: Clock | None = None,
        load_seconds: float = 0,
        capacity: int = 64 * GIB,
        max_models: int = 3,
        keep_alive: str = "5m",
        version: str = "0.33.0",
    ) -> None:
        """Have these models.

        capacity is in bytes, keep_alive is the server's own default.
        """
        super().__init__(brain=brain, api_key=api_key, clock=clock)
        self.models = {model.name: model for model in models}
        self.load_seconds = load_seconds
        self.memory = Memory(
            self.clock, capacity, max_models, keep_alive_seconds(keep_alive)
        )
        self.version = version
        # From 0.30 on /api/tags lists capabilities, and a num_ctx is limited to
        # what the model can before it is compared with that of a loaded model.
        self.is_0_30 = tuple(map(int, version.split(".")[:2])) >= (0, 30)
        self.evaluated_tokens: list[int] = []
        # What can be pulled, by name.
        self.library: dict[str, StandInModel] = {}

    async def stop(self) -> None:
        """Stop, with nothing left in memory."""
        await super().stop()
        for name in list(self.memory.residents):
            self.memory.unload(name)

    def loaded(self, name: str) -> Resident | None:
        """Return a model that is in memory."""
        return self.memory.residents.get(name)

    @asynccontextmanager
    async def answer_lines(
        self, body: Json, endpoint: str = "chat"
    ) -> AsyncIterator[list[Json]]:
        """Yield the lines of an answer while the model is held for them."""
        model = self.find(body["model"])
        messages = body.get("messages")
        if not messages and _is_zero(body.get("keep_alive")):
            self.memory.expire(self._loaded_as(model))
            yield [answers.finished(body["model"], "unload", chat=True)]
            return
        if body.get("think"):
            self._require(model, body, "thinking")
        self._require(model, body, "completion", endpoint)
        if body.get("tools"):
            self._require(model, body, "tools")
        if body.get("suffix"):
            self._require(model, body, "insert")
        async with self._use(model, body) as (resident, load_seconds):
            if not messages:
                yield [answers.finished(body["model"], "load", chat=True)]
                return
            check_format(body.get("format"))
            names = [_tool_name(tool) for tool in body.get("tools") or ()]
            prompt = self._prompt(resident, body)
            reply = self.brain(ChatCall(model.name, messages, names))
            figures = self._figures(resident, prompt, reply, load_seconds)
            think = "thinking" in model.capabilities and body.get("think") is not False
            yield answers.chat_lines(body["model"], reply, figures, think=think)

    @asynccontextmanager
    async def embedded(self, body: Json) -> AsyncIterator[Json]:
        """Yield the answer of /api/embed while the model is held for it."""
        texts = _texts(body.get("input"))
        model = self.find(body.get("model", ""), _NOT_FOUND_TO_EMBED)
        async with self._use(model, body) as (resident, load_seconds):
            if "" in texts:
                raise Refusal(500, "Failed to create new sequence: no input provided")
            counts = [len(answers.tokens(text)) for text in texts]
            too_long = max(counts, default=0) > resident.num_ctx
            if too_long and not body.get("truncate", True):
                raise Refusal(400, _TOO_LONG)
            vectors = answers.vectors(model, texts, body.get("dimensions", 0))
            answer: Json = {"model": body["model"], "embeddings": vectors}
            if texts:
                answer |= {
                    "total_duration": int(load_seconds * 1e9) + 1000,
                    "load_duration": int(load_seconds * 1e9),
                    "prompt_eval_count": sum(counts),
                }
            yield answer

    def find(
        self,
        name: str,
        missing: str = _NOT_FOUND,
        *,
        any_case: bool = True,
    ) -> StandInModel:
        """Return the model of a name; raise a Refusal if there is none."""
        if not name:
            # An empty name is no invalid one (internal/modelref, ParseRef).
            raise Refusal(404, _NOT_FOUND.format(name))
        try:
            model = find_model(name, self.models.values(), any_case=any_case)
        except InvalidName as err:
            raise Refusal(400, str(err)) from err
        if model is not None:
            return model
        if is_cloud_name(name):
            raise Refusal(403, "ollama cloud is disabled: remote model is unavailable")
        raise Refusal(404, missing.format(name))

    def find_exactly(self, name: str) -> StandInModel:
        """Return the model of a name whose letters have the same case.

        So does /api/embeddings, and nothing else.
        """
        return self.find(name, _NOT_FOUND_TO_EMBED, any_case=False)

    def _loaded_as(self, model: StandInModel) -> str:
        """Return the name by which a model's file is in memory, else its own."""
        names = (
            name
            for name in self.memory.residents
            if self.models[name].path == model.path
        )
        return next(names, model.name)

    def _require(
        self, model: StandInModel, body: Json, capability: str, name: str | None = None
    ) -> None:
        """Raise a Refusal if a model has not a capability that a request needs."""
        if capability not in model.capabilities:
            shown = f'"{body["model"]}"'
            if capability in ("tools", "insert"):
                shown = f"registry.ollama.ai/library/{model.name}"
            raise Refusal(400, f"{shown} does not support {name or capability}")

    @asynccontextmanager
    async def _use(
        self, model: StandInModel, body: Json
    ) -> AsyncIterator[tuple[Resident, float]]:
        """Hold a model for a request; yield it and the seconds of its load."""
        options = body.get("options") or {}
        check_options(options)
        value = body.get("keep_alive")
        num_ctx = options.get("num_ctx")
        if num_ctx is not None:
            # What no 64-bit number holds is negative in Go.
            num_ctx = int(num_ctx) if abs(num_ctx) < 2**63 else -1
            num_ctx = max(_LEAST_NUM_CTX, num_ctx)
            if self.is_0_30:
                num_ctx = min(num_ctx, model.context_length)
        async with self.memory.use(
            self._loaded_as(model),
            model.size,
            seconds=None if value is None else keep_alive_seconds(value),
            num_ctx=num_ctx,
            largest_num_ctx=model.context_length,
            load=lambda: self.load_seconds,
        ) as used:
            yield used

    def _prompt(self, resident: Resident, body: Json) -> list[str]:
        """Return the tokens of a prompt, no more than the context holds.

        Ollama cuts a longer one without a word unless truncate is false.
        """
        prompt = answers.json_tokens(json.dumps(body.get("tools") or []))
        for message in body["messages"]:
            prompt += answers.tokens(f"{message.get('role')} {text_of(message)}")
        if len(prompt) > resident.num_ctx and not body.get("truncate", True):
            raise Refusal(400, _TOO_LONG)
        return prompt[: resident.num_ctx]

    def _figures(
        self, resident: Resident, prompt: list[str], reply: Reply, load_seconds: float
    ) -> Json:
        """Return the figures of an answer; what is cached costs no time."""
        common = 0
        for old, new in zip(resident.cached, prompt, strict=False):
            if old != new:
                break
            common += 1
        evaluated = max(1, len(prompt) - common)
        self.evaluated_tokens.append(evaluated)
        answer = answers.tokens(reply.content + reply.thinking)
        resident.cached = prompt + answer
        return {
            "total_duration": int((load_seconds + 0.1) * 1e9),
            "load_duration": int(load_seconds * 1e9),
            "prompt_eval_count": len(prompt),
            "prompt_eval_duration": int(evaluated * _SECONDS_PER_TOKEN * 1e9),
            "eval_count": max(1, len(answer)),
            "eval_duration": int(max(1, len(answer)) * 50e6),
        }


def _is_zero(value: Any) -> bool:
    """Return whether a keep_alive asks to unload."""
    return value is not None and keep_alive_seconds(value) == 0


def _texts(given: Any) -> list[str]:
    """Return the texts to embed; raise a Refusal for what is none."""
    if given is None or given == "":
        return []
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise Refusal(400, "invalid input type")
    return texts


def _tool_name(tool: Json) -> str:
    """Return the name of a tool, "" if it has none."""
    name: str = tool.get("function", {}).get("name", "")
    return name

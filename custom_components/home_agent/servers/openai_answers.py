"""Answers of OpenAI-compatible servers, translated into those of messages.py."""

from collections.abc import Iterator

from .answer_limit import AnswerLimit
from .answers import Answer
from .messages import ChatAnswer, ChatDelta, ChatStats
from .thinking import ThinkingSplitter, split_thinking
from .tool_calls import (
    LENGTH,
    ToolCallCollector,
    calls_of,
    checked_calls,
    is_cut_off,
)


class StreamParser:
    """Translates the events of a stream."""

    def __init__(self, host: str, max_tokens: int | None) -> None:
        """Start before the first event.

        host is the host and port of the server, for errors and the log. max_tokens is
        the limit of tokens in the request, None if the request has none.
        """
        self.finish_reason: str | None = None
        # Whether a finish_reason came, and no part of the answer after it.
        self.has_ended = False
        # Some servers send a finish_reason with each event. It is certain to be the
        # end if an earlier event had none ...
        self.is_end_certain = False
        # ... and it was not the end if a part of the answer came after it.
        self.has_continued = False
        # Whether the answer must end here: it is longer than max_tokens allows.
        self.is_cut = False
        # Whether thinking came in the field "reasoning_content".
        self.has_reasoning_content = False
        # Whether the last event brought a part of the answer; pings bring none.
        self.has_progressed = False
        self._calls = ToolCallCollector(host)
        self._limit = AnswerLimit(host, max_tokens)
        self._splitter = ThinkingSplitter()
        self._usage: Answer | None = None
        self._timings: Answer | None = None

    def feed(self, event: Answer) -> ChatDelta | None:
        """Return the text of an event, None if it has no text.

        Tool calls, figures and the finish_reason are collected, and returned by end.
        """
        had_figures = bool(self._usage or self._timings)
        self._usage = event.figures("usage") or self._usage
        self._timings = event.figures("timings") or self._timings
        # Some servers send figures with each event, so only the first figures count as
        # progress.
        self.has_progressed = bool(self._usage or self._timings) and not had_figures
        if not (choices := event.objects("choices")):
            return None
        choice = choices[0]
        # A server that ignores "stream" sends a whole message.
        delta = choice.optional_object("delta") or choice.optional_object("message")
        text = thinking = ""
        has_grown = False
        if delta is not None:
            self.has_reasoning_content |= bool(delta.optional_text("reasoning_content"))
            before = self._calls.characters
            has_grown = self._calls.add(delta)
            text, thinking = _content_of(delta)
            grown = self._calls.characters - before
            self.is_cut = self._limit.add(len(text) + len(thinking) + grown)
        is_part = has_grown or bool(text or thinking)
        reason = LENGTH if self.is_cut else choice.optional_text("finish_reason")
        self._note_end(reason, is_part=is_part)
        content, tagged = self._splitter.feed(text)
        return _delta(content, thinking + tagged)

    def rest(self) -> ChatDelta | None:
        """Return the text that was held back, as it may have begun a thinking tag."""
        return _delta(*self._splitter.finish())

    def end(self) -> ChatDelta:
        """Return the last delta: tool calls, finish_reason and figures."""
        return ChatDelta(
            tool_calls=self._calls.finish(self.finish_reason, has_ended=self.has_ended),
            finish_reason=self.finish_reason,
            stats=_stats_of(self._usage, self._timings),
        )

    def _note_end(self, reason: str | None, *, is_part: bool) -> None:
        """Remember whether an event ends the answer, and whether it is progress."""
        if is_part or (reason and not self.has_ended):
            self.has_progressed = True
        if is_part and self.has_ended:
            self.has_continued = True
        if reason:
            self.finish_reason = reason
            self.has_ended = True
            return
        self.is_end_certain = True
        if is_part:
            self.has_ended = False


def parse_chat_answer(answer: Answer, host: str) -> ChatAnswer:
    """Return an answer that came in one piece.

    Raise MalformedAnswer if there is no message in it.
    """
    choices = answer.objects("choices")
    message = choices[0].optional_object("message") if choices else None
    if message is None:
        raise answer.malformed("choices", "a list of messages")
    finish_reason = choices[0].optional_text("finish_reason")
    text, thinking = _content_of(message)
    content, tagged = split_thinking(text)
    logprobs = choices[0].figures("logprobs")
    return ChatAnswer(
        content=content,
        thinking=thinking + tagged,
        tool_calls=checked_calls(
            calls_of(message, host), host, is_cut=is_cut_off(finish_reason)
        ),
        finish_reason=finish_reason,
        stats=_stats_of(answer.figures("usage"), answer.figures("timings")),
        first_token_logprobs=logprobs.first_token_logprobs("content")
        if logprobs
        else {},
    )


def has_reasoning_content(answer: Answer) -> bool:
    """Return whether an answer's thinking came in the field "reasoning_content"."""
    return any(
        message.optional_text("reasoning_content")
        for choice in answer.objects("choices")
        if (message := choice.optional_object("message"))
    )


def _delta(content: str, thinking: str) -> ChatDelta | None:
    """Return a delta, None if there is nothing in it."""
    if content or thinking:
        return ChatDelta(content=content, thinking=thinking)
    return None


def _content_of(message: Answer) -> tuple[str, str]:
    """Return the (text, thinking) of a message or a delta.

    Thinking is in reasoning_content (llama.cpp, LM Studio, vLLM, DeepSeek), in
    reasoning (Ollama's /v1, OpenRouter, Groq), or in parts of the content
    (Mistral, whose reasoning models send content as a list). OpenAI's models write
    a refusal into the field "refusal" and leave the content empty: the refusal is
    returned as the text.
    """
    thinking = message.optional_text("reasoning_content")
    if not thinking and isinstance(reasoning := message.value("reasoning"), str):
        thinking = reasoning
    if not isinstance(message.value("content"), list):
        refusal = message.value("refusal")
        text = message.optional_text("content") or ""
        if not text and isinstance(refusal, str):
            text = refusal
        return text, thinking or ""
    parts = list(message.objects("content"))
    text = "".join(_texts_of(parts, "text")) or "".join(_texts_of(parts, "refusal"))
    return text, (thinking or "") + "".join(_texts_of(parts, "thinking"))


def _texts_of(parts: list[Answer], kind: str) -> Iterator[str]:
    """Yield the texts of the parts of one kind; thinking is a list of parts too."""
    for part in parts:
        if part.optional_text("type") != kind:
            continue
        if isinstance(part.value(kind), list):
            yield from _texts_of(part.objects(kind), "text")
        else:
            yield part.optional_text(kind) or ""


def _stats_of(usage: Answer | None, timings: Answer | None) -> ChatStats:
    """Return the figures of an answer; timings are llama.cpp's own, in ms."""
    details = usage.figures("prompt_tokens_details") if usage else None
    cached = details.count("cached_tokens") if details else None
    if timings and (cache_n := timings.count("cache_n")) is not None:
        cached = cache_n

    def seconds(key: str) -> float | None:
        return timings.seconds(key, per_second=1e3) if timings else None

    return ChatStats(
        prompt_tokens=usage.count("prompt_tokens") if usage else None,
        cached_tokens=cached,
        completion_tokens=usage.count("completion_tokens") if usage else None,
        prompt_seconds=seconds("prompt_ms"),
        completion_seconds=seconds("predicted_ms"),
    )

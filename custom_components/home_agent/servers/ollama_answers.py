"""Answers of Ollama's native API, translated into those of messages.py and base.py."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
import re
from typing import Final

from .answers import Answer
from .base import LoadedModel, ModelCapability
from .messages import ChatStats

_CAPABILITIES: Final = {
    "completion": ModelCapability.CHAT,
    "embedding": ModelCapability.EMBEDDING,
    "tools": ModelCapability.TOOLS,
    "thinking": ModelCapability.THINKING,
    "vision": ModelCapability.VISION,
}
# A model that is never unloaded expires 292 years after its last use: that is Go's
# longest duration (server/sched.go).
INDEFINITE: Final = timedelta(days=290 * 365)
# Comments in a Modelfile begin with #.
_FROM: Final = re.compile(r"^FROM (.+)$", re.MULTILINE)


def capabilities_of(names: Collection[str] | None) -> frozenset[ModelCapability] | None:
    """Return the capabilities that Ollama's names for them stand for."""
    if names is None:
        return None
    return frozenset(_CAPABILITIES[name] for name in names if name in _CAPABILITIES)


def stats_of(last: Answer) -> ChatStats:
    """Return the figures of an answer; Ollama counts in nanoseconds.

    There is no count of cached tokens: prompt_eval_count includes them (0.30.1).
    """

    def seconds(key: str) -> float | None:
        return last.seconds(key, per_second=1e9)

    return ChatStats(
        prompt_tokens=last.count("prompt_eval_count"),
        completion_tokens=last.count("eval_count"),
        load_seconds=seconds("load_duration"),
        prompt_seconds=seconds("prompt_eval_duration"),
        completion_seconds=seconds("eval_duration"),
    )


def loaded_model(model: Answer, now: datetime, server_now: datetime) -> LoadedModel:
    """Return an entry of /api/ps, with its time by our clock.

    While a request runs, the time is that of the request before, and may lie in
    the past (server/sched.go).
    """
    try:
        expires_at = datetime.fromisoformat(model.text("expires_at"))
        left = expires_at - server_now
        is_indefinite = left > INDEFINITE
        local_time = None if is_indefinite else now + left
    except ValueError, TypeError, OverflowError:
        raise model.malformed("expires_at", "a time with its zone") from None
    return LoadedModel(
        name=model.text("name"),
        size_bytes=model.integer("size"),
        vram_bytes=model.integer("size_vram"),
        expires_at=local_time,
        is_indefinite=is_indefinite,
        context_length=model.integer("context_length"),
        is_busy=left < timedelta(0),
    )


def file_of(show: Answer) -> str | None:
    """Return the file that a model's name stands for, by the answer of /api/show."""
    files: list[str] = _FROM.findall(show.optional_text("modelfile") or "")
    return files[-1] if files else None


def max_context_of(show: Answer) -> int | None:
    """Return the context that a model was trained for, by the answer of /api/show.

    The key begins with the architecture of the model, such as "llama.context_length".
    """
    info = show.optional_object("model_info")
    name = info.optional_text("general.architecture") if info else None
    return (info.count(f"{name}.context_length") or None) if info and name else None


def http_date(text: str | None) -> datetime | None:
    """Return the time of a header Date, None if there is none."""
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)

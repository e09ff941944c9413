"""What goes wrong with a stand-in's answers, when a test asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Failure:
    """An error status with a body, in place of an answer."""

    status: int
    body: Any
    path: str | None = None


@dataclass(frozen=True)
class HangUp:
    """The connection closes after so many bytes of the body.

    With None it closes before there is any answer.
    """

    after_bytes: int | None
    path: str | None = None


@dataclass(frozen=True)
class StreamError:
    """An error takes the place of the rest of a stream."""

    after_lines: int
    text: str
    path: str | None = None


type Fault = Failure | HangUp | StreamError


@dataclass
class Faults:
    """The faults that are still to come, in the order of their asking."""

    waiting: list[Fault] = field(default_factory=list)

    def take[T: (Failure, HangUp, StreamError)](
        self, kind: type[T], request: web.Request
    ) -> T | None:
        """Return the next fault of a kind for a request.

        Without a path of its own a fault is for the next POST, so that a poll in
        between does not take it.
        """
        for fault in self.waiting:
            if isinstance(fault, kind) and _is_for(fault, request):
                self.waiting.remove(fault)
                return fault
        return None


def _is_for(fault: Fault, request: web.Request) -> bool:
    """Return whether a fault is for a request."""
    if fault.path is None:
        return request.method == "POST"
    return fault.path == request.path

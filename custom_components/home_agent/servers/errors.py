"""What can go wrong with a model server, each as one short spoken sentence."""

import re
from typing import Final

from homeassistant.exceptions import HomeAssistantError

from ..const import DOMAIN

_MAX_LOG_DETAIL: Final = 300
# What servers say of a prompt that is too long: Ollama (runner.go,
# errorInputTooLong), llama.cpp, LM Studio, OpenAI, vLLM, Gemini, Anthropic, Groq.
_TOO_LONG: Final = re.compile(
    r"exceeds? (the )?(available |maximum |model'?s )*(context|number of tokens)"
    r"|context_length_exceeded|exceed_context_size|maximum context length"
    r"|greater than the context length|prompt is too long"
    r"|input is too large to process|reduce the length of the messages",
    re.IGNORECASE,
)


class ModelServerError(HomeAssistantError):
    """An error of a model server.

    The translated text is spoken to the user. detail is what the server itself
    said, for the log and the dialogs; it holds no secret.
    """

    key = "server_error"

    def __init__(self, host: str, detail: str = "", *, status: int = 0) -> None:
        """Remember which server failed and what it said.

        status is the HTTP status, 0 where there was none.
        """
        super().__init__(
            translation_domain=DOMAIN,
            translation_key=self.key,
            translation_placeholders={"host": host},
        )
        self.host = host
        self.detail = detail
        self.status = status

    @property
    def log_text(self) -> str:
        """Return one line for the log."""
        status = f" (HTTP {self.status})" if self.status else ""
        detail = self.detail[:_MAX_LOG_DETAIL]
        return f"{type(self).__name__} at {self.host}{status}: {detail}"


class CannotConnect(ModelServerError):
    """The server does not answer at all."""

    key = "cannot_connect"


class InvalidAuth(ModelServerError):
    """The server refuses the API key, or wants one."""

    key = "invalid_auth"


class HostRefused(ModelServerError):
    """The server refuses the name it was addressed by.

    Ollama bound to loopback answers an empty 403 when the Host header is neither
    localhost nor a private address (server/routes.go, allowedHostsMiddleware).
    """

    key = "host_refused"


class ServerTimedOut(ModelServerError):
    """The server answered nothing for longer than the idle timeout."""

    key = "server_timed_out"


class ConnectionLost(ModelServerError):
    """The server hung up before its answer was complete."""

    key = "connection_lost"


class ModelNotFound(ModelServerError):
    """The server does not have the model."""

    key = "model_not_found"


class RequestRefused(ModelServerError):
    """The server refuses the request (another 4xx)."""

    key = "request_refused"


class PromptTooLong(RequestRefused):
    """The prompt has more tokens than the model's context has room for."""

    key = "prompt_too_long"


class MalformedAnswer(ModelServerError):
    """The server's answer does not have the shape that its API promises.

    detail names the field.
    """

    key = "malformed_answer"


class UnknownServer(ModelServerError):
    """Something answers there, but it is no model server that we know."""

    key = "unknown_server"


class NotSupported(ModelServerError):
    """A server of its kind cannot do what was asked."""

    key = "not_supported"


def is_prompt_too_long(detail: str) -> bool:
    """Return whether a server's error text says that the prompt is too long."""
    return _TOO_LONG.search(detail) is not None

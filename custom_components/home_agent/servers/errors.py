"""The ways in which a request to a model server can fail.

Each has a short sentence in the translations, which is spoken to the user. The
sentence names no address and has no text of the server: those are in log_text.
"""

import re
from typing import ClassVar, Final

from homeassistant.exceptions import HomeAssistantError

from ..const import DOMAIN
from .model_names import shown_model

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
# What servers say of a model, or of a set-up, that cannot call tools: Ollama
# (server/images.go, "does not support tools"), llama.cpp without --jinja, vLLM without
# --enable-auto-tool-choice, OpenRouter, Groq, Gemini, LiteLLM.
_NO_TOOLS: Final = re.compile(
    r"does not support (tools?|functions?|(tool|function) calling)\b"
    r"|support tool use|tools param requires|tool choice requires"
    r"|(tool|function) calling`? is not (supported|enabled)"
    r"|does not support parameters?: \[?['\"]tools",
    re.IGNORECASE,
)


class ModelServerError(HomeAssistantError):
    """A request to a model server failed.

    host names the server, for the log. detail is the server's own text or
    the reason that the operating system gave, for the log and the dialogs; it
    holds no secret. status is the HTTP status, 0 if there was none.

    key is that of the translated text. is_transient says whether the same request
    may succeed a second later, without anybody doing anything.
    """

    key: ClassVar[str] = "server_error"
    is_transient: ClassVar[bool] = False

    def __init__(self, host: str, detail: str = "", *, status: int = 0) -> None:
        """Keep what is known of the failure; the class has the details."""
        super().__init__(translation_domain=DOMAIN, translation_key=self.key)
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
    """There is no connection to the server: it is off, or the address is wrong."""

    key = "cannot_connect"


class ConnectionRefused(CannotConnect):
    """The machine answers, but the server does not listen: it may be restarting."""

    is_transient = True


class WrongScheme(CannotConnect):
    """The address begins with https:// and the server speaks HTTP, or vice versa."""

    key = "wrong_scheme"


class InvalidAuth(ModelServerError):
    """The server refuses the API key or the password, or wants one."""

    key = "invalid_auth"


class HostRefused(ModelServerError):
    """The server refuses the host name in the address.

    Ollama bound to loopback answers an empty 403 if the Host header is neither
    localhost nor a private address (server/routes.go, allowedHostsMiddleware).
    """

    key = "host_refused"


class ServerTimedOut(ModelServerError):
    """The server sent nothing, or no end, for longer than the caller waits."""

    key = "server_timed_out"


class ServerBusy(ModelServerError):
    """The server answers 503: it is loading its model, or its queue is full.

    It said so until the caller's patience was over.
    """

    key = "server_busy"


class ConnectionLost(ModelServerError):
    """The server closed the connection before its answer was complete."""

    key = "connection_lost"
    is_transient = True


class ModelNotFound(ModelServerError):
    """The server does not have the model; set_model adds its name to the text."""

    key = "model_not_found"

    def __init__(self, host: str, detail: str = "", *, status: int = 0) -> None:
        """Keep what is known of the failure, without the name of the model."""
        super().__init__(host, detail, status=status)
        self.set_model("")

    def set_model(self, model: str) -> None:
        """Name the model in the text that is spoken."""
        placeholders = self.translation_placeholders or {}
        self.translation_placeholders = {**placeholders, "model": shown_model(model)}


class RequestRefused(ModelServerError):
    """The server refuses the request, with another 4xx status."""

    key = "request_refused"


class PromptTooLong(RequestRefused):
    """The prompt has more tokens than the model's context has room for."""

    key = "prompt_too_long"


class ToolsNotSupported(RequestRefused):
    """The model cannot call tools, or the server does not let it."""

    key = "tools_not_supported"


class MalformedAnswer(ModelServerError):
    """The server's answer does not have the shape that its API promises.

    detail names the field.
    """

    key = "malformed_answer"


class UnknownServer(ModelServerError):
    """Something answers there, but no model server that Home Agent knows."""

    key = "unknown_server"


class NotSupported(ModelServerError):
    """A server of this kind has no such function."""

    key = "not_supported"


def is_away(err: ModelServerError) -> bool:
    """Return whether an error says that the server does not answer at all."""
    return isinstance(err, CannotConnect | ConnectionLost | ServerTimedOut)


def is_prompt_too_long(detail: str) -> bool:
    """Return whether a server's error text says that the prompt is too long."""
    return _TOO_LONG.search(detail) is not None


def is_about_tools(detail: str) -> bool:
    """Return whether a server's error text says that the model cannot call tools."""
    return _NO_TOOLS.search(detail) is not None

"""Clouds: OpenAI-compatible servers that the user does not run."""

from typing import override

from .base import ServerCapability, ServerKind
from .errors import NotSupported
from .messages import LoadRequest
from .openai_compatible import OpenAICompatibleServer


class CloudServer(OpenAICompatibleServer):
    """A known cloud: none of its models can be kept in memory."""

    kind = ServerKind.CLOUD
    capabilities = ServerCapability.NONE

    @override
    def is_own(self, model: str) -> bool:
        """Return False: a request costs money, and the cloud may refuse the field."""
        return False

    @override
    async def load(self, request: LoadRequest) -> None:
        """Raise NotSupported: a request may cost money."""
        raise NotSupported(self.http.host)

"""When to send a failed request once more."""

import asyncio
import logging
from typing import Final

from .errors import ModelServerError

_LOGGER = logging.getLogger(__name__)

# Seconds before the one retry: a server that restarts listens again by then.
RETRY_PAUSE: Final = 1.5


async def async_may_retry(err: ModelServerError) -> bool:
    """Return whether to send the request that failed with err once more.

    If so, wait RETRY_PAUSE seconds before returning. HttpClient never repeats a POST
    request that failed, so the request is repeated only by the caller. A caller that
    has used a part of the answer must not repeat the request.
    """
    if not err.is_transient:
        return False
    _LOGGER.debug("Sending the request again in %s s: %s", RETRY_PAUSE, err.log_text)
    await asyncio.sleep(RETRY_PAUSE)
    return True

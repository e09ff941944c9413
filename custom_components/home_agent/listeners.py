"""How the parts of Home Agent hear of each other: typed lists of callbacks."""

from collections.abc import Callable
import logging

from homeassistant.core import CALLBACK_TYPE, callback

_LOGGER = logging.getLogger(__name__)


class Listeners[*Ts]:
    """Callbacks that are called, in the order they were added, when something happens.

    The type parameters are the arguments of each call.
    """

    def __init__(self) -> None:
        """Start without a callback."""
        self._listeners: list[Callable[[*Ts], None]] = []

    @callback
    def add(self, listener: Callable[[*Ts], None]) -> CALLBACK_TYPE:
        """Call listener from now on; return the function that removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @callback
    def notify(self, *args: *Ts) -> None:
        """Call every listener; a listener may remove itself while it is called.

        A listener that raises is logged and harms nobody else: a sensor that cannot
        show a figure must not cost an answer.
        """
        for listener in list(self._listeners):
            try:
                listener(*args)
            except Exception:
                _LOGGER.exception("Unexpected error in %s", listener)

"""Those who want to be told of something that happens."""

from collections.abc import Callable

from homeassistant.core import CALLBACK_TYPE, callback


class Listeners[*Ts]:
    """Functions that are called with what happens, in the order they came."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._listeners: list[Callable[[*Ts], None]] = []

    @callback
    def add(self, listener: Callable[[*Ts], None]) -> CALLBACK_TYPE:
        """Call listener from now on; return what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @callback
    def notify(self, *args: *Ts) -> None:
        """Call all of them; one that ends itself meanwhile does no harm."""
        for listener in list(self._listeners):
            listener(*args)

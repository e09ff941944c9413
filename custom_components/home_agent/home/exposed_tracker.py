"""Descriptions of all exposed entities, kept current, with notifications of changes."""

from collections.abc import Callable
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import (
    async_listen_entity_updates,
)
from homeassistant.const import (
    ATTR_DEVICE_CLASS,
    ATTR_FRIENDLY_NAME,
    EVENT_STATE_CHANGED,
)
from homeassistant.core import (
    CALLBACK_TYPE,
    Event,
    EventStateChangedData,
    HomeAssistant,
    State,
    callback,
)
from homeassistant.helpers import (
    area_registry as ar,
    device_registry as dr,
    entity_registry as er,
    floor_registry as fr,
)
from homeassistant.util.hass_dict import HassKey

from ..const import DOMAIN
from ..listeners import Listeners
from .exposed import (
    ExposedEntity,
    async_get_exposed_entities,
    describe_exposed,
    is_exposed,
)

# Fields of the entity registry: a change of one may end the exposure of an entity.
_HIDING: Final = frozenset(
    {
        "device_class",
        "entity_category",
        "entity_id",
        "hidden_by",
        "options",
        "original_device_class",
    }
)
# Fields of the device registry that are part of the description of its entities.
_DESCRIBING: Final = frozenset({"area_id", "name", "name_by_user", "parent_device_id"})


class ExposedEntityTracker:
    """Keeps a description of each exposed entity; all config entries share one tracker.

    If one entity changes, only its description is made again: to describe all entities
    of a large home takes tens of milliseconds.
    """

    def __init__(self, hass: HomeAssistant) -> None:
        """Follow changes from now on, until Home Assistant stops."""
        self._hass = hass
        self._entities: dict[str, ExposedEntity] = {}
        self._is_current = False
        self._changed = Listeners[()]()
        listen = hass.bus.async_listen
        listen(ar.EVENT_AREA_REGISTRY_UPDATED, self._many_changed)
        listen(fr.EVENT_FLOOR_REGISTRY_UPDATED, self._many_changed)
        listen(
            dr.EVENT_DEVICE_REGISTRY_UPDATED,
            self._many_changed,
            event_filter=_describes_entities,
        )
        listen(er.EVENT_ENTITY_REGISTRY_UPDATED, self._registry_changed)
        listen(EVENT_STATE_CHANGED, self._state_changed, event_filter=_is_described)
        async_listen_entity_updates(hass, conversation.DOMAIN, self._many_changed)

    @callback
    def async_entities(self) -> dict[str, ExposedEntity]:
        """Return the exposed entities by id; the same mapping until one changes."""
        if not self._is_current:
            self._is_current = True
            entities = async_get_exposed_entities(self._hass)
            # Their order counts too: a ranking keeps it for entities with equal scores.
            if list(entities.items()) != list(self._entities.items()):
                self._entities = entities
        return self._entities

    @callback
    def async_listen(self, changed: Callable[[], None]) -> CALLBACK_TYPE:
        """Call changed whenever the exposed entities may differ.

        changed may be called when nothing of an ExposedEntity is different, and often
        in a short time. Return a function that ends the calls.
        """
        return self._changed.add(changed)

    @callback
    def _many_changed(self, _event: Event[Any] | None = None) -> None:
        """Notify the listeners, and describe all entities again when next needed."""
        self._is_current = False
        self._changed.notify()

    @callback
    def _registry_changed(
        self, event: Event[er.EventEntityRegistryUpdatedData]
    ) -> None:
        """Describe an entity again whose registry entry changed."""
        data = event.data
        may_hide = data["action"] == "remove" or (
            data["action"] == "update" and not _HIDING.isdisjoint(data["changes"])
        )
        self._one_changed(data["entity_id"], may_hide=may_hide)
        if data["action"] == "update" and (old_id := data.get("old_entity_id")):
            self._one_changed(old_id, may_hide=True)

    @callback
    def _state_changed(self, event: Event[EventStateChangedData]) -> None:
        """Describe an entity again whose name or class changed, or that is new."""
        entity_id = event.data["entity_id"]
        old, new = event.data["old_state"], event.data["new_state"]
        if new is None:
            # Home Assistant has forgotten whether an entity without registry entry was
            # exposed.
            may_hide = er.async_get(self._hass).async_get(entity_id) is None
        else:
            # A new class can hide an entity that is exposed by default.
            may_hide = old is not None and _differs(old, new, ATTR_DEVICE_CLASS)
        self._one_changed(entity_id, may_hide=may_hide)

    def _one_changed(self, entity_id: str, *, may_hide: bool) -> None:
        """Describe one entity again; notify the listeners if the result may differ.

        may_hide is whether the change may have ended the exposure of the entity.
        """
        state = self._hass.states.get(entity_id)
        if self._is_current and self._hass.is_running:
            old = self._entities.get(entity_id)
            new = None if state is None else describe_exposed(self._hass, state)
            if new != old:
                self._entities = self._entities.copy()
                if new is None:
                    del self._entities[entity_id]
                else:
                    self._entities[entity_id] = new
                self._changed.notify()
                return
            if state is not None:
                return
            # Without a state, it is no longer described, but may still be in the index:
            # its integration may be reloading.
        else:
            # While Home Assistant starts, thousands of entities appear one by one.
            self._is_current = False
        if may_hide or is_exposed(self._hass, entity_id):
            self._changed.notify()


@callback
def _describes_entities(data: dr.EventDeviceRegistryUpdatedData) -> bool:
    """Return whether the name or area of a device changed.

    A device that is created or removed has its entities changed too.
    """
    return data["action"] == "update" and not _DESCRIBING.isdisjoint(data["changes"])


@callback
def _is_described(data: EventStateChangedData) -> bool:
    """Return whether an entity is new, removed, renamed or of another class."""
    old, new = data["old_state"], data["new_state"]
    return (
        old is None
        or new is None
        or _differs(old, new, ATTR_DEVICE_CLASS)
        or _differs(old, new, ATTR_FRIENDLY_NAME)
    )


def _differs(old: State, new: State, name: str) -> bool:
    """Return whether an attribute differs between two states."""
    return bool(old.attributes.get(name) != new.attributes.get(name))


_DATA: Final[HassKey[ExposedEntityTracker]] = HassKey(f"{DOMAIN}_exposed_entities")


@callback
def exposed_entity_tracker(hass: HomeAssistant) -> ExposedEntityTracker:
    """Return the tracker that all config entries share."""
    if _DATA not in hass.data:
        hass.data[_DATA] = ExposedEntityTracker(hass)
    return hass.data[_DATA]

"""The entities that the user exposed to Assist, with their names and areas."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import (
    async_listen_entity_updates,
    async_should_expose,
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
    intent,
)

from .text import MAX_NAME_LENGTH, one_line


@dataclass(frozen=True, slots=True)
class ExposedEntity:
    """An exposed entity: what it is called and where it is.

    names are its name and its aliases, in the user's order; areas are the name of
    its area and that area's aliases. All texts are single lines, at most
    MAX_NAME_LENGTH characters long. is_secondary is true for a diagnostic or
    configuration entity of a device.
    """

    entity_id: str
    domain: str
    device_class: str | None
    names: tuple[str, ...]
    areas: tuple[str, ...]
    floor: str | None
    area_id: str | None = None
    is_secondary: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """Return every name of the entity's location: area, aliases, id, floor."""
        return (*self.areas, *filter(None, (self.area_id, self.floor)))

    @property
    def text(self) -> str:
        """Return the text that is embedded, such as "Lamp; light; Kitchen".

        Names, domain and device class, area and floor; not the state.
        """
        kind = " ".join(filter(None, (self.domain, self.device_class)))
        location = (*self.areas, *filter(None, (self.floor,)))
        return "; ".join(
            part for part in (", ".join(self.names), kind, ", ".join(location)) if part
        )


@callback
def is_exposed(hass: HomeAssistant, entity_id: str) -> bool:
    """Return whether an entity is exposed to Assist."""
    return async_should_expose(hass, conversation.DOMAIN, entity_id)


@callback
def async_get_exposed_entities(hass: HomeAssistant) -> dict[str, ExposedEntity]:
    """Return all entities that are exposed to Assist, by entity id."""
    return {
        state.entity_id: _describe(hass, state)
        for state in hass.states.async_all()
        if is_exposed(hass, state.entity_id)
    }


@callback
def _describe(hass: HomeAssistant, state: State) -> ExposedEntity:
    """Return the description of an entity."""
    entry = er.async_get(hass).async_get(state.entity_id)
    area = _area(hass, entry)
    floor = area and area.floor_id and fr.async_get(hass).async_get_floor(area.floor_id)
    device_class = state.attributes.get(ATTR_DEVICE_CLASS)
    return ExposedEntity(
        entity_id=state.entity_id,
        domain=state.domain,
        device_class=_line(str(device_class)) if device_class else None,
        names=_lines(intent.async_get_entity_aliases(hass, entry, state=state)),
        areas=_lines((area.name, *sorted(area.aliases))) if area else (),
        floor=_line(floor.name) if floor else None,
        area_id=area.id if area else None,
        is_secondary=entry is not None and entry.entity_category is not None,
    )


def _line(text: str) -> str | None:
    """Return a name as one line, None if nothing is left of it."""
    return one_line(text, MAX_NAME_LENGTH) or None


def _lines(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as one line each, without those of which nothing is left."""
    return tuple(filter(None, map(_line, names)))


@callback
def _area(hass: HomeAssistant, entry: er.RegistryEntry | None) -> ar.AreaEntry | None:
    """Return the area of an entity: its own, or else that of its device."""
    if entry is None:
        return None
    area_id = entry.area_id
    if (
        area_id is None
        and entry.device_id
        and (device := dr.async_get(hass).async_get(entry.device_id))
    ):
        area_id = dr.async_get_effective_area_id(hass, device)
    return ar.async_get(hass).async_get_area(area_id) if area_id else None


@callback
def _is_exposed_or_removed(hass: HomeAssistant, entity_id: str) -> bool:
    """Return whether an entity is exposed; True if it is removed.

    Home Assistant does not know any more whether a removed entity was exposed.
    """
    is_known = hass.states.get(entity_id) or er.async_get(hass).async_get(entity_id)
    return not is_known or is_exposed(hass, entity_id)


@callback
def _is_renamed(data: EventStateChangedData) -> bool:
    """Return whether an entity is new, removed, renamed or of another class."""
    old, new = data["old_state"], data["new_state"]
    return (
        old is None
        or new is None
        or old.attributes.get(ATTR_FRIENDLY_NAME)
        != new.attributes.get(ATTR_FRIENDLY_NAME)
        or old.attributes.get(ATTR_DEVICE_CLASS)
        != new.attributes.get(ATTR_DEVICE_CLASS)
    )


@callback
def _is_moved(data: dr.EventDeviceRegistryUpdatedData) -> bool:
    """Return whether a device may be in another area than before.

    A device without an area of its own is in that of its parent.
    """
    return data["action"] == "update" and bool(
        data["changes"].keys() & {"area_id", "parent_device_id"}
    )


@callback
def async_track_exposed_entities(
    hass: HomeAssistant, changed: Callable[[], None]
) -> CALLBACK_TYPE:
    """Call changed whenever the exposed entities or their names may have changed.

    changed may be called when nothing of an ExposedEntity is different, and often in
    a short time, but not for changes of entities that are not exposed. Return a
    function that ends the calls.
    """

    @callback
    def call_changed(event: Event[Any]) -> None:
        changed()

    @callback
    def is_of_exposed_entity(data: er.EventEntityRegistryUpdatedData) -> bool:
        return _is_exposed_or_removed(hass, data["entity_id"])

    @callback
    def is_renamed(data: EventStateChangedData) -> bool:
        return _is_renamed(data) and _is_exposed_or_removed(hass, data["entity_id"])

    listen = hass.bus.async_listen
    unsubscribe = [
        listen(ar.EVENT_AREA_REGISTRY_UPDATED, call_changed),
        listen(fr.EVENT_FLOOR_REGISTRY_UPDATED, call_changed),
        listen(dr.EVENT_DEVICE_REGISTRY_UPDATED, call_changed, event_filter=_is_moved),
        listen(
            er.EVENT_ENTITY_REGISTRY_UPDATED,
            call_changed,
            event_filter=is_of_exposed_entity,
        ),
        listen(EVENT_STATE_CHANGED, call_changed, event_filter=is_renamed),
        async_listen_entity_updates(hass, conversation.DOMAIN, changed),
    ]

    @callback
    def stop() -> None:
        for unsub in unsubscribe:
            unsub()

    return stop

"""The entities that the user exposed to Assist, with their names and areas."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.components.homeassistant.const import DATA_EXPOSED_ENTITIES
from homeassistant.components.homeassistant.exposed_entities import (
    ExposedEntities,
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
    intent,
)

from .text import MAX_NAME_LENGTH, one_line

# What may hide an entity that was exposed until then, in the entity registry; and
# what is part of the description of a device's entities, in the device registry.
_HIDING: Final = frozenset(
    {"device_class", "entity_category", "entity_id", "hidden_by", "options"}
    | {"original_device_class"}
)
_DESCRIBING: Final = frozenset({"area_id", "name", "name_by_user", "parent_device_id"})


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
    """Return whether an entity is exposed to Assist.

    Home Assistant's async_should_expose would store the default of an entity without
    a setting, so that a default that changes later had no effect.
    """
    assistant = conversation.DOMAIN
    settings = hass.data[DATA_EXPOSED_ENTITIES]
    if hasattr(settings, "async_get_should_expose"):
        return settings.async_get_should_expose(assistant, entity_id)
    return _is_exposed_in_2026_10(settings, assistant, er.async_get(hass), entity_id)


def _is_exposed_in_2026_10(
    settings: ExposedEntities,
    assistant: str,
    registry: er.EntityRegistry,
    entity_id: str,
) -> bool:
    """Return what async_get_should_expose of Home Assistant 2026.11 returns."""
    options: Mapping[str, Mapping[str, Any]] = {}
    if entry := registry.async_get(entity_id):
        options = entry.options
    elif entity := settings.entities.get(entity_id):
        options = entity.assistants
    should_expose: bool | None = options.get(assistant, {}).get("should_expose")
    if should_expose is not None:
        return should_expose
    if not settings.async_get_expose_new_entities(assistant):
        return False
    return settings._is_default_exposed(entity_id, entry)  # noqa: SLF001 - 2026.10 has no other way


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


def _attribute_changed(old: State, new: State, name: str) -> bool:
    """Return whether an attribute differs between two states."""
    return bool(old.attributes.get(name) != new.attributes.get(name))


@callback
def _concerns_state(hass: HomeAssistant, data: EventStateChangedData) -> bool:
    """Return whether an exposed entity is new, removed, renamed or of a new class.

    A new class can hide an entity that is exposed by default.
    """
    old, new = data["old_state"], data["new_state"]
    if new is None:
        # Home Assistant has forgotten whether an entity without registry entry was.
        entity_id = data["entity_id"]
        is_known = er.async_get(hass).async_get(entity_id) is not None
        return not is_known or is_exposed(hass, entity_id)
    if old is not None and _attribute_changed(old, new, ATTR_DEVICE_CLASS):
        return True
    is_renamed = old is None or _attribute_changed(old, new, ATTR_FRIENDLY_NAME)
    return is_renamed and is_exposed(hass, new.entity_id)


@callback
def _concerns_entity(
    hass: HomeAssistant, data: er.EventEntityRegistryUpdatedData
) -> bool:
    """Return whether an exposed entity changed, or one that may have been."""
    if data["action"] == "remove":
        return True
    if data["action"] == "update" and not _HIDING.isdisjoint(data["changes"]):
        return True
    return is_exposed(hass, data["entity_id"])


@callback
def _concerns_device(data: dr.EventDeviceRegistryUpdatedData) -> bool:
    """Return whether the name or area of a device changed.

    A device that is created or removed has its entities changed too.
    """
    return data["action"] == "update" and not _DESCRIBING.isdisjoint(data["changes"])


@callback
def async_track_exposed_entities(
    hass: HomeAssistant, changed: Callable[[], None]
) -> CALLBACK_TYPE:
    """Call changed whenever the exposed entities or their names may have changed.

    changed may be called when nothing of an ExposedEntity is different, and often in
    a short time. Return a function that ends the calls.
    """

    @callback
    def call(event: Event[Any]) -> None:
        changed()

    listen = hass.bus.async_listen
    unsubscribe = [
        listen(ar.EVENT_AREA_REGISTRY_UPDATED, call),
        listen(fr.EVENT_FLOOR_REGISTRY_UPDATED, call),
        listen(
            er.EVENT_ENTITY_REGISTRY_UPDATED,
            call,
            event_filter=partial(_concerns_entity, hass),
        ),
        listen(dr.EVENT_DEVICE_REGISTRY_UPDATED, call, event_filter=_concerns_device),
        listen(EVENT_STATE_CHANGED, call, event_filter=partial(_concerns_state, hass)),
        async_listen_entity_updates(hass, conversation.DOMAIN, changed),
    ]

    @callback
    def stop() -> None:
        for unsub in unsubscribe:
            unsub()

    return stop

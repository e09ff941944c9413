"""The entities that the user exposed to Assist, and how to describe them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

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

_REGISTRY_EVENTS: Final[tuple[Any, ...]] = (
    er.EVENT_ENTITY_REGISTRY_UPDATED,
    dr.EVENT_DEVICE_REGISTRY_UPDATED,
    ar.EVENT_AREA_REGISTRY_UPDATED,
    fr.EVENT_FLOOR_REGISTRY_UPDATED,
)


@dataclass(frozen=True, slots=True)
class ExposedEntity:
    """An entity as people speak of it; names has its aliases too.

    is_secondary: a diagnostic entity or a setting of a device.
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
        """Return all that its place may be called."""
        return (*self.areas, *filter(None, (self.area_id, self.floor)))

    @property
    def text(self) -> str:
        """Return what is embedded: everything about it but its state."""
        kind = " ".join(filter(None, (self.domain, self.device_class)))
        places = (*self.areas, *filter(None, (self.floor,)))
        return "; ".join(
            part for part in (", ".join(self.names), kind, ", ".join(places)) if part
        )


@callback
def is_exposed(hass: HomeAssistant, entity_id: str) -> bool:
    """Return whether an entity is exposed to Assist."""
    return async_should_expose(hass, conversation.DOMAIN, entity_id)


@callback
def async_get_exposed_entities(hass: HomeAssistant) -> dict[str, ExposedEntity]:
    """Return all entities that are exposed to Assist, by their ids."""
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
        device_class=str(device_class) if device_class else None,
        names=tuple(intent.async_get_entity_aliases(hass, entry, state=state)),
        areas=(area.name, *sorted(area.aliases)) if area else (),
        floor=floor.name if floor else None,
        area_id=area.id if area else None,
        is_secondary=entry is not None and entry.entity_category is not None,
    )


@callback
def _area(hass: HomeAssistant, entry: er.RegistryEntry | None) -> ar.AreaEntry | None:
    """Return the area of an entity: its own, else its device's."""
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
def async_track_exposed_entities(
    hass: HomeAssistant, changed: Callable[[], None]
) -> CALLBACK_TYPE:
    """Call changed whenever the exposed entities or their names may have changed.

    Return a function that ends it.
    """

    @callback
    def registry_changed(event: Event[Any]) -> None:
        changed()

    @callback
    def is_another(data: EventStateChangedData) -> bool:
        """Return whether an entity is new, gone or described in another way."""
        old, new = data["old_state"], data["new_state"]
        return (
            old is None
            or new is None
            or old.attributes.get(ATTR_FRIENDLY_NAME)
            != new.attributes.get(ATTR_FRIENDLY_NAME)
            or old.attributes.get(ATTR_DEVICE_CLASS)
            != new.attributes.get(ATTR_DEVICE_CLASS)
        )

    unsubscribe = [
        *(hass.bus.async_listen(event, registry_changed) for event in _REGISTRY_EVENTS),
        hass.bus.async_listen(
            EVENT_STATE_CHANGED, registry_changed, event_filter=is_another
        ),
        async_listen_entity_updates(hass, conversation.DOMAIN, changed),
    ]

    @callback
    def end() -> None:
        for unsub in unsubscribe:
            unsub()

    return end

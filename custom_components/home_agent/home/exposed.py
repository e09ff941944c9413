"""The entities that the user exposed to Assist, with their names and areas."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeassistant.components import conversation
from homeassistant.components.homeassistant.const import DATA_EXPOSED_ENTITIES
from homeassistant.components.homeassistant.exposed_entities import ExposedEntities
from homeassistant.const import ATTR_DEVICE_CLASS
from homeassistant.core import HomeAssistant, State, callback
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
        state.entity_id: entity
        for state in hass.states.async_all()
        if (entity := describe_exposed(hass, state)) is not None
    }


@callback
def describe_exposed(hass: HomeAssistant, state: State) -> ExposedEntity | None:
    """Return the description of an entity, None if it is not exposed to Assist."""
    if not is_exposed(hass, state.entity_id):
        return None
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

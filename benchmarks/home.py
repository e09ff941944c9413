"""A large home for the benchmarks, and questions about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
import re

from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.const import EntityCategory
from homeassistant.core import HomeAssistant
from homeassistant.helpers import (
    area_registry as ar,
    entity_registry as er,
    floor_registry as fr,
)
from homeassistant.util import slugify

_HOME = Path(__file__).with_name("home.txt")
_QUESTIONS = Path(__file__).with_name("questions.txt")
# What every device of a radio network brings with it.
_DIAGNOSTICS = (
    ("sensor", "battery", "Battery"),
    ("sensor", "signal_strength", "Signal Strength"),
    ("update", "firmware", "Firmware"),
    ("button", "identify", "Identify"),
)


@dataclass(frozen=True)
class Thing:
    """An entity of the home; key is area.name, as the questions write it."""

    area: str
    floor: str
    domain: str
    device_class: str | None
    name: str
    aliases: tuple[str, ...]

    @property
    def key(self) -> str:
        """Return what the questions call it."""
        return f"{slugify(self.area)}.{slugify(self.name)}"


@dataclass(frozen=True)
class Question:
    """A question, and the keys of the entities that answer it."""

    kind: str
    text: str
    answers: tuple[str, ...]


def things() -> Iterator[Thing]:
    """Yield the entities of the home."""
    area = floor = ""
    for line in _lines(_HOME):
        if match := re.fullmatch(r"\[(.+) \| (.+)\]", line):
            area, floor = match.groups()
            continue
        kind, name, others = (part.strip() for part in line.split("|"))
        domain, _, device_class = kind.partition(" ")
        aliases = tuple(filter(None, (alias.strip() for alias in others.split(","))))
        name = name.replace("~", area)
        yield Thing(area, floor, domain, device_class or None, name, aliases)


def questions() -> Iterator[Question]:
    """Yield the questions."""
    for line in _lines(_QUESTIONS):
        kind, text, answers = (part.strip() for part in line.split("|"))
        yield Question(kind, text, tuple(answers.split(", ")))


def furnish(hass: HomeAssistant, exposed: int = 0) -> dict[str, str]:
    """Put the home into Home Assistant; return the entities' ids by their keys.

    Diagnostic entities make it as many exposed ones as are asked for.
    """
    areas, floors = ar.async_get(hass), fr.async_get(hass)
    ids: dict[str, str] = {}
    for thing in things():
        area = areas.async_get_area_by_name(thing.area)
        if area is None:
            floor = floors.async_get_floor_by_name(thing.floor)
            floor = floor or floors.async_create(thing.floor)
            area = areas.async_create(thing.area, floor_id=floor.floor_id)
        ids[thing.key] = _add(
            hass,
            thing.domain,
            thing.device_class,
            thing.name,
            area.id,
            aliases=thing.aliases,
        )
    devices = list(things())
    for number, (domain, device_class, what) in zip(
        range(exposed - len(ids)), cycle(_DIAGNOSTICS), strict=False
    ):
        thing = devices[number // len(_DIAGNOSTICS)]
        area = areas.async_get_area_by_name(thing.area)
        assert area
        name = f"{thing.name} {what}"
        _add(hass, domain, device_class, name, area.id, category=True)
    return ids


def _add(
    hass: HomeAssistant,
    domain: str,
    device_class: str | None,
    name: str,
    area_id: str,
    *,
    aliases: tuple[str, ...] = (),
    category: bool = False,
) -> str:
    """Add an exposed entity; return its id."""
    registry = er.async_get(hass)
    entry = registry.async_get_or_create(
        domain,
        "test",
        f"{area_id} {name}",
        original_name=name,
        suggested_object_id=f"{area_id} {name}",
        entity_category=EntityCategory.DIAGNOSTIC if category else None,
    )
    registry.async_update_entity(
        entry.entity_id,
        area_id=area_id,
        aliases=[er.COMPUTED_NAME, *aliases],
    )
    attributes = {"friendly_name": name}
    if device_class:
        attributes["device_class"] = device_class
    state = "21.5" if domain == "sensor" else "off"
    hass.states.async_set(entry.entity_id, state, attributes)
    async_expose_entity(hass, conversation.DOMAIN, entry.entity_id, True)
    return entry.entity_id


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines that say something."""
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield line

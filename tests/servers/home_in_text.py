"""What a prompt, a question and the result of a tool say about a home."""

from collections.abc import Iterable
from dataclasses import dataclass, field
import re

# What people call the entities of a domain, and of a device class.
KINDS = {
    "light": ("light", "lights", "lamp", "lamps"),
    "cover": ("blind", "blinds", "shutter", "shutters", "cover", "covers", "curtains"),
    "switch": ("switch", "switches", "outlets"),
    "fan": ("fan", "fans"),
    "media_player": ("music", "speakers", "players"),
    "lock": ("locks", "locked", "unlocked"),
    "climate": ("heating", "thermostat", "thermostats"),
    "vacuum": ("vacuum",),
}
CLASSES = {
    "temperature": ("temperature", "warm", "cold", "hot"),
    "humidity": ("humidity", "humid"),
    "window": ("window", "windows"),
    "door": ("door", "doors"),
    "motion": ("motion", "movement"),
    "carbon_dioxide": ("air", "co2"),
}
# Classes that are on while something is open.
CONTACTS = ("window", "door")
FLOORS = {
    "upstairs": "Upper Floor",
    "downstairs": "Ground Floor",
    "basement": "Basement",
    "cellar": "Basement",
}


@dataclass
class Thing:
    """An entity as a text describes it."""

    names: list[str]
    domain: str = ""
    state: str = ""
    areas: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the first name."""
        return self.names[0] if self.names else ""

    @property
    def device_class(self) -> str | None:
        """Return the device class, None if the text names none."""
        return self.attributes.get("device_class")

    @property
    def shown(self) -> str:
        """Return the state, with its unit."""
        return f"{self.state} {self.attributes.get('unit_of_measurement', '')}".strip()


def things_in(text: str) -> list[Thing]:
    """Return the entities that a text lists.

    The list of Home Assistant's prompt and of its live context:

        - names: Kitchen Light
          domain: light
          areas: Kitchen

    and the one that stands in front of a question: "- Lamp (light, Kitchen): on".
    """
    found: list[Thing] = []
    for line in text.splitlines():
        if match := re.match(r"- (?!names:)(.+?) \((\w+)(?:, (.+?))?\): ([^,]*)", line):
            name, domain, area, state = match.groups()
            found.append(Thing([name], domain, state, [area] if area else []))
        elif match := re.match(r"- names: (.+)", line):
            found.append(Thing(_listed(match[1])))
        elif found and (match := re.match(r"  +(\w+): (.+)", line)):
            _add(found[-1], match[1], match[2])
    return found


def _add(thing: Thing, key: str, value: str) -> None:
    """Add what a line says about an entity."""
    if key == "alias":
        thing.names.append(value)
    elif key == "areas":
        thing.areas = _listed(value)
    elif key in ("domain", "state"):
        setattr(thing, key, value.strip("'\""))
    else:
        thing.attributes[key] = value.strip("'\"")


def _listed(text: str) -> list[str]:
    """Return the parts of a list with commas."""
    return [part.strip() for part in text.strip().strip("'\"").split(",")]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[a-z0-9]+", text.lower().replace("'s", "s"))


def kind_of(words: Iterable[str], kinds: dict[str, tuple[str, ...]]) -> str | None:
    """Return the domain or the device class that one of the words stands for."""
    for word in words:
        for kind, names in kinds.items():
            if word in names:
                return kind
    return None


def overlap(wanted: set[str], name: str) -> float:
    """Return how well a name fits some words."""
    have = set(words_of(name))
    return len(wanted & have) - 0.1 * len(have - wanted)


def best_thing(words: Iterable[str], things: Iterable[Thing]) -> Thing | None:
    """Return the entity whose name fits some words best, None if none does."""
    wanted = set(words)
    best, best_score = None, 0.0
    for thing in things:
        score = max((overlap(wanted, name) for name in thing.names), default=0.0)
        if score > best_score:
            best, best_score = thing, score
    return best


def place_in(text: str, things: Iterable[Thing]) -> dict[str, str]:
    """Return the area or the floor that a sentence names, as arguments of a tool."""
    lowered = text.lower().replace("'", "")
    areas = {area for thing in things for area in thing.areas}
    for area in sorted(areas, key=len, reverse=True):
        if re.search(rf"\b{re.escape(area.lower().replace("'", ''))}\b", lowered):
            return {"area": area}
    if match := re.search(r"\b(\w+) floor\b", lowered):
        return {"floor": f"{match[1].title()} Floor"}
    for word, floor in FLOORS.items():
        if re.search(rf"\b{word}\b", lowered):
            return {"floor": floor}
    return {}

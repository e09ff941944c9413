"""The description of the example home: its floors, rooms and things."""

from dataclasses import dataclass
from typing import Any, Final

DOMAIN: Final = "example_home"
IS_LARGE: Final = "is_large"
PLATFORMS: Final = (
    "binary_sensor",
    "climate",
    "cover",
    "fan",
    "light",
    "lock",
    "media_player",
    "sensor",
    "switch",
    "vacuum",
)
# The level of each floor; the garden has no floor.
FLOORS: Final = {"Basement": -1, "Ground Floor": 0, "Upper Floor": 1}
GUEST_ROOMS: Final = 40


@dataclass(frozen=True)
class Thing:
    """A device with one entity.

    value is what it shows at the start: a number for a sensor and the wanted
    temperature of a thermostat, else whether it is on, open or locked.
    """

    domain: str
    name: str
    value: Any = False
    device_class: str | None = None
    unit: str | None = None

    @property
    def key(self) -> str:
        """Return the name as a part of an entity id."""
        return self.name.lower().replace("'", "").replace(" ", "_")

    @property
    def entity_id(self) -> str:
        """Return the id of the thing's entity."""
        return f"{self.domain}.{self.key}"


@dataclass(frozen=True)
class Room:
    """A room, the floor it is on (None for the garden), and what is in it."""

    floor: str | None
    name: str
    icon: str
    things: tuple[Thing, ...]

    def sensor_id(self, device_class: str) -> str | None:
        """Return the id of the first sensor of this class, None without one."""
        ids = (
            item.entity_id for item in self.things if item.device_class == device_class
        )
        return next(ids, None)


def temperature(name: str, celsius: float) -> Thing:
    """Return a thermometer."""
    return Thing("sensor", name, celsius, "temperature", "°C")


def window(name: str, *, is_open: bool = False) -> Thing:
    """Return the contact of a window."""
    return Thing("binary_sensor", name, is_open, "window")


HOME: Final = (
    Room(
        "Ground Floor",
        "Kitchen",
        "mdi:stove",
        (
            Thing("light", "Kitchen Light"),
            Thing("light", "Counter Light"),
            Thing("switch", "Coffee Machine"),
            Thing("media_player", "Kitchen Radio"),
            temperature("Kitchen Temperature", 21.4),
            temperature("Fridge Temperature", 4.5),
            window("Kitchen Window"),
        ),
    ),
    Room(
        "Ground Floor",
        "Living Room",
        "mdi:sofa",
        (
            Thing("light", "Ceiling Lamp", value=True),
            Thing("light", "Reading Lamp"),
            Thing("cover", "Living Room Blinds", True, "blind"),
            Thing("climate", "Living Room Thermostat", 21.0),
            Thing("media_player", "Living Room TV", value=True),
            Thing("vacuum", "Robot Vacuum"),
            temperature("Living Room Temperature", 21.8),
            Thing("sensor", "Living Room Air Quality", 640, "carbon_dioxide", "ppm"),
            Thing("binary_sensor", "Patio Door", False, "door"),
        ),
    ),
    Room(
        "Ground Floor",
        "Hallway",
        "mdi:coat-rack",
        (
            Thing("light", "Hallway Light", value=True),
            Thing("lock", "Front Door", value=True),
            Thing("binary_sensor", "Hallway Motion", False, "motion"),
        ),
    ),
    Room(
        "Ground Floor",
        "Dining Room",
        "mdi:table-chair",
        (
            Thing("light", "Dining Table Lamp"),
            Thing("cover", "Dining Room Blinds", True, "blind"),
        ),
    ),
    Room(
        "Upper Floor",
        "Bedroom",
        "mdi:bed",
        (
            Thing("light", "Bedside Lamp"),
            Thing("light", "Bedroom Ceiling Light", value=True),
            Thing("cover", "Bedroom Shutters", True, "shutter"),
            Thing("climate", "Bedroom Thermostat", 18.0),
            temperature("Bedroom Temperature", 19.5),
            window("Bedroom Window", is_open=True),
        ),
    ),
    Room(
        "Upper Floor",
        "Children's Room",
        "mdi:teddy-bear",
        (
            Thing("light", "Night Light"),
            Thing("light", "Homework Lamp"),
            Thing("cover", "Children's Shutters", True, "shutter"),
            Thing("climate", "Children's Thermostat", 20.0),
            temperature("Children's Room Temperature", 20.3),
        ),
    ),
    Room(
        "Upper Floor",
        "Bathroom",
        "mdi:shower",
        (
            Thing("light", "Mirror Light"),
            Thing("switch", "Towel Heater"),
            Thing("fan", "Bathroom Fan"),
            Thing("sensor", "Bathroom Humidity", 58, "humidity", "%"),
            window("Bathroom Window"),
        ),
    ),
    Room(
        "Upper Floor",
        "Office",
        "mdi:desk",
        (
            Thing("light", "Office Lamp", value=True),
            Thing("switch", "Printer"),
            Thing("cover", "Office Blinds", True, "blind"),
            temperature("Office Temperature", 22.1),
        ),
    ),
    Room(
        "Basement",
        "Utility Room",
        "mdi:washing-machine",
        (
            Thing("light", "Utility Room Light"),
            Thing("switch", "Washing Machine", value=True),
            Thing("switch", "Tumble Dryer"),
            Thing("sensor", "Utility Room Humidity", 63, "humidity", "%"),
        ),
    ),
    Room(
        "Basement",
        "Garage",
        "mdi:garage",
        (
            Thing("light", "Garage Light"),
            Thing("cover", "Garage Door", False, "garage"),
            Thing("switch", "Car Charger", value=True),
        ),
    ),
    Room(
        "Basement",
        "Workshop",
        "mdi:hammer-wrench",
        (
            Thing("light", "Workbench Light", value=True),
            Thing("switch", "Table Saw"),
        ),
    ),
    Room(
        None,
        "Garden",
        "mdi:tree",
        (
            Thing("light", "Terrace Lights"),
            Thing("switch", "Garden Pump"),
            temperature("Outdoor Temperature", 7.2),
            Thing("cover", "Terrace Awning", False, "awning"),
        ),
    ),
)


def guest_room(number: int) -> Room:
    """Return one of the guest rooms of the large home."""
    name = f"Guest Room {number}"
    return Room(
        tuple(FLOORS)[number % len(FLOORS)],
        name,
        "mdi:bed",
        (
            Thing("light", f"{name} Light"),
            Thing("light", f"{name} Bedside Lamp"),
            Thing("switch", f"{name} Kettle"),
            Thing("cover", f"{name} Curtains", True, "curtain"),
            Thing("climate", f"{name} Thermostat", 20.0),
            Thing("media_player", f"{name} TV"),
            temperature(f"{name} Temperature", 18 + number / 10),
            window(f"{name} Window"),
        ),
    )


def rooms(*, is_large: bool) -> list[Room]:
    """Return the rooms of the home; a large one has guest rooms too."""
    guests = range(1, GUEST_ROOMS + 1) if is_large else ()
    return [*HOME, *(guest_room(number) for number in guests)]

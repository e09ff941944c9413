"""Whatever happens to a home, the exposed entities that are kept are current."""

from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

from homeassistant.components import conversation
from homeassistant.components.homeassistant.const import DATA_EXPOSED_ENTITIES
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.const import EntityCategory
from homeassistant.core import CoreState, HomeAssistant
from homeassistant.helpers import (
    area_registry as ar,
    device_registry as dr,
    entity_registry as er,
    floor_registry as fr,
)
from hypothesis import given, strategies as st
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.home.exposed import async_get_exposed_entities
from custom_components.home_agent.home.exposed_tracker import exposed_entity_tracker

# A failing example is made smaller, which takes time.
pytestmark = pytest.mark.timeout(300)

ENTITIES: Final = tuple(f"{domain}.thing" for domain in ("light", "sensor", "lock"))


class Happenings:
    """What can happen to a home: method by method, to an entity, the number-th time."""

    def __init__(self, hass: HomeAssistant) -> None:
        """Make an area and a device, and remove what another example left."""
        self._hass = hass
        self._entities, self._devices = er.async_get(hass), dr.async_get(hass)
        self._areas, self._floors = ar.async_get(hass), fr.async_get(hass)
        for entity_id in (*ENTITIES, "light.renamed", "sensor.renamed", "lock.renamed"):
            self.remove(entity_id, 0)
            self.no_state(entity_id, 0)
            hass.data[DATA_EXPOSED_ENTITIES].entities.pop(entity_id, None)
        config_entry = MockConfigEntry(domain="test")
        config_entry.add_to_hass(hass)
        self._area_id = self._areas.async_get_or_create("Cellar").id
        self._device_id = self._devices.async_get_or_create(
            config_entry_id=config_entry.entry_id, identifiers={("test", "1")}
        ).id

    def _attributes(self, entity_id: str) -> dict[str, Any]:
        """Return the attributes of an entity's state."""
        state = self._hass.states.get(entity_id)
        return dict(state.attributes) if state else {}

    def _update(self, entity_id: str, **changes: Any) -> None:
        """Change the registry entry of an entity, if it has one."""
        if self._entities.async_get(entity_id):
            self._entities.async_update_entity(entity_id, **changes)

    def state(self, entity_id: str, number: int) -> None:
        """Change only the state."""
        self._hass.states.async_set(entity_id, str(number), self._attributes(entity_id))

    def no_state(self, entity_id: str, number: int) -> None:
        """Remove the state, as a reload does."""
        self._hass.states.async_remove(entity_id)

    def name(self, entity_id: str, number: int) -> None:
        """Rename the entity as its integration does."""
        names = {"friendly_name": f"Name {number}"}
        self._hass.states.async_set(
            entity_id, "on", self._attributes(entity_id) | names
        )

    def device_class(self, entity_id: str, number: int) -> None:
        """Change the class, and with it whether a sensor is exposed by default."""
        new = {"device_class": ("temperature", "timestamp")[number % 2]}
        self._hass.states.async_set(entity_id, "1", self._attributes(entity_id) | new)

    def expose(self, entity_id: str, number: int) -> None:
        """Expose the entity, or do not."""
        async_expose_entity(
            self._hass, conversation.DOMAIN, entity_id, bool(number % 2)
        )

    def register(self, entity_id: str, number: int) -> None:
        """Add a registry entry."""
        if not self._entities.async_is_registered(entity_id):
            domain, name = entity_id.split(".")
            self._entities.async_get_or_create(
                domain,
                "test",
                # Home Assistant restores an entry with a unique id that it knows.
                uuid4().hex,
                original_name=name,
                suggested_object_id=name,
                device_id=self._device_id,
            )

    def remove(self, entity_id: str, number: int) -> None:
        """Remove the registry entry."""
        if self._entities.async_get(entity_id):
            self._entities.async_remove(entity_id)

    def rename(self, entity_id: str, number: int) -> None:
        """Change the entity id."""
        new_id = f"{entity_id.split('.', maxsplit=1)[0]}.renamed"
        if not self._entities.async_is_registered(new_id):
            self._update(entity_id, new_entity_id=new_id)

    def own_name(self, entity_id: str, number: int) -> None:
        """Rename the entity as a user does."""
        self._update(entity_id, name=f"Own {number}")

    def alias(self, entity_id: str, number: int) -> None:
        """Add an alias."""
        self._update(entity_id, aliases=[f"Alias {number}"])

    def category(self, entity_id: str, number: int) -> None:
        """Make it an entity for configuration, or an ordinary one."""
        category = EntityCategory.CONFIG if number % 2 else None
        self._update(entity_id, entity_category=category)

    def hidden(self, entity_id: str, number: int) -> None:
        """Hide the entity everywhere, or do not."""
        hidden_by = er.RegistryEntryHider.USER if number % 2 else None
        self._update(entity_id, hidden_by=hidden_by)

    def area(self, entity_id: str, number: int) -> None:
        """Give the entity an area of its own, or none."""
        self._update(entity_id, area_id=self._area_id if number % 2 else None)

    def device(self, entity_id: str, number: int) -> None:
        """Take the entity from its device, or put it back."""
        self._update(entity_id, device_id=self._device_id if number % 2 else None)

    def device_area(self, entity_id: str, number: int) -> None:
        """Move the device."""
        area_id = self._area_id if number % 2 else None
        self._devices.async_update_device(self._device_id, area_id=area_id)

    def device_name(self, entity_id: str, number: int) -> None:
        """Rename the device."""
        name = f"Device {number}"
        self._devices.async_update_device(self._device_id, name_by_user=name)

    def area_alias(self, entity_id: str, number: int) -> None:
        """Give the area another alias."""
        self._areas.async_update(self._area_id, aliases={f"Alias {number}"})

    def floor(self, entity_id: str, number: int) -> None:
        """Put the area on another floor."""
        floor = self._floors.async_get_floor_by_name(
            f"Floor {number}"
        ) or self._floors.async_create(f"Floor {number}")
        self._areas.async_update(self._area_id, floor_id=floor.floor_id)

    def start(self, entity_id: str, number: int) -> None:
        """Let Home Assistant be starting, or running again."""
        is_starting = self._hass.state is CoreState.starting
        self._hass.set_state(CoreState.running if is_starting else CoreState.starting)


type What = Callable[[Happenings, str, int], None]

WHAT: Final[list[What]] = [
    value for name, value in vars(Happenings).items() if not name.startswith("_")
]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(WHAT),
            st.sampled_from(ENTITIES),
            st.integers(0, 3),
            st.booleans(),
        )
    )
)
async def test_what_is_kept_equals_what_is_read_anew(
    home: HomeAssistant, steps: list[tuple[What, str, int, bool]]
) -> None:
    """Whatever happens, whether it is read in between; and each change is reported."""
    happenings = Happenings(home)
    tracker = exposed_entity_tracker(home)
    kept = dict(tracker.async_entities())
    calls: list[None] = []
    stop = tracker.async_listen(lambda: calls.append(None))
    try:
        for what, entity_id, number, is_read in steps:
            what(happenings, entity_id, number)
            await home.async_block_till_done()
            anew = async_get_exposed_entities(home)
            assert calls or kept == anew
            if is_read:
                assert tracker.async_entities() == anew
                kept = anew
                calls.clear()
        assert tracker.async_entities() == async_get_exposed_entities(home)
    finally:
        stop()
        home.set_state(CoreState.running)

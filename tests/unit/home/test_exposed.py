"""Which entities are exposed, and which changes are reported."""

from homeassistant.components import conversation
from homeassistant.components.homeassistant.const import DATA_EXPOSED_ENTITIES
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.const import EntityCategory
from homeassistant.core import HomeAssistant
from homeassistant.helpers import (
    area_registry as ar,
    device_registry as dr,
    entity_registry as er,
)
from homeassistant.setup import async_setup_component
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from custom_components.home_agent.home.exposed import (
    async_get_exposed_entities,
    is_exposed,
)
from custom_components.home_agent.home.exposed_tracker import exposed_entity_tracker


@pytest.mark.parametrize("exposes_new", [True, False])
async def test_asking_for_exposure_stores_nothing(
    hass: HomeAssistant, *, exposes_new: bool
) -> None:
    """An entity without a setting has none afterwards, registered or not.

    Home Assistant's conversation is not set up here: it stores the defaults itself.
    """
    assert await async_setup_component(hass, "homeassistant", {})
    settings = hass.data[DATA_EXPOSED_ENTITIES]
    settings.async_set_expose_new_entities(conversation.DOMAIN, exposes_new)
    registry = er.async_get(hass)
    lamp = registry.async_get_or_create("light", "test", "lamp").entity_id
    signal = registry.async_get_or_create(
        "sensor", "test", "signal", entity_category=EntityCategory.DIAGNOSTIC
    ).entity_id
    warm = "sensor.warm"
    hass.states.async_set(warm, "20", {"device_class": "temperature"})
    for entity_id in (lamp, signal, "light.other", "sensor.other"):
        hass.states.async_set(entity_id, "on")
    found = {lamp, "light.other", warm} if exposes_new else set()
    assert async_get_exposed_entities(hass).keys() == found
    assert not is_exposed(hass, "sensor.gone")
    assert settings.entities == {}
    for entity_id in (lamp, signal):
        entry = registry.async_get(entity_id)
        assert entry
        assert entry.options == {}
    for entity_id in (lamp, "light.other"):
        for value in (False, True):
            async_expose_entity(hass, conversation.DOMAIN, entity_id, value)
            assert is_exposed(hass, entity_id) is value


@pytest.mark.parametrize("is_read", [True, False])
async def test_only_changes_of_exposed_entities_are_reported(
    hass: HomeAssistant, *, is_read: bool
) -> None:
    """A hidden entity may change its name; a device what nobody sees.

    Whether somebody has read the exposed entities since the last change or not.
    """
    assert await async_setup_component(hass, "homeassistant", {})
    config_entry = MockConfigEntry()
    config_entry.add_to_hass(hass)
    devices, registry = dr.async_get(hass), er.async_get(hass)
    device = devices.async_get_or_create(
        config_entry_id=config_entry.entry_id, identifiers={("test", "1")}
    )
    shown = registry.async_get_or_create(
        "light", "test", "shown", device_id=device.id
    ).entity_id
    hidden = registry.async_get_or_create("light", "test", "hidden").entity_id
    for entity_id in (shown, hidden):
        async_expose_entity(hass, conversation.DOMAIN, entity_id, entity_id == shown)
        hass.states.async_set(entity_id, "on")
    tracker = exposed_entity_tracker(hass)
    calls = 0

    def changed() -> None:
        nonlocal calls
        calls += 1

    async def reported() -> bool:
        nonlocal calls
        await hass.async_block_till_done()
        before, calls = calls, 0
        if is_read:
            tracker.async_entities()
        return before > 0

    stop = tracker.async_listen(changed)
    area = ar.async_get(hass).async_create("Kitchen")
    assert await reported()
    registry.async_update_entity(hidden, name="Other", area_id=area.id)
    hass.states.async_set(hidden, "on", {"friendly_name": "Other"})
    hass.states.async_set(shown, "off")
    devices.async_update_device(device.id, sw_version="2")
    assert not await reported()
    registry.async_update_entity(shown, name="Other")
    hass.states.async_set(shown, "off", {"friendly_name": "Other"})
    assert await reported()
    devices.async_update_device(device.id, area_id=area.id)
    assert await reported()
    async_expose_entity(hass, conversation.DOMAIN, hidden, True)
    assert await reported()
    registry.async_update_entity(hidden, hidden_by=er.RegistryEntryHider.USER)
    assert await reported() or is_read
    hass.states.async_remove(shown)
    assert await reported()
    # It may still be indexed: its integration may be reloading.
    registry.async_remove(shown)
    assert await reported()
    stop()
    hass.states.async_set(shown, "on")
    assert not await reported()


async def test_a_sensor_that_nobody_can_see_changes_its_class(
    hass: HomeAssistant,
) -> None:
    """Such as "Unloads at": the exposed entities are not read again."""
    assert await async_setup_component(hass, "homeassistant", {})
    registry = er.async_get(hass)
    hidden = registry.async_get_or_create(
        "sensor", "test", "hidden", entity_category=EntityCategory.DIAGNOSTIC
    ).entity_id
    hass.states.async_set(hidden, "never")
    hass.states.async_set("light.shown", "on")
    tracker = exposed_entity_tracker(hass)
    before = tracker.async_entities()
    assert before.keys() == {"light.shown"}
    calls: list[None] = []
    tracker.async_listen(lambda: calls.append(None))
    registry.async_update_entity(hidden, original_device_class="timestamp")
    hass.states.async_set(hidden, "2026-11-21", {"device_class": "timestamp"})
    await hass.async_block_till_done()
    assert tracker.async_entities() is before
    assert calls == []


async def test_a_new_entity_id_is_a_new_description_of_both(
    hass: HomeAssistant,
) -> None:
    """The state of the former id, if there is one, is not a registered entity's."""
    assert await async_setup_component(hass, "homeassistant", {})
    config_entry = MockConfigEntry()
    config_entry.add_to_hass(hass)
    device = dr.async_get(hass).async_get_or_create(
        config_entry_id=config_entry.entry_id, identifiers={("test", "1")}, name="Hall"
    )
    registry = er.async_get(hass)
    former = registry.async_get_or_create(
        "light", "test", "lamp", device_id=device.id, original_name="Lamp"
    ).entity_id
    hass.states.async_set(former, "on")
    tracker = exposed_entity_tracker(hass)
    assert tracker.async_entities()[former].names == ("Hall Lamp",)
    registry.async_update_entity(former, new_entity_id="light.other")
    hass.states.async_set("light.other", "on")
    await hass.async_block_till_done()
    assert tracker.async_entities() == async_get_exposed_entities(hass)
    assert tracker.async_entities()["light.other"].names == ("Hall Lamp",)

"""Tests of how the uses of models are stored."""

from typing import Any

from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.model.use import STORAGE_KEY, model_uses

GOOD = {"uses": [[1e9, 1e9 + 1, 1]], "loads": [2.0], "characters_per_token": 3.5}


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        [],
        GOOD | {"uses": None},
        GOOD | {"uses": [["x", "y", "z"]]},
        GOOD | {"uses": [[1]]},
        GOOD | {"loads": ["x"]},
    ],
)
async def test_an_unreadable_history_stops_nothing(
    hass: HomeAssistant, hass_storage: dict[str, Any], odd: Any
) -> None:
    """The other models keep theirs, and the integration is set up."""
    data = {"http://a:1 odd": odd, "http://a:1 good": GOOD}
    hass_storage[STORAGE_KEY] = {"version": 1, "minor_version": 1, "data": data}
    uses = model_uses(hass)
    await uses.async_load()
    assert uses.async_get("http://a:1", "odd").history.is_empty
    assert not uses.async_get("http://a:1", "good").history.is_empty


@pytest.mark.parametrize("version", [1, 99])
async def test_a_store_that_cannot_be_read_stops_nothing(
    hass: HomeAssistant, hass_storage: dict[str, Any], version: int
) -> None:
    """A list, or the store of a later version."""
    hass_storage[STORAGE_KEY] = {"version": version, "minor_version": 1, "data": []}
    await model_uses(hass).async_load()


def test_an_unload_is_forgotten_when_the_model_is_wanted_again(
    hass: HomeAssistant,
) -> None:
    """Else a later eviction would count as the unload that the user asked for."""
    use = model_uses(hass).async_get("http://a:1", "model")
    use.unload_requested = True
    with use.count_request():
        assert not use.unload_requested

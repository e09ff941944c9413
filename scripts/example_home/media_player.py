"""The media players of the example home."""

from typing import override

from homeassistant.components.media_player import (
    MediaPlayerEntity,
    MediaPlayerEntityFeature,
    MediaPlayerState,
)
from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .entity import ExampleEntity, add_entities
from .home import Room, Thing


async def async_setup_entry(
    hass: HomeAssistant,
    entry: ConfigEntry[list[Room]],
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add the media players of the home."""
    add_entities("media_player", entry, ExampleMediaPlayer, async_add_entities)


class ExampleMediaPlayer(ExampleEntity, MediaPlayerEntity):
    """A radio or a television."""

    _attr_volume_level = 0.4
    _attr_supported_features = (
        MediaPlayerEntityFeature.TURN_ON
        | MediaPlayerEntityFeature.TURN_OFF
        | MediaPlayerEntityFeature.PLAY
        | MediaPlayerEntityFeature.PAUSE
        | MediaPlayerEntityFeature.VOLUME_SET
    )

    def __init__(self, thing: Thing) -> None:
        """Begin on or off."""
        super().__init__(thing)
        self._show(MediaPlayerState.PLAYING if thing.value else MediaPlayerState.OFF)

    def _show(self, state: MediaPlayerState) -> None:
        """Change the state."""
        self._attr_state = state

    @override
    async def async_turn_on(self) -> None:
        """Turn it on."""
        await self.async_media_play()

    @override
    async def async_turn_off(self) -> None:
        """Turn it off."""
        self._show(MediaPlayerState.OFF)
        self.async_write_ha_state()

    @override
    async def async_media_play(self) -> None:
        """Play."""
        self._show(MediaPlayerState.PLAYING)
        self.async_write_ha_state()

    @override
    async def async_media_pause(self) -> None:
        """Pause."""
        self._show(MediaPlayerState.PAUSED)
        self.async_write_ha_state()

    @override
    async def async_set_volume_level(self, volume: float) -> None:
        """Set the volume, from 0 to 1."""
        self._attr_volume_level = volume
        self.async_write_ha_state()

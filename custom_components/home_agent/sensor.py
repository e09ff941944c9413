"""Sensors of models in memory, their last turns, the index, and server memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, override

from homeassistant.components.sensor import (
    RestoreSensor,
    SensorDeviceClass,
    SensorEntity,
    SensorEntityDescription,
    SensorStateClass,
)
from homeassistant.const import (
    PERCENTAGE,
    EntityCategory,
    UnitOfInformation,
    UnitOfTime,
)
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .entity import ModelEntity, ResidencyEntity
from .model.role import Role
from .model.turn_record import TurnRecord
from .residency.state import ModelResidency, ResidencyState
from .runtime import HomeAgentConfigEntry
from .server_memory_sensor import ServerMemorySensor
from .servers.base import LoadedModel, ServerCapability, ServerKind
from .vector_db_manager import VectorDBManager

# The coordinator polls the server; entities do not.
PARALLEL_UPDATES = 0

# The state of "Unloads at" of a model that stays until something unloads it.
NEVER: Final = "never"

type _Value = str | int | float | datetime | None


@dataclass(frozen=True, kw_only=True)
class ModelSensorDescription(SensorEntityDescription):
    """A sensor of a model in memory; kinds are the servers that report its value.

    unloaded is the value of a model that is not in memory.
    """

    value: Callable[[LoadedModel], _Value]
    unloaded: _Value = None
    kinds: frozenset[ServerKind]


@dataclass(frozen=True, kw_only=True)
class TurnSensorDescription(SensorEntityDescription):
    """A figure of the last turn; kinds are the servers that report it, None: all."""

    value: Callable[[TurnRecord], float | None]
    kinds: frozenset[ServerKind | None] | None = None


# Only how much memory models use has long-term statistics. A figure of a turn stands
# until the next turn, so its mean over time would mean nothing.
_SIZE: Final[dict[str, Any]] = {
    "device_class": SensorDeviceClass.DATA_SIZE,
    "native_unit_of_measurement": UnitOfInformation.BYTES,
    "suggested_unit_of_measurement": UnitOfInformation.GIGABYTES,
    "suggested_display_precision": 1,
    "state_class": SensorStateClass.MEASUREMENT,
}
_SECONDS: Final[dict[str, Any]] = {
    "device_class": SensorDeviceClass.DURATION,
    "native_unit_of_measurement": UnitOfTime.SECONDS,
    "suggested_display_precision": 2,
}
# The translations have its unit. The precision says that it is a number.
_COUNT: Final[dict[str, Any]] = {"suggested_display_precision": 0}
# For entities that few households look at; the user can enable them.
_DISABLED: Final[dict[str, Any]] = {"entity_registry_enabled_default": False}


def _gpu_share(model: LoadedModel) -> float | None:
    """Return the share of a model that is in GPU memory, in percent."""
    if not model.size_bytes or model.vram_bytes is None:
        return None
    return 100 * model.vram_bytes / model.size_bytes


_OLLAMA: Final = frozenset({ServerKind.OLLAMA})
_REPORTS_EXPIRY: Final = _OLLAMA | {ServerKind.DOCKER_MODEL_RUNNER}
_REPORTS_CONTEXT: Final = frozenset(
    {
        ServerKind.OLLAMA,
        ServerKind.LM_STUDIO,
        ServerKind.LLAMA_CPP,
        ServerKind.VLLM,
    }
)

MODEL_SENSORS: Final = (
    ModelSensorDescription(
        key="memory",
        value=lambda model: model.size_bytes,
        unloaded=0,
        kinds=_OLLAMA,
        **_SIZE,
    ),
    ModelSensorDescription(
        key="gpu_share",
        native_unit_of_measurement=PERCENTAGE,
        suggested_display_precision=0,
        value=_gpu_share,
        kinds=_OLLAMA,
        **_DISABLED,
    ),
    ModelSensorDescription(
        key="context_length",
        value=lambda model: model.context_length,
        kinds=_REPORTS_CONTEXT,
        **_COUNT,
        **_DISABLED,
    ),
)

SERVER_MEMORY: Final = SensorEntityDescription(
    key="memory_held", translation_key="memory_held", **_SIZE, **_DISABLED
)

TURN_SENSORS: Final = (
    TurnSensorDescription(
        key="load_time",
        value=lambda turn: turn.load_seconds,
        # OpenAI's API has no such figure.
        kinds=_OLLAMA,
        **_SECONDS,
        **_DISABLED,
    ),
    TurnSensorDescription(
        key="first_token_time",
        value=lambda turn: turn.first_token_seconds,
        **_SECONDS,
    ),
    TurnSensorDescription(
        key="prompt_tokens",
        value=lambda turn: turn.prompt_tokens,
        **_COUNT,
        **_DISABLED,
    ),
    TurnSensorDescription(
        key="cached_tokens",
        value=lambda turn: turn.cached_tokens,
        # Ollama reports no cached tokens: it counts them as evaluated (0.30.1).
        kinds=frozenset({None, *ServerKind}) - _OLLAMA,
        **_COUNT,
        **_DISABLED,
    ),
    TurnSensorDescription(
        key="generation_speed",
        suggested_display_precision=1,
        value=lambda turn: turn.tokens_per_second,
        **_DISABLED,
    ),
)


async def async_setup_entry(
    hass: HomeAssistant,
    config_entry: HomeAgentConfigEntry,
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add the sensors of each model, each index and each Ollama server."""
    data = config_entry.runtime_data
    for subentry_id, residency in data.residencies.items():
        async_add_entities(
            _model_sensors(config_entry, residency), config_subentry_id=subentry_id
        )
    for subentry_id, manager in data.vector_db_managers.items():
        async_add_entities(
            [IndexSensor(config_entry, data.residencies[subentry_id], manager)],
            config_subentry_id=subentry_id,
        )
    async_add_entities(
        ServerMemorySensor(config_entry, coordinator, SERVER_MEMORY)
        for coordinator in data.coordinators.values()
        if coordinator.connection.kind is ServerKind.OLLAMA
    )


def _model_sensors(
    entry: HomeAgentConfigEntry, residency: ModelResidency
) -> list[SensorEntity]:
    """Return the sensors of a model whose values its server reports."""
    kind = residency.coordinator.connection.kind
    sensors: list[SensorEntity] = []
    if ServerCapability.LIST in residency.capabilities:
        sensors.append(ResidencySensor(entry, residency))
        if kind in _REPORTS_EXPIRY:
            sensors.append(UnloadTimeSensor(entry, residency))
        sensors += [
            ModelSensor(entry, residency, description)
            for description in MODEL_SENSORS
            if kind in description.kinds
        ]
    if residency.role.role is not Role.EMBEDDING:
        sensors += [
            TurnSensor(entry, residency, description)
            for description in TURN_SENSORS
            if description.kinds is None or kind in description.kinds
        ]
    return sensors


class ResidencySensor(ResidencyEntity, SensorEntity):
    """Whether the model is in memory.

    It has no category, so that the page of the device shows it before the others.
    """

    _attr_entity_category = None
    _attr_device_class = SensorDeviceClass.ENUM
    _attr_options = [str(state) for state in ResidencyState]  # noqa: RUF012

    def __init__(self, entry: HomeAgentConfigEntry, residency: ModelResidency) -> None:
        """Show the state of a model."""
        super().__init__(entry, residency, "residency")

    @property
    @override
    def native_value(self) -> str:
        """Return the state of the model."""
        return self.residency.state

    @property
    @override
    def extra_state_attributes(self) -> Mapping[str, Any]:
        """Return the keep_alive that is configured, if the server follows it."""
        if ServerCapability.KEEP_ALIVE not in self.residency.capabilities:
            return {}
        return {"keep_alive": self.residency.keep_alive.text}


class UnloadTimeSensor(ResidencyEntity, SensorEntity):
    """When the server unloads the model if no request uses it."""

    def __init__(self, entry: HomeAgentConfigEntry, residency: ModelResidency) -> None:
        """Show the time of a model."""
        super().__init__(entry, residency, "loaded_until")

    @property
    def _never_unloads(self) -> bool:
        """Return whether the model stays until something unloads it."""
        model = self.residency.loaded
        return model is not None and model.is_indefinite

    @property
    @override
    def device_class(self) -> SensorDeviceClass | None:
        """Return the class of a time, None while the state is a word.

        While the model is not in memory, the class is that of the role's keep_alive:
        Home Assistant writes each change of a class to the entity registry.
        """
        model = self.residency.loaded
        is_never = (model or self.residency.keep_alive).is_indefinite
        return None if is_never else SensorDeviceClass.TIMESTAMP

    @property
    @override
    def native_value(self) -> _Value:
        """Return the time or NEVER, unknown while the model is not in memory."""
        model = self.residency.loaded
        if model is None:
            return None
        return NEVER if model.is_indefinite else model.expires_at

    @property
    @override
    def extra_state_attributes(self) -> Mapping[str, Any]:
        """Return which keep_alive holds, and the roles that have set it."""
        keep_alive = self.residency.keep_alive_in_effect
        return {
            "never_unloads": self._never_unloads,
            "keep_alive_in_effect": keep_alive.text if keep_alive else None,
            "kept_by": self.residency.kept_by,
        }


class ModelSensor(ResidencyEntity, SensorEntity):
    """A figure of the model while it is in memory."""

    entity_description: ModelSensorDescription

    def __init__(
        self,
        entry: HomeAgentConfigEntry,
        residency: ModelResidency,
        description: ModelSensorDescription,
    ) -> None:
        """Show the value of a description."""
        super().__init__(entry, residency, description.key)
        self.entity_description = description

    @property
    @override
    def native_value(self) -> _Value:
        """Return the figure, unknown if the server does not report its models."""
        if (model := self.residency.loaded) is not None:
            return self.entity_description.value(model)
        if self.residency.coordinator.data is None:
            return None
        return self.entity_description.unloaded


class TurnSensor(ModelEntity, RestoreSensor):
    """A figure of the last turn of a role, also after a reload or a restart."""

    _attr_entity_category = EntityCategory.DIAGNOSTIC
    entity_description: TurnSensorDescription

    def __init__(
        self,
        entry: HomeAgentConfigEntry,
        residency: ModelResidency,
        description: TurnSensorDescription,
    ) -> None:
        """Show the value of a description."""
        super().__init__(entry, residency, description.key)
        self.entity_description = description

    @override
    async def async_added_to_hass(self) -> None:
        """Show the last figure again, and listen to the turns of the model."""
        await super().async_added_to_hass()
        if (last := await self.async_get_last_sensor_data()) is not None:
            self._attr_native_value = _number(last.native_value)
        self.async_on_remove(self.residency.use.turn_ended.add(self._turn_ended))

    @callback
    def _turn_ended(self, record: TurnRecord) -> None:
        """Show the figure of a turn, if it was one of this role."""
        if record.subentry_id == self.residency.subentry.subentry_id:
            self._attr_native_value = self.entity_description.value(record)
            self.async_write_ha_state()


def _number(value: object) -> float | None:
    """Return a restored figure, None for anything that is no number."""
    return value if isinstance(value, int | float) else None


class IndexSensor(ModelEntity, SensorEntity):
    """The number of exposed entities that are indexed."""

    _attr_entity_category = EntityCategory.DIAGNOSTIC
    _attr_entity_registry_enabled_default = False
    # Its unit is in the translations.
    _attr_suggested_display_precision = 0

    def __init__(
        self,
        entry: HomeAgentConfigEntry,
        residency: ModelResidency,
        manager: VectorDBManager,
    ) -> None:
        """Show the progress of an index."""
        super().__init__(entry, residency, "indexed")
        self._manager = manager

    @override
    async def async_added_to_hass(self) -> None:
        """Listen to the progress."""
        await super().async_added_to_hass()
        self.async_on_remove(
            self._manager.sync.progressed.add(self.async_write_ha_state)
        )

    @property
    @override
    def native_value(self) -> int:
        """Return the number of indexed entities."""
        return self._manager.sync.progress.indexed

    @property
    @override
    def extra_state_attributes(self) -> Mapping[str, Any]:
        """Return the number of entities to index."""
        return {"total": self._manager.sync.progress.total}

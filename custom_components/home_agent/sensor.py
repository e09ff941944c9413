"""What is known of each model: its residency, and what the last turn cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, override

from homeassistant.components.sensor import (
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
from homeassistant.helpers.dispatcher import async_dispatcher_connect
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback
from homeassistant.helpers.update_coordinator import CoordinatorEntity

from .coordinator import ServerCoordinator
from .device import server_device_info
from .entity import ModelEntity, ResidencyEntity
from .model.role import Role
from .model.use import SIGNAL_TURN, TurnFigures
from .residency.state import ModelResidency, ResidencyState
from .runtime import HomeAgentConfigEntry
from .servers.base import LoadedModel, ServerCapability, ServerKind
from .vector_db_manager import VectorDBManager

# The coordinator asks; entities do not.
PARALLEL_UPDATES = 0

type _Value = str | int | float | datetime | None


@dataclass(frozen=True, kw_only=True)
class ModelSensorDescription(SensorEntityDescription):
    """A sensor of a model in memory; kinds are the servers that tell it."""

    value: Callable[[LoadedModel], _Value]
    kinds: frozenset[ServerKind]


@dataclass(frozen=True, kw_only=True)
class TurnSensorDescription(SensorEntityDescription):
    """A sensor of the last turn; kinds are the servers that tell it, None all."""

    value: Callable[[TurnFigures], float | None]
    kinds: frozenset[ServerKind | None] | None = None


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
    "state_class": SensorStateClass.MEASUREMENT,
}
_TOKENS: Final[dict[str, Any]] = {
    "native_unit_of_measurement": "tokens",
    "state_class": SensorStateClass.MEASUREMENT,
}


def _gpu_share(model: LoadedModel) -> float | None:
    """Return how much of a model is in the GPU's memory, in percent."""
    if not model.size_bytes or model.vram_bytes is None:
        return None
    return 100 * model.vram_bytes / model.size_bytes


_OLLAMA: Final = frozenset({ServerKind.OLLAMA})
_TELLS_CONTEXT: Final = frozenset(
    {
        ServerKind.OLLAMA,
        ServerKind.LM_STUDIO,
        ServerKind.LLAMA_CPP,
        ServerKind.VLLM,
    }
)

MODEL_SENSORS: Final = (
    ModelSensorDescription(
        key="loaded_until",
        device_class=SensorDeviceClass.TIMESTAMP,
        value=lambda model: model.expires_at,
        kinds=_OLLAMA | {ServerKind.DOCKER_MODEL_RUNNER},
    ),
    ModelSensorDescription(
        key="memory", value=lambda model: model.size_bytes, kinds=_OLLAMA, **_SIZE
    ),
    ModelSensorDescription(
        key="gpu_share",
        native_unit_of_measurement=PERCENTAGE,
        state_class=SensorStateClass.MEASUREMENT,
        suggested_display_precision=0,
        value=_gpu_share,
        kinds=_OLLAMA,
    ),
    ModelSensorDescription(
        key="context_length",
        value=lambda model: model.context_length,
        kinds=_TELLS_CONTEXT,
        **_TOKENS,
    ),
)

TURN_SENSORS: Final = (
    TurnSensorDescription(
        key="load_time",
        value=lambda turn: turn.load_seconds,
        # OpenAI's form has no such figure.
        kinds=_OLLAMA,
        **_SECONDS,
    ),
    TurnSensorDescription(
        key="first_token_time",
        value=lambda turn: turn.first_token_seconds,
        **_SECONDS,
    ),
    TurnSensorDescription(
        key="prompt_tokens",
        value=lambda turn: turn.prompt_tokens,
        **_TOKENS,
    ),
    TurnSensorDescription(
        key="cached_tokens",
        value=lambda turn: turn.cached_tokens,
        # Ollama counts cached tokens as evaluated ones (0.30.1).
        kinds=frozenset({None, *ServerKind}) - _OLLAMA,
        **_TOKENS,
    ),
    TurnSensorDescription(
        key="generation_speed",
        native_unit_of_measurement="tokens/s",
        state_class=SensorStateClass.MEASUREMENT,
        suggested_display_precision=1,
        value=lambda turn: turn.tokens_per_second,
    ),
)


async def async_setup_entry(
    hass: HomeAssistant,
    config_entry: HomeAgentConfigEntry,
    async_add_entities: AddConfigEntryEntitiesCallback,
) -> None:
    """Add the sensors of each model and of each server that tells something."""
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
        ServerMemorySensor(config_entry, coordinator)
        for coordinator in data.coordinators.values()
        if coordinator.connection.kind is ServerKind.OLLAMA
    )


def _model_sensors(
    entry: HomeAgentConfigEntry, residency: ModelResidency
) -> list[SensorEntity]:
    """Return the sensors that a model's server has something to show in."""
    kind = residency.coordinator.connection.kind
    sensors: list[SensorEntity] = [MemoryRuleSensor(entry, residency)]
    if ServerCapability.LIST in residency.capabilities:
        sensors.append(ResidencySensor(entry, residency))
        sensors += [
            ModelSensor(entry, residency, description)
            for description in MODEL_SENSORS
            if kind in description.kinds
        ]
    if residency.kind is not Role.EMBEDDING:
        sensors += [
            TurnSensor(entry, residency, description)
            for description in TURN_SENSORS
            if description.kinds is None or kind in description.kinds
        ]
    return sensors


class ResidencySensor(ResidencyEntity, SensorEntity):
    """Whether the model is in memory."""

    _attr_device_class = SensorDeviceClass.ENUM
    _attr_options = [str(state) for state in ResidencyState]  # noqa: RUF012

    def __init__(self, entry: HomeAgentConfigEntry, residency: ModelResidency) -> None:
        """Show the residency of a model."""
        super().__init__(entry, residency, "residency")

    @property
    @override
    def native_value(self) -> str:
        """Return the state of the model."""
        return self.residency.state


class MemoryRuleSensor(ModelEntity, SensorEntity):
    """By which rules the server keeps the model."""

    _attr_device_class = SensorDeviceClass.ENUM
    _attr_entity_category = EntityCategory.DIAGNOSTIC
    _attr_options = [*(str(kind) for kind in ServerKind), "refused"]  # noqa: RUF012

    def __init__(self, entry: HomeAgentConfigEntry, residency: ModelResidency) -> None:
        """Show what the kind of the server means for a model."""
        super().__init__(entry, residency, "memory_rule")

    @property
    @override
    def native_value(self) -> str | None:
        """Return whose rules hold, None while the server is not known."""
        connection = self.residency.coordinator.connection
        if connection.keep_alive_refused:
            return "refused"
        return connection.kind and str(connection.kind)


class ModelSensor(ResidencyEntity, SensorEntity):
    """A figure of the model in memory."""

    entity_description: ModelSensorDescription

    def __init__(
        self,
        entry: HomeAgentConfigEntry,
        residency: ModelResidency,
        description: ModelSensorDescription,
    ) -> None:
        """Show what a description says of a model."""
        super().__init__(entry, residency, description.key)
        self.entity_description = description

    @property
    @override
    def native_value(self) -> _Value:
        """Return the figure, unknown while the model is not in memory."""
        model = self.residency.loaded
        return None if model is None else self.entity_description.value(model)

    @property
    @override
    def extra_state_attributes(self) -> Mapping[str, Any] | None:
        """Return whether a model without an end stays for ever."""
        if self.entity_description.key != "loaded_until":
            return None
        model = self.residency.loaded
        return {"forever": model is not None and model.is_indefinite}


class TurnSensor(ModelEntity, SensorEntity):
    """A figure of the last turn."""

    _attr_entity_category = EntityCategory.DIAGNOSTIC
    entity_description: TurnSensorDescription

    def __init__(
        self,
        entry: HomeAgentConfigEntry,
        residency: ModelResidency,
        description: TurnSensorDescription,
    ) -> None:
        """Show what a description says of a turn."""
        super().__init__(entry, residency, description.key)
        self.entity_description = description

    @override
    async def async_added_to_hass(self) -> None:
        """Be told the figures of each turn."""
        await super().async_added_to_hass()
        signal = SIGNAL_TURN.format(self.residency.subentry.subentry_id)
        self.async_on_remove(
            async_dispatcher_connect(self.hass, signal, self._turn_ended)
        )

    @callback
    def _turn_ended(self, figures: TurnFigures) -> None:
        """Show the figures of a turn."""
        self._attr_native_value = self.entity_description.value(figures)
        self.async_write_ha_state()


class IndexSensor(ModelEntity, SensorEntity):
    """How many of the exposed entities are indexed."""

    _attr_entity_category = EntityCategory.DIAGNOSTIC
    _attr_native_unit_of_measurement = "entities"
    _attr_state_class = SensorStateClass.MEASUREMENT

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
        """Be told the progress."""
        await super().async_added_to_hass()
        self.async_on_remove(self._manager.progressed.add(self.async_write_ha_state))

    @property
    @override
    def native_value(self) -> int:
        """Return how many are indexed."""
        return self._manager.progress.indexed

    @property
    @override
    def extra_state_attributes(self) -> Mapping[str, Any]:
        """Return how many there are."""
        return {"total": self._manager.progress.total}


class ServerMemorySensor(CoordinatorEntity[ServerCoordinator], SensorEntity):
    """The memory that all models of a server hold, whoever loaded them."""

    _attr_has_entity_name = True
    _attr_entity_category = EntityCategory.DIAGNOSTIC
    _unrecorded_attributes = frozenset({"models"})

    def __init__(
        self, entry: HomeAgentConfigEntry, coordinator: ServerCoordinator
    ) -> None:
        """Show what a server holds."""
        super().__init__(coordinator)
        self.entity_description = SensorEntityDescription(
            key="memory_held", translation_key="memory_held", **_SIZE
        )
        self._attr_device_info = server_device_info(entry, coordinator)
        self._attr_unique_id = f"{entry.entry_id}_{coordinator.host}_memory_held"

    @property
    @override
    def native_value(self) -> int | None:
        """Return the bytes of all models together."""
        if self.coordinator.data is None:
            return None
        return sum(model.size_bytes or 0 for model in self.coordinator.data)

    @property
    @override
    def extra_state_attributes(self) -> Mapping[str, Any]:
        """Return the names of the models."""
        return {"models": sorted(model.name for model in self.coordinator.data or ())}

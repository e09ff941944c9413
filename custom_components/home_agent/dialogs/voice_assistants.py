"""Voice assistants that name an agent by the id that version 1 gave it.

Version 1 registered its agent by the id of its config entry. Now the agent is an
entity, so a voice assistant that names the old id finds no agent.
"""

from typing import TYPE_CHECKING, Any, Final

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import entity_registry as er, issue_registry as ir
from homeassistant.helpers.start import async_at_started

from ..const import DOMAIN, SUBENTRY_CONVERSATION

if TYPE_CHECKING:
    from homeassistant.components.assist_pipeline import Pipeline

ISSUE: Final = "voice_assistant"
_ASSIST_PIPELINE: Final = "assist_pipeline"


@callback
def async_check_voice_assistants(hass: HomeAssistant, entry: ConfigEntry[Any]) -> None:
    """Raise or clear the issue once Home Assistant has started, and on each change."""

    async def check(*_: object) -> None:
        _check(hass, entry)

    async def at_started(_: HomeAssistant) -> None:
        if _ASSIST_PIPELINE not in hass.config.components:
            return
        # Its requirements are installed only where it is set up.
        from homeassistant.components.assist_pipeline import (  # noqa: PLC0415
            async_setup_pipeline_store,
        )

        data = await async_setup_pipeline_store(hass)
        entry.async_on_unload(data.pipeline_store.async_add_listener(check))
        _check(hass, entry)

    entry.async_on_unload(async_at_started(hass, at_started))


async def async_switch_voice_assistants(
    hass: HomeAssistant, entry: ConfigEntry[Any]
) -> None:
    """Let the voice assistants that name the old id of an entry use its agent."""
    if (agent := _agent(hass, entry)) is None:
        return
    for pipeline in _pipelines(hass, entry):
        from homeassistant.components.assist_pipeline import (  # noqa: PLC0415
            async_update_pipeline,
        )

        _, entity_id = agent
        await async_update_pipeline(hass, pipeline, conversation_engine=entity_id)


@callback
def _check(hass: HomeAssistant, entry: ConfigEntry[Any]) -> None:
    """Raise the issue if a voice assistant names the old id, clear it if none does."""
    issue_id = f"{ISSUE}_{entry.entry_id}"
    pipelines, agent = _pipelines(hass, entry), _agent(hass, entry)
    if not pipelines or agent is None:
        ir.async_delete_issue(hass, DOMAIN, issue_id)
        return
    subentry_id, _ = agent
    ir.async_create_issue(
        hass,
        DOMAIN,
        issue_id,
        data={"entry_id": entry.entry_id, "subentry_id": subentry_id, ISSUE: True},
        is_fixable=True,
        severity=ir.IssueSeverity.ERROR,
        translation_key=ISSUE,
        translation_placeholders={
            "assistants": ", ".join(sorted(pipeline.name for pipeline in pipelines)),
            "title": entry.subentries[subentry_id].title,
        },
    )


@callback
def _pipelines(hass: HomeAssistant, entry: ConfigEntry[Any]) -> list[Pipeline]:
    """Return the voice assistants that name the old id of an entry."""
    if _ASSIST_PIPELINE not in hass.config.components:
        return []
    from homeassistant.components.assist_pipeline import (  # noqa: PLC0415
        async_get_pipelines,
    )

    return [
        pipeline
        for pipeline in async_get_pipelines(hass)
        if pipeline.conversation_engine == entry.entry_id
    ]


@callback
def _agent(hass: HomeAssistant, entry: ConfigEntry[Any]) -> tuple[str, str] | None:
    """Return subentry and entity of the first agent of an entry, None without one."""
    registry = er.async_get(hass)
    for subentry in entry.get_subentries_of_type(SUBENTRY_CONVERSATION):
        unique_id = subentry.subentry_id
        if entity_id := registry.async_get_entity_id("conversation", DOMAIN, unique_id):
            return subentry.subentry_id, entity_id
    return None

"""The forms of the model roles: limits of numbers, and what an empty field means."""

from typing import Any

from homeassistant.core import HomeAssistant
import pytest

from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.tools.external_llm import (
    DEFAULT_PROMPT,
    DEFAULT_TOOL_DESCRIPTION,
)
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn
from tests.unit.test_config_flow import Dialogs, suggested


@pytest.mark.parametrize(
    ("key", "value", "label", "limits"),
    [
        ("llm_temperature", 2.05, "Temperature", ("0", "2")),
        ("llm_max_tokens", 131073, "Maximum answer length", ("1", "131072")),
        ("llm_idle_timeout", 4, "Timeout", ("5", "3600")),
    ],
)
async def test_a_number_out_of_its_range(
    browser: Dialogs,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    key: str,
    value: float,
    label: str,
    limits: tuple[str, str],
) -> None:
    """The form names the field and its limits, and keeps what was written."""
    entry = await make_entry(ollama.url, conversation={})
    await browser.start([entry.entry_id, "conversation"])
    advanced: dict[str, Any] = {"llm_top_p": 0.9, key: value}
    form = await browser.fill_in(llm_model="llama3.2:3b", advanced=advanced)
    assert form["errors"] == {key: "out_of_range", "advanced": "out_of_range"}
    shown = form["description_placeholders"]
    assert (shown["field"], shown["minimum"], shown["maximum"]) == (label, *limits)
    assert suggested(form, "advanced").items() >= advanced.items()
    advanced[key] = float(limits[0])
    result = await browser.fill_in(llm_model="llama3.2:3b", advanced=advanced)
    assert result["type"] == "create_entry"


async def test_defaults_of_an_external_llm_are_shown(
    home: HomeAssistant, browser: Dialogs, ollama: OllamaStandIn
) -> None:
    """The first dialog stores neither text: the form shows what takes effect."""
    await browser.start()
    await browser.fill_in(llm_base_url=ollama.url)
    await browser.fill_in(
        llm_model="llama3.2:3b", external_llm={"external_llm_model": "llama3.2:70b"}
    )
    await home.async_block_till_done()
    (entry,) = home.config_entries.async_entries(DOMAIN)
    (external,) = entry.get_subentries_of_type("external_llm")
    await browser.start(
        [entry.entry_id, "external_llm"], subentry_id=external.subentry_id
    )
    form = await browser.fill_in()
    assert suggested(form)["external_llm_prompt"] == DEFAULT_PROMPT
    tool = suggested(form)["external_llm_tool_description"]
    assert tool == DEFAULT_TOOL_DESCRIPTION

"""An LLM API with one tool, for AI tasks."""

from typing import override

from homeassistant.core import HomeAssistant
from homeassistant.helpers import llm
import probatio as vol


class CountTool(llm.Tool):
    """Counts the plants, and how often it is asked."""

    name = "count_plants"
    description = "Count the plants"
    parameters = vol.Schema({})
    calls = 0

    @override
    async def async_call(
        self,
        hass: HomeAssistant,
        tool_input: llm.ToolInput,
        llm_context: llm.LLMContext,
    ) -> llm.ToolResult:
        """Return three."""
        self.calls += 1
        return llm.ToolResult(data={"plants": 3})


class PlantAPI(llm.API):
    """An LLM API with one tool."""

    def __init__(self, hass: HomeAssistant, tool: CountTool) -> None:
        """Take the tool."""
        super().__init__(hass=hass, id="plants", name="Plants")
        self.tool = tool

    @override
    async def async_get_api_instance(
        self, llm_context: llm.LLMContext
    ) -> llm.APIInstance:
        """Return the tool."""
        return llm.APIInstance(self, "", llm_context, [self.tool])

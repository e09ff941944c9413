"""The dialog of the example home: the demo fills it in."""

from typing import Any, override

from homeassistant.config_entries import ConfigFlow, ConfigFlowResult
import probatio as vol

from .home import DOMAIN, IS_LARGE


class ExampleHomeConfigFlow(ConfigFlow, domain=DOMAIN):
    """Ask how large the home is."""

    @override
    async def async_step_user(
        self, user_input: dict[str, Any] | None = None
    ) -> ConfigFlowResult:
        """Make the home."""
        if user_input is not None:
            return self.async_create_entry(title="Example home", data=user_input)
        return self.async_show_form(
            step_id="user",
            data_schema=vol.Schema({vol.Required(IS_LARGE, default=False): bool}),
        )

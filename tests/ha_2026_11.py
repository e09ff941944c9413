"""Lets pytest-homeassistant-custom-component 0.13.375 run Home Assistant 2026.11.

Loaded early, by pytest's option -p. The plugin was made for 2026.10.
"""

# Home Assistant puts httpx2 in the place of httpx, which must not be imported
# before; the plugin would do so by way of respx.
import homeassistant  # noqa: F401
from homeassistant.components import logger
from homeassistant.components.logger import helpers

# The plugin clears the overwrites of log levels where 2026.10 had them.
if not hasattr(logger, "_clear_logger_overwrites"):
    vars(logger)["_clear_logger_overwrites"] = helpers._clear_logger_overwrites

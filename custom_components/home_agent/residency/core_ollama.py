"""Which models Home Assistant's own Ollama integration uses on a server."""

from collections.abc import Iterator
from typing import Final

from homeassistant.config_entries import ConfigSubentry
from homeassistant.core import HomeAssistant, callback

from ..servers.address import server_id

CORE_OLLAMA: Final = "ollama"


@callback
def core_ollama_models(
    hass: HomeAssistant, url: str
) -> Iterator[tuple[ConfigSubentry, str]]:
    """Yield each of its subentries on the server at url, with the name of its model.

    Those of an entry that the user has disabled are left out.
    """
    root = server_id(url)
    entries = hass.config_entries.async_entries(CORE_OLLAMA, include_disabled=False)
    for entry in entries:
        # Data of another integration: it may be of any kind.
        try:
            is_same_server = server_id(str(entry.data.get("url", ""))) == root
        except ValueError:
            continue
        for subentry in entry.subentries.values() if is_same_server else ():
            yield subentry, str(subentry.data.get("model"))

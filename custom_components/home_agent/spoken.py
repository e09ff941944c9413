"""The sentences that the agent says by itself, in the language of a conversation.

Home Assistant makes the text of an exception in English, and speaks it. It knows the
language of its own pages only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from homeassistant.const import MATCH_ALL
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.translation import async_get_translations
from homeassistant.loader import async_get_integration
from homeassistant.util.language import matches

from .const import DOMAIN

_ENGLISH: Final = "en"


async def async_sentence(
    hass: HomeAssistant,
    language: str | None,
    key: str,
    placeholders: Mapping[str, str] | None = None,
) -> str:
    """Return the sentence with a key of the translated exceptions.

    language is that of the conversation, such as "de-CH"; None if it is not known.
    Without a translation into it the sentence is English.
    """
    known = await _async_language(hass, language)
    texts = await async_get_translations(hass, known, "exceptions", {DOMAIN})
    sentence = texts[f"component.{DOMAIN}.exceptions.{key}.message"]
    return sentence.format_map(placeholders or {})


async def async_spoken_error(
    hass: HomeAssistant, language: str | None, err: HomeAssistantError
) -> HomeAssistantError:
    """Return an error whose text is the translated sentence of another error.

    The text of an error that is not Home Agent's own is not spoken: it may hold an
    address or what a server has answered, and is English.
    """
    key, placeholders = "turn_failed", None
    if err.translation_domain == DOMAIN and err.translation_key is not None:
        key, placeholders = err.translation_key, err.translation_placeholders
    return HomeAssistantError(await async_sentence(hass, language, key, placeholders))


async def _async_language(hass: HomeAssistant, language: str | None) -> str:
    """Return the language with translations that fits a conversation's best."""
    if language in {None, "", MATCH_ALL}:
        language = hass.config.language
    integration = await async_get_integration(hass, DOMAIN)
    translated = await hass.async_add_executor_job(
        _translated_languages, integration.file_path
    )
    found = matches(str(language), translated, hass.config.country)
    return found[0] if found else _ENGLISH


def _translated_languages(package: Path) -> list[str]:
    """Return the languages that have a file with translations."""
    return sorted(path.stem for path in package.glob("translations/*.json"))

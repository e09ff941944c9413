"""What the agent says by itself: in the language of the conversation, no address."""

from collections.abc import Mapping
import json
from pathlib import Path
import re
from typing import Any, Final

from homeassistant.components import conversation
from homeassistant.core import Context, HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.loader import async_get_integration
import pytest

import custom_components.home_agent
from custom_components.home_agent import agent as agent_module
from custom_components.home_agent.agent import HomeAgent
from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.servers import errors
from custom_components.home_agent.spoken import async_sentence, async_spoken_error
from tests.conftest import MakeEntry, speech
from tests.servers import OllamaStandIn, Reply, ToolUse
from tests.servers.stand_in import Fault

ENGLISH: Final[dict[str, Any]] = json.loads(
    (
        Path(custom_components.home_agent.__file__).parent / "translations" / "en.json"
    ).read_text()
)
SENTENCES: Final = {key: text["message"] for key, text in ENGLISH["exceptions"].items()}
ERRORS: Final = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.ModelServerError)
]


def translated(language: str) -> dict[str, Any]:
    """Return texts in which each sentence begins with the name of a language."""
    return {
        "exceptions": {
            key: {"message": f"[{language}] {text}"} for key, text in SENTENCES.items()
        }
    }


@pytest.fixture
async def languages(
    home: HomeAssistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Add a German, a Brazilian and a Chinese translation to the integration."""
    files = {"en": ENGLISH}
    files |= {language: translated(language) for language in ("de", "pt-BR", "zh-Hans")}
    # One text is missing there.
    del files["de"]["exceptions"]["server_busy"]
    (tmp_path / "translations").mkdir()
    for language, texts in files.items():
        path = tmp_path / "translations" / f"{language}.json"
        path.write_text(json.dumps(texts))
    integration = await async_get_integration(home, DOMAIN)
    monkeypatch.setattr(integration, "file_path", tmp_path)


async def ask(hass: HomeAssistant, language: str | None) -> str:
    """Return what the agent says to a question in a language."""
    return speech(
        await conversation.async_converse(
            hass,
            "Hi",
            None,
            Context(),
            language=language,
            agent_id="conversation.agent",
        )
    )


@pytest.mark.usefixtures("languages")
@pytest.mark.parametrize(
    ("language", "server_language", "begin"),
    [
        ("de", "en", "[de] "),
        ("de-CH", "en", "[de] "),
        ("pt", "en", "[pt-BR] "),
        ("zh-CN", "en", "[zh-Hans] "),
        ("en-GB", "de", ""),
        # There is no translation: English, and not what the pages are in.
        ("fr", "de", ""),
        # Home Assistant takes its own language if the question has none.
        (None, "de", "[de] "),
        ("*", "de", "[de] "),
    ],
)
async def test_language_of_the_conversation(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    language: str | None,
    server_language: str,
    begin: str,
) -> None:
    """It decides, and not the language of the server."""
    home.config.language = server_language
    await make_entry(ollama.url, conversation={})
    ollama.faults.append(Fault(status=500, body={"error": "out of memory"}))
    assert await ask(home, language) == f"{begin}{SENTENCES['server_error']}"


@pytest.mark.usefixtures("languages")
async def test_missing_sentence_is_english(home: HomeAssistant) -> None:
    """Home Assistant adds the English text where a translation has none."""
    said = await async_sentence(home, "de", "server_busy")
    assert said == SENTENCES["server_busy"]


@pytest.mark.parametrize("error", ERRORS)
async def test_no_address_is_spoken(
    home: HomeAssistant, error: type[errors.ModelServerError]
) -> None:
    """Nor what the server has answered; the log has both."""
    err = error("192.168.1.10:11434", "llama runner terminated", status=500)
    if isinstance(err, errors.ModelNotFound):
        err.set_model("qwen")
    said = str(await async_spoken_error(home, "en", err))
    assert said == SENTENCES[error.key].format(model="qwen")
    assert not re.search(r"\d|://|runner|None|\{", said)
    assert "192.168.1.10:11434" in err.log_text
    assert "192.168" not in str(err)


@pytest.mark.usefixtures("languages")
@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({"llm_hass_api": ["an_api_that_is_gone"]}, "an_api_that_is_gone"),
        ({"prompt": "{{ 1 / 0 }}"}, "rendering prompt"),
    ],
)
async def test_prompt_that_cannot_be_made(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
    settings: Mapping[str, Any],
    logged: str,
) -> None:
    """The user hears where to look, in place of Home Assistant's English text."""
    await make_entry(ollama.url, conversation=dict(settings))
    assert await ask(home, "de") == f"[de] {SENTENCES['no_prompt']}"
    lines = [item for item in caplog.messages if item.startswith("No answer")]
    assert len(lines) == 1
    assert logged in lines[0]


@pytest.mark.usefixtures("languages")
async def test_other_errors_are_not_spoken(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error that is not Home Agent's own may hold an address: it is logged."""

    async def fail(*_: object) -> None:
        raise HomeAssistantError("http://192.168.1.10:11434 said boom")

    await make_entry(ollama.url, conversation={})
    monkeypatch.setattr(HomeAgent, "async_answer", fail)
    assert await ask(home, "de") == f"[de] {SENTENCES['turn_failed']}"
    assert "No answer: http://192.168.1.10:11434 said boom" in caplog.messages


@pytest.mark.usefixtures("languages")
async def test_confirmation(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before 2026.11 an empty answer to tools that have succeeded is confirmed."""
    monkeypatch.setattr(agent_module, "_HAS_SILENT_RESPONSE", False)
    await make_entry(ollama.url, conversation={})
    look = ToolUse("homeassistant__GetLiveContext", {})
    ollama.brain.replies += [Reply(tools=(look,)), Reply("")]
    assert await ask(home, "de-AT") == "[de] Done."


@pytest.mark.usefixtures("languages")
async def test_refused_question(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A model that is cut off before it answers is explained."""
    await make_entry(ollama.url, conversation={})
    ollama.brain.replies.append(Reply(thinking="Hm.", finish_reason="length"))
    assert await ask(home, "de") == f"[de] {SENTENCES['answer_too_long']}"

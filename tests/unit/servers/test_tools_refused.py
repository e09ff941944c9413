"""A refusal of tools is told apart from other refusals."""

import pytest

from custom_components.home_agent.servers.errors import is_about_tools


@pytest.mark.parametrize(
    "text",
    [
        "registry.ollama.ai/library/llava:7b does not support tools",
        "tools param requires --jinja flag",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser',
        "No endpoints found that support tool use.",
        "`tool calling` is not supported with this model",
        "Function calling is not enabled for models/gemma-3-27b-it",
        "UnsupportedParamsError: ollama does not support parameters: ['tools']",
    ],
)
def test_what_servers_say_of_tools(text: str) -> None:
    """Ollama, llama.cpp, vLLM, OpenRouter, Groq, Gemini, LiteLLM."""
    assert is_about_tools(text)


@pytest.mark.parametrize(
    "text",
    [
        '"llama3.2:3b" does not support thinking',
        "Unrecognized request argument supplied: keep_alive",
        "tools.0.function.parameters: invalid schema",
        'model "tools" not found',
    ],
)
def test_other_refusals(text: str) -> None:
    """They keep their own text."""
    assert not is_about_tools(text)

"""How names of models are shown."""

import pytest

from custom_components.home_agent.servers.model_names import shown_model


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/srv/models/Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q4_K_M"),
        ("./models/a.GGUF", "a"),
        (r"C:\Models\Meta Llama\b.gguf", "b"),
        (r"\\nas\models\c", "c"),
        ("d.gguf", "d"),
        ("/models/folder/", "/models/folder/"),
        ("llama3.2:3b", "llama3.2:3b"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M", "hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M"),
        ("", ""),
    ],
)
def test_shown_model(name: str, shown: str) -> None:
    """A path is shown as the name of its file; all other names as they are."""
    assert shown_model(name) == shown

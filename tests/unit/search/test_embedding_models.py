"""Embedding models: the prompts that each expects, and a change of the model."""

from homeassistant.core import HomeAssistant
import pytest
from pytest_homeassistant_custom_component.common import MockConfigEntry

from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn
from tests.servers.ollama import StandInModel
from tests.unit.search.test_entity_search import find, ids, index


@pytest.mark.parametrize(
    ("model", "question", "document"),
    [
        ("nomic-embed-text:v1.5", "search_query: ", "search_document: "),
        ("intfloat/multilingual-e5-small", "query: ", "passage: "),
        ("jeffh/intfloat-multilingual-e5-large-instruct:q8_0", "Instruct: ", ""),
        (
            "embeddinggemma:300m",
            "task: search result | query: ",
            "title: none | text: ",
        ),
        ("qwen3-embedding:0.6b", "Instruct: ", ""),
        ("mxbai-embed-large", "Represent this sentence for ", ""),
        ("bge-large-en-v1.5", "Represent this sentence for ", ""),
        ("bge-m3", "", ""),
        ("snowflake-arctic-embed2", "query: ", ""),
        ("snowflake-arctic-embed-l-v2.0", "query: ", ""),
        ("snowflake-arctic-embed:110m", "Represent this sentence for ", ""),
        ("all-minilm:l6-v2", "", ""),
        ("paraphrase-multilingual", "", ""),
        ("tote5-mini", "", ""),
    ],
)
async def test_embedding_prompts(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    model: str,
    question: str,
    document: str,
) -> None:
    """Each question and each indexed text begins with the model's prompt."""
    name = model if ":" in model else f"{model}:latest"
    ollama.models[name] = StandInModel(name, ("embedding",))
    await make_entry(ollama.url, conversation={}, embedding={"embedding_model": model})
    await index(home, ollama)
    await find(home, "something to read by")
    *indexed, questions = [body["input"] for body in ollama.sent("/api/embed")]
    assert all(text.startswith(document) for batch in indexed for text in batch)
    assert f"{document}Coffee Machine; switch; Kitchen, Ground Floor" in indexed[0]
    (text,) = questions
    assert text.startswith(question)
    assert text.endswith("something to read by")
    assert bool(question) or text == "something to read by"


async def take_another_model(
    hass: HomeAssistant, ollama: OllamaStandIn, entry: MockConfigEntry
) -> None:
    """Let the entry use a new embedding model, whose index is not made yet."""
    name = "all-minilm:latest"
    ollama.models[name] = StandInModel(name, ("embedding",), dimension=64)
    (subentry,) = entry.get_subentries_of_type("embedding")
    changed = {**subentry.data, "embedding_model": "all-minilm"}
    hass.config_entries.async_update_subentry(entry, subentry, data=changed)
    await hass.async_block_till_done()


async def test_the_previous_model_answers_until_the_index_is_complete(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Then the new model answers, and the previous index is deleted."""
    entry = await make_entry(ollama.url, conversation={}, embedding={})
    await index(home, ollama)
    ollama.requests.clear()
    await take_another_model(home, ollama, entry)
    answer = await find(home, "lamp for reading")
    assert ids(answer)[0] == "light.reading_lamp"
    assert answer["mode"] == "hybrid"
    (asked,) = ollama.sent("/api/embed")
    assert asked["model"] == "nomic-embed-text"
    assert asked["input"] == ["search_query: lamp for reading"]
    # The previous model need not stay loaded for long.
    assert asked["keep_alive"] == "1m"
    await index(home, ollama)
    answer = await find(home, "lamp for reading")
    assert answer["mode"] == "hybrid"
    last = ollama.sent("/api/embed")[-1]
    assert last["model"] == "all-minilm"
    assert last["input"] == ["lamp for reading"]
    await home.config_entries.async_reload(entry.entry_id)
    await find(home, "lamp for reading")
    assert ollama.sent("/api/embed")[-1]["model"] == "all-minilm"


async def test_a_previous_model_that_the_server_does_not_have(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The new model answers from its incomplete index, and the lexical ranking."""
    entry = await make_entry(ollama.url, conversation={}, embedding={})
    await index(home, ollama)
    del ollama.models["nomic-embed-text:latest"]
    await take_another_model(home, ollama, entry)
    for _ in range(2):
        assert ids(await find(home, "reading lamp")) == ["light.reading_lamp"]
    models = [body["model"] for body in ollama.sent("/api/embed")]
    assert models[-3:] == ["nomic-embed-text", "all-minilm", "all-minilm"]

"""The AI task entity: text, data of a structure, tools, images, errors."""

import json
from pathlib import Path
from typing import Any

from homeassistant.components import ai_task, conversation, media_source
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import selector
import probatio as vol
import pytest

from tests.conftest import MakeEntry
from tests.plants import CountTool, PlantAPI
from tests.servers import OllamaStandIn, OpenAIStandIn, Reply, ToolUse
from tests.servers.stand_in import Fault

PLANTS = vol.Schema(
    {
        vol.Required("count", description="How many plants"): selector.selector(
            {"number": {}}
        ),
        vol.Optional("thirsty"): selector.selector({"boolean": {}}),
    }
)
GOOD = '{"count": 3, "thirsty": true}'


async def generate(hass: HomeAssistant, **more: Any) -> Any:
    """Return the data that the AI task entity generates."""
    task = {"task_name": "plants", "entity_id": "ai_task.task"}
    result = await ai_task.async_generate_data(
        hass, **task | {"instructions": "Count the plants."} | more
    )
    return result.data


def state_of(hass: HomeAssistant) -> str:
    """Return the state of the AI task entity."""
    state = hass.states.get("ai_task.task")
    assert state is not None
    return state.state


async def test_text(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Without a structure the answer is text; the keep_alive of the role is sent."""
    entry = await make_entry(ollama.url, ai_task={"llm_keep_alive": "-1"})
    ollama.brain.replies.append(Reply("Three plants."))
    assert await generate(home) == "Three plants."
    (body,) = ollama.sent("/api/chat")
    assert body["keep_alive"] == -1
    assert "format" not in body
    assert body["messages"][-1]["content"].endswith("Count the plants.")
    assert not entry.runtime_data.primers
    assert len(entry.runtime_data.residencies) == 1


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_structure_on_ollama(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    *,
    streaming: bool,
) -> None:
    """The server gets the schema, and so does the model, with its descriptions."""
    await make_entry(ollama.url, ai_task={"llm_stream": streaming})
    ollama.brain.replies.append(Reply(GOOD))
    data = await generate(home, structure=PLANTS)
    assert data == {"count": 3, "thirsty": True}
    assert type(data["count"]) is int
    (body,) = ollama.sent("/api/chat")
    assert body["stream"] is streaming
    assert body["format"]["type"] == "object"
    assert body["format"]["required"] == ["count"]
    assert body["format"]["properties"]["thirsty"]["type"] == "boolean"
    assert "How many plants" in body["messages"][-1]["content"]


async def test_a_structure_on_other_servers(
    home: HomeAssistant, openai: OpenAIStandIn, make_entry: MakeEntry
) -> None:
    """The same schema in OpenAI's form."""
    await make_entry(openai.url, ai_task={"llm_model": "local-model"})
    openai.brain.replies.append(Reply(f"```json\n{GOOD}\n```"))
    assert (await generate(home, structure=PLANTS))["count"] == 3
    (body,) = openai.sent("/v1/chat/completions")
    sent = body["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["name"]
    assert sent["json_schema"]["schema"]["required"] == ["count"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("There are three.", "it is not JSON"),
        ('{"count": 3', "it is not JSON"),
        ('{"thirsty": true}', "count"),
        ('{"count": 3, "name": "Fern"}', "name"),
        ('{"count": "3"}', "wrong type of count"),
        ('{"count": 3, "thirsty": "no"}', "wrong type of thirsty"),
        ("[1]", "expected a mapping"),
    ],
)
async def test_an_answer_that_does_not_fit_is_repaired(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    answer: str,
    reason: str,
) -> None:
    """The model gets its answer and the reason, in the same turn."""
    entry = await make_entry(ollama.url, ai_task={})
    (residency,) = entry.runtime_data.residencies.values()
    turns: list[Any] = []
    residency.use.turn_ended.add(turns.append)
    ollama.brain.replies += [Reply(answer), Reply(GOOD)]
    assert (await generate(home, structure=PLANTS))["count"] == 3
    first, second = ollama.sent("/api/chat")
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2]["content"] == answer
    assert second["messages"][3]["role"] == "user"
    assert reason in second["messages"][3]["content"]
    assert second["format"] == first["format"]
    (turn,) = turns
    assert turn.requests == 2


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ({"boolean": {}}, 1, True),
        ({"number": {}}, True, 1),
        (
            {
                "object": {
                    "multiple": True,
                    "fields": {"name": {"selector": {"text": {}}}},
                }
            },
            [1, 2],
            [{"name": "Fern"}],
        ),
    ],
)
async def test_values_of_a_wrong_type(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    field: dict[str, Any],
    wrong: Any,
    right: Any,
) -> None:
    """Some selectors take them, or raise an error of Python: they are repaired."""
    await make_entry(ollama.url, ai_task={})
    structure = vol.Schema({vol.Required("value"): selector.selector(field)})
    ollama.brain.replies += [
        Reply(json.dumps({"value": value})) for value in (wrong, right)
    ]
    assert await generate(home, structure=structure) == {"value": right}
    assert len(ollama.sent("/api/chat")) == 2


async def test_one_repair_only(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Then an error says so; the log has no text of the answer."""
    await make_entry(ollama.url, ai_task={})
    ollama.brain.replies += [Reply("secret one"), Reply("secret two"), Reply(GOOD)]
    with pytest.raises(HomeAssistantError, match="the requested structure") as err:
        await generate(home, structure=PLANTS)
    assert err.value.translation_key == "structure_mismatch"
    assert len(ollama.sent("/api/chat")) == 2
    ours = [r for r in caplog.records if r.name.startswith("custom_components.home")]
    assert sum(r.levelname == "WARNING" for r in ours) == 1
    assert not any("secret" in r.getMessage() for r in ours)


async def test_a_server_that_refuses_the_schema(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is asked again without the schema, which the prompt has too."""
    await make_entry(ollama.url, ai_task={})
    ollama.faults.append(Fault(500, {"error": "invalid JSON schema in format"}))
    ollama.brain.replies.append(Reply(GOOD))
    assert (await generate(home, structure=PLANTS))["count"] == 3
    first, second = ollama.sent("/api/chat")
    assert "format" in first
    assert "format" not in second
    assert "How many plants" in second["messages"][-1]["content"]
    ollama.brain.replies.append(Reply(GOOD))
    await generate(home, structure=PLANTS)
    assert "format" in ollama.sent("/api/chat")[-1]


async def test_another_error_is_raised(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It is translated, and nothing is sent again."""
    await make_entry(ollama.url, ai_task={})
    ollama.faults.append(Fault(500, {"error": "out of memory"}))
    with pytest.raises(HomeAssistantError) as err:
        await generate(home, structure=PLANTS)
    assert err.value.translation_key == "server_error"
    assert len(ollama.sent("/api/chat")) == 1


async def test_tools_of_a_task(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """A call would not fit a schema: only the last request has it."""
    await make_entry(ollama.url, ai_task={})
    tool = CountTool()
    ollama.brain.replies += [
        Reply(tools=(ToolUse("count_plants", {}),)),
        Reply("I have counted three."),
        Reply(GOOD),
    ]
    data = await generate(home, structure=PLANTS, llm_api=PlantAPI(home, tool))
    assert data["count"] == 3
    assert tool.calls == 1
    bodies = ollama.sent("/api/chat")
    assert ["format" in body for body in bodies] == [False, False, True]
    assert all(body["tools"] == bodies[0]["tools"] for body in bodies)
    roles = [message["role"] for message in bodies[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


async def test_a_call_in_the_repair_is_refused(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The model may only correct its answer."""
    await make_entry(ollama.url, ai_task={})
    tool = CountTool()
    ollama.brain.replies += [
        Reply("Three."),
        Reply(tools=(ToolUse("count_plants", {}),)),
    ]
    with pytest.raises(HomeAssistantError, match="no answer"):
        await generate(home, structure=PLANTS, llm_api=PlantAPI(home, tool))
    assert not tool.calls


@pytest.mark.parametrize(
    ("mime_type", "error"),
    [("image/png", None), ("application/pdf", "unsupported_attachment")],
)
async def test_attachments(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mime_type: str,
    error: str | None,
) -> None:
    """Images go to the model; others are refused before anything is sent."""
    await make_entry(ollama.url, ai_task={})
    path = tmp_path / "file"
    path.write_bytes(b"hello")

    async def resolve(*_: Any) -> media_source.PlayMedia:
        return media_source.PlayMedia(url="", mime_type=mime_type, path=path)

    monkeypatch.setattr(media_source, "async_resolve_media", resolve)
    attachments = [{"media_content_id": "media-source://media_source/local/file"}]
    if error is None:
        assert await generate(home, attachments=attachments)
        (body,) = ollama.sent("/api/chat")
        assert body["messages"][-1]["images"] == ["aGVsbG8="]
        return
    with pytest.raises(HomeAssistantError) as err:
        await generate(home, attachments=attachments)
    assert err.value.translation_key == error
    assert not ollama.sent("/api/chat")


async def test_a_refused_key_asks_for_a_new_one(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """As for a conversation agent."""
    entry = await make_entry(ollama.url, ai_task={})
    ollama.faults.append(Fault(401, {"error": "unauthorized"}))
    with pytest.raises(HomeAssistantError):
        await generate(home)
    await home.async_block_till_done()
    assert [
        flow["context"]["source"]
        for flow in entry.async_get_active_flows(home, {"reauth"})
    ] == ["reauth"]


async def test_unavailable_while_the_server_is_away(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The entity comes back by itself."""
    entry = await make_entry(ollama.url, ai_task={})
    (coordinator,) = entry.runtime_data.coordinators.values()
    await coordinator.async_refresh()
    assert state_of(home) != "unavailable"
    port = int(ollama.url.rpartition(":")[2])
    await ollama.stop()
    await coordinator.async_refresh()
    assert state_of(home) == "unavailable"
    await ollama.start(port)
    await coordinator.async_refresh()
    assert state_of(home) != "unavailable"


async def test_the_chat_log_shows_what_was_said(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """The schema is attached when a request is made, not written into the log."""
    await make_entry(ollama.url, ai_task={})
    seen: list[str] = []
    original = conversation.ChatLog.async_add_user_content

    def add(self: conversation.ChatLog, content: conversation.UserContent) -> None:
        seen.append(content.content)
        original(self, content)

    ollama.brain.replies.append(Reply(GOOD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversation.ChatLog, "async_add_user_content", add)
        await generate(home, structure=PLANTS)
    assert seen == ["Count the plants."]

"""AI tasks that evaluate questions by the probabilities of tokens."""

from math import log
from typing import Any

from homeassistant.components import ai_task
from homeassistant.const import MAJOR_VERSION, MINOR_VERSION
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
import pytest

from custom_components.home_agent.servers.answers import Answer
from custom_components.home_agent.servers.messages import ChatAnswer, ChatRequest
from custom_components.home_agent.servers.ollama import OllamaServer
from custom_components.home_agent.servers.openai_answers import parse_chat_answer
from tests.conftest import MakeEntry
from tests.servers import OllamaStandIn, OpenAIStandIn, Reply
from tests.servers.others import LlamaCppStandIn

IS_2026_10 = (MAJOR_VERSION, MINOR_VERSION) < (2026, 11)
needs_2026_11 = pytest.mark.skipif(IS_2026_10, reason="2026.10 evaluates nothing")

WEATHER = {
    "type": "choice",
    "instructions": "What should I wear?",
    "criteria": {"coat": "It is cold", "shirt": "It is warm"},
}
COMFORT = {
    "type": "score",
    "instructions": "How comfortable is it?",
    "criteria": ["bad", "fair", "good"],
}
WINDOW = {"type": "noul", "instructions": "Is a window open?"}


def said(**probabilities: float) -> Reply:
    """Return a reply that could begin with some tokens."""
    pairs = ((token, log(value)) for token, value in probabilities.items())
    return Reply(next(iter(probabilities)), logprobs=tuple(pairs))


async def evaluate(hass: HomeAssistant, **questions: Any) -> dict[str, Any]:
    """Return the answers to some questions about a room."""
    result = await ai_task.async_evaluate(
        hass,
        task_name="room",
        entity_id="ai_task.task",
        state={"temperature": 12},
        questions=questions,
    )
    answers: dict[str, Any] = result.as_dict()["answers"]
    return answers


def features(hass: HomeAssistant) -> int:
    """Return the features of the AI task entity."""
    state = hass.states.get("ai_task.task")
    assert state is not None
    found: int = state.attributes["supported_features"]
    return found


@needs_2026_11
async def test_three_kinds_of_questions(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Tokens count for the label that they hold; the rest is left out."""
    await make_entry(ollama.url, ai_task={"llm_keep_alive": "-1"})
    ollama.brain.replies += [
        said(**{"Yes": 0.5, " yes": 0.1, "The": 0.2, "No": 0.2}),
        said(B=0.3, A=0.1, It=0.6),
        said(C=0.5, B=0.25, A=0.25),
    ]
    answers = await evaluate(home, window=WINDOW, weather=WEATHER, comfort=COMFORT)
    assert answers["window"]["noul"] == pytest.approx(0.75)
    assert answers["weather"]["choice"] == "shirt"
    assert answers["weather"]["probabilities"] == pytest.approx(
        {"coat": 0.25, "shirt": 0.75}
    )
    assert answers["comfort"]["score"] == pytest.approx(1.25)
    assert answers["comfort"]["probabilities"] == pytest.approx([0.25, 0.25, 0.5])
    bodies = ollama.sent("/api/chat")
    for body in bodies:
        assert body["logprobs"] is True
        assert body["top_logprobs"] == 20
        assert body["options"]["num_predict"] == 1
        assert body["keep_alive"] == -1
        assert body["messages"][0] == bodies[0]["messages"][0]
        assert body["messages"][1]["content"].startswith(
            'Input:\n{"temperature":12}\n\nQuestion: '
        )
    assert "A: coat: It is cold" in bodies[1]["messages"][1]["content"]


@needs_2026_11
async def test_on_llama_cpp(home: HomeAssistant, make_entry: MakeEntry) -> None:
    """OpenAI's form of the probabilities."""
    async with LlamaCppStandIn() as server:
        await make_entry(server.url, ai_task={"llm_model": "model"})
        server.brain.replies.append(said(No=0.9, Yes=0.1))
        answers = await evaluate(home, window=WINDOW)
        assert answers["window"]["noul"] == pytest.approx(0.1)
        (body,) = server.sent("/v1/chat/completions")
        assert body["top_logprobs"] == 20
        assert body["logprobs"] is True


@needs_2026_11
@pytest.mark.parametrize("reply", [Reply("Yes"), said(The=0.5, It=0.4)])
async def test_no_probabilities(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry, reply: Reply
) -> None:
    """An old server reports none, and some models begin with other words."""
    await make_entry(ollama.url, ai_task={})
    ollama.brain.replies.append(reply)
    with pytest.raises(HomeAssistantError) as err:
        await evaluate(home, window=WINDOW)
    assert err.value.translation_key == "no_probabilities"


@needs_2026_11
async def test_too_many_answers(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """Servers report the probabilities of twenty tokens; nothing is sent."""
    await make_entry(ollama.url, ai_task={})
    levels = COMFORT | {"criteria": ["level"] * 21}
    with pytest.raises(HomeAssistantError, match="at most 20"):
        await evaluate(home, comfort=levels)
    assert not ollama.sent("/api/chat")


@needs_2026_11
@pytest.mark.parametrize("setting", [{"llm_think": "high"}, {}])
async def test_the_model_does_not_think(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    setting: dict[str, str],
) -> None:
    """The first token is one of the answer; Ollama's default would be to think."""
    await make_entry(ollama.url, ai_task={"llm_model": "qwen3:8b", **setting})
    ollama.brain.replies.append(said(Yes=1.0))
    await evaluate(home, window=WINDOW)
    (body,) = ollama.sent("/api/chat")
    assert body["think"] is False


@pytest.mark.parametrize("reports", [True, False])
async def test_the_feature(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    openai: OpenAIStandIn,
    make_entry: MakeEntry,
    *,
    reports: bool,
) -> None:
    """Only since 2026.11, and where the server reports probabilities."""
    await make_entry((ollama if reports else openai).url, ai_task={})
    basic = (
        ai_task.AITaskEntityFeature.GENERATE_DATA
        | ai_task.AITaskEntityFeature.SUPPORT_ATTACHMENTS
    )
    has_feature = reports and not IS_2026_10
    assert features(home) == basic | (8 if has_feature else 0)


@needs_2026_11
async def test_all_questions_load_the_model_once(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has keep_alive 0, and leaves the memory after the last question."""
    asked: list[ChatRequest] = []
    chat = OllamaServer.chat

    async def note(server: OllamaServer, request: ChatRequest) -> ChatAnswer:
        asked.append(request)
        return await chat(server, request)

    monkeypatch.setattr(OllamaServer, "chat", note)
    await make_entry(ollama.url, ai_task={"llm_keep_alive": "0"})
    ollama.brain.replies += [said(Yes=1.0), said(Yes=1.0)]
    await evaluate(home, window=WINDOW, door=WINDOW)
    assert [request.keeps_loaded for request in asked] == [True, False]


@needs_2026_11
async def test_a_probability_above_one(
    home: HomeAssistant, ollama: OllamaStandIn, make_entry: MakeEntry
) -> None:
    """It counts as 1."""
    await make_entry(ollama.url, ai_task={})
    ollama.brain.replies.append(Reply("Yes", logprobs=(("Yes", 800.0), ("No", 0.0))))
    answers = await evaluate(home, window=WINDOW)
    assert answers["window"]["noul"] == 0.5


@pytest.mark.parametrize(
    "logprobs",
    ["none", 1, [1], [{"top_logprobs": "x"}], [{"top_logprobs": [{"logprob": -1}]}]],
)
def test_probabilities_in_an_unknown_form(logprobs: Any) -> None:
    """They are not worth an answer, which nobody may have asked to have them."""
    choice = {"message": {"content": "Hi"}, "logprobs": logprobs}
    answers = (
        Answer("server", {"logprobs": logprobs}).first_token_logprobs("logprobs"),
        Answer("server", {"content": logprobs}).first_token_logprobs("content"),
    )
    assert answers == ({}, {})
    whole = parse_chat_answer(Answer("server", {"choices": [choice]}), "server")
    assert whole.content == "Hi"
    assert whole.first_token_logprobs == {}

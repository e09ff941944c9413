"""What must hold for the messages that are built from any chat log."""

from collections.abc import Sequence

from homeassistant.components.conversation import Content, UserContent
from homeassistant.core import HomeAssistant
from hypothesis import given, strategies as st
import pytest

from custom_components.home_agent.prompt.history import History, TurnContext
from custom_components.home_agent.prompt.messages import async_messages
from custom_components.home_agent.servers.messages import ChatMessage
from tests.strategies import chat_logs, texts

# A failing example is made smaller, which takes time.
pytestmark = pytest.mark.timeout(300)


class Conversation:
    """One conversation, as an agent sends it to a model turn by turn."""

    def __init__(self, hass: HomeAssistant, max_turns: int) -> None:
        """Begin a conversation that keeps so many turns before the current one."""
        self._hass = hass
        self.history = History(max_turns)

    def ask(self, question: UserContent, lines: Sequence[str]) -> None:
        """Attach retrieved lines to a question."""
        entities = {f"light.{number}": line for number, line in enumerate(lines)}
        self.history.begin_turn(question, TurnContext(entities))

    async def messages(self, content: Sequence[Content]) -> list[ChatMessage]:
        """Return the messages of a request."""
        return await async_messages(
            self._hass, self.history.messages_to_send(content), self.history.context_of
        )

    async def send(self, content: Sequence[Content]) -> list[ChatMessage]:
        """Return the messages of a request that is sent."""
        self.history.freeze_context()
        return await self.messages(content)


def check(messages: list[ChatMessage], content: Sequence[Content]) -> None:
    """Assert what holds for every request."""
    assert messages[0]["role"] == "system"
    assert all(message["role"] != "system" for message in messages[1:])
    called: set[str] = set()
    for message in messages:
        called.update(call.id for call in message.get("tool_calls", ()))
        if message["role"] == "tool":
            assert message["tool_call_id"] in called
    questions = [m["content"] for m in messages if m["role"] == "user"]
    *_, newest = (item for item in content if isinstance(item, UserContent))
    assert questions[-1].endswith(newest.content)
    # All that follows the newest question is there: the model waits for it.
    roles = [message["role"] for message in messages]
    log_roles = [item.role for item in content]
    assert roles[::-1].index("user") == log_roles[::-1].index("user")


def is_continued(before: list[ChatMessage], after: list[ChatMessage]) -> bool:
    """Return whether a request repeats the one before, but for turns left out."""
    assert before[0] == after[0]
    return any(after[1:][: len(before) - at] == before[at:] for at in range(1, 99))


@given(
    content=chat_logs(),
    max_turns=st.integers(0, 4),
    lines=st.lists(texts(), max_size=8),
    data=st.data(),
)
async def test_every_request_of_any_conversation(
    hass: HomeAssistant,
    content: list[Content],
    max_turns: int,
    lines: list[str],
    data: st.DataObject,
) -> None:
    """No result without its call, the newest question, and the cached bytes again."""
    conversation = Conversation(hass, max_turns)
    before: list[ChatMessage] | None = None
    for end, item in enumerate(content):
        if not isinstance(item, UserContent):
            continue
        conversation.ask(item, lines)
        log = content[: end + 1]
        for _ in range(data.draw(st.integers(0, 3), "times shortened")):
            conversation.history.shorten(log)
        messages = await conversation.send(log)
        check(messages, log)
        if before is not None:
            assert is_continued(before, messages)
        before = messages
    check(await conversation.messages(content), content)


@given(content=chat_logs(), lines=st.lists(texts(), max_size=8))
async def test_shortening_any_prompt_comes_to_an_end(
    hass: HomeAssistant, content: list[Content], lines: list[str]
) -> None:
    """Each step makes the request smaller; the question itself is left."""
    conversation = Conversation(hass, 0)
    *_, question = (item for item in content if isinstance(item, UserContent))
    conversation.ask(question, lines)

    async def size() -> int:
        messages = await conversation.messages(content)
        check(messages, content)
        return len(messages) + sum(len(message["content"]) for message in messages)

    sizes = [await size()]
    while conversation.history.shorten(content):
        sizes.append(await size())
        assert sizes[-1] < sizes[-2]
    assert conversation.history.context_of(question) == ""

"""Which turns of a conversation are sent, and the context of each user message."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from homeassistant.components.conversation import (
    ChatLog,
    Content,
    ToolResultContent,
    UserContent,
)
from homeassistant.core import callback
from homeassistant.helpers.chat_session import current_session
from homeassistant.helpers.llm import ToolResult

_ENTITIES: Final = "Entities that may be meant, with their states at this moment:"
# Entities that are kept until all earlier turns have been dropped.
_MIN_ENTITIES: Final = 3
_WITHHELD: Final = ToolResult(
    data={"note": "Outdated: the exposed entities have changed. Call the tool again."}
)


@dataclass(slots=True)
class TurnContext:
    """The context that precedes one user message.

    entities maps entity ids to their texts, the best match first; time is a sentence,
    "" for none. output says which form the answer must have, "" for any.
    """

    entities: dict[str, str] = field(default_factory=dict)
    time: str = ""
    output: str = ""

    @property
    def text(self) -> str:
        """Return the text for the model, "" if there is nothing to send."""
        lines = [_ENTITIES, *self.entities.values()] if self.entities else []
        return "\n".join([*lines, *filter(None, (self.time, self.output))])


class History:
    """The turns of one conversation, as they are sent to the model.

    A turn is a user message with the tool calls and answers that follow it. A server
    reuses its prompt cache for a prompt that begins, byte for byte, like an earlier
    one. So the context of a question is sent again with it, unchanged, and old turns
    are dropped several at a time.
    """

    def __init__(self, max_turns: int) -> None:
        """Send at most max_turns turns before the current one, 0 for all."""
        self._max_turns = max_turns
        self._dropped_turns = 0
        self._contexts: list[tuple[UserContent, TurnContext]] = []
        self._is_context_frozen = True
        self._api_id: str | None = None
        self._outdated_until = 0

    def begin_turn(self, question: UserContent, context: TurnContext) -> None:
        """Attach context to a user message."""
        self._contexts.append((question, context))
        self._is_context_frozen = False

    def remove_hidden(
        self,
        chat_log: ChatLog,
        is_exposed: Callable[[str], bool],
    ) -> None:
        """Stop sending entities that are not exposed any more with earlier turns.

        The id of the LLM API changes with each change of the exposed entities. A
        tool's result may name any of them, so a note replaces all earlier results then.
        """
        for _, context in self._contexts:
            for entity_id in list(context.entities):
                if not is_exposed(entity_id):
                    del context.entities[entity_id]
        api_id = chat_log.llm_api.api.id if chat_log.llm_api else None
        if self._api_id is not None and api_id != self._api_id:
            self._outdated_until = len(chat_log.content)
        self._api_id = api_id

    def freeze_context(self) -> None:
        """Keep the newest context as it is: the server may have it in its cache."""
        self._is_context_frozen = True

    def context_of(self, question: UserContent) -> str:
        """Return the text that is sent in front of a question."""
        for earlier, context in self._contexts:
            if earlier is question:
                return context.text
        return ""

    def messages_to_send(self, content: Sequence[Content]) -> list[Content]:
        """Return the system prompt and the last turns of a chat log.

        Half of max_turns are dropped at a time, so that the prefix of the prompt stays
        the same for as many turns. What is dropped is dropped for good; results of
        tools from before a change of the exposed entities are replaced by a note.
        """
        starts = _turn_starts(content)
        too_many = len(starts) - 1 - self._max_turns
        if self._max_turns > 0 and too_many > self._dropped_turns:
            block = max(1, self._max_turns // 2)
            self._dropped_turns = -(-too_many // block) * block
        dropped = min(self._dropped_turns, max(0, len(starts) - 1))
        items = list(content)
        for index, item in enumerate(items[: self._outdated_until]):
            if isinstance(item, ToolResultContent):
                items[index] = replace(item, result=_WITHHELD)
        if not dropped:
            return items
        self._forget_contexts(content[: starts[dropped]])
        return [items[0], *items[starts[dropped] :]]

    def shorten(self, content: Sequence[Content]) -> bool:
        """Send less: fewer entities with the question, then fewer turns.

        The last few entities are dropped when no turn is left to drop. Return whether
        there was anything to drop. A context that was sent is not changed here.
        """
        entities = {} if self._is_context_frozen else self._contexts[-1][1].entities
        turns = len(_turn_starts(content)) - 1 - self._dropped_turns
        if len(entities) > _MIN_ENTITIES:
            for entity_id in list(entities)[max(_MIN_ENTITIES, len(entities) // 2) :]:
                del entities[entity_id]
        elif turns > 0:
            self._dropped_turns += -(-turns // 2)
        elif entities:
            entities.clear()
        else:
            return False
        return True

    def _forget_contexts(self, dropped: Sequence[Content]) -> None:
        """Forget the contexts of questions that are not sent any more."""
        gone = {id(item) for item in dropped}
        self._contexts = [
            (question, context)
            for question, context in self._contexts
            if id(question) not in gone
        ]


class Histories:
    """The histories of an agent's conversations, each kept until its session ends."""

    def __init__(self, max_turns: int) -> None:
        """Send at most max_turns earlier turns in each."""
        self._max_turns = max_turns
        self._histories: dict[str, History] = {}

    @callback
    def async_get(self, chat_log: ChatLog) -> History:
        """Return the history of a chat log; it is kept once async_keep is called."""
        stored = self._histories.get(chat_log.conversation_id)
        return stored or History(self._max_turns)

    @callback
    def async_keep(self, chat_log: ChatLog, history: History) -> None:
        """Keep a history until the session of its conversation ends.

        Call it only after a turn that succeeded: when the first turn of a conversation
        fails, Home Assistant drops the session without calling its cleanup callbacks.
        """
        key = chat_log.conversation_id
        session = current_session.get()
        if (
            key not in self._histories
            and session is not None
            and session.conversation_id == key
        ):
            self._histories[key] = history

            @callback
            def forget() -> None:
                del self._histories[key]

            session.async_on_cleanup(forget)


def _turn_starts(content: Sequence[Content]) -> list[int]:
    """Return the indexes of the user messages, with which the turns begin."""
    return [
        index for index, item in enumerate(content) if isinstance(item, UserContent)
    ]

"""What of a conversation a model is told, and what it was told beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from homeassistant.components import conversation
from homeassistant.components.conversation import ChatLog, Content, UserContent
from homeassistant.core import callback
from homeassistant.helpers.chat_session import current_session

_ENTITIES: Final = "Entities that may be meant, with their states at this moment:"
# So many are worth more than what was said before.
_FEW: Final = 3


@dataclass(slots=True)
class TurnContext:
    """What a model is told beside one question, in front of it.

    entities are lines by entity, the best first; time is a sentence.
    """

    entities: dict[str, str] = field(default_factory=dict)
    time: str = ""

    @property
    def text(self) -> str:
        """Return it as the model reads it, "" if there is nothing to tell."""
        lines = [_ENTITIES, *self.entities.values()] if self.entities else []
        return "\n".join([*lines, *filter(None, (self.time,))])


class History:
    """One conversation as an agent tells it to its model.

    A server finds in its cache what it has read before, byte for byte: so what
    was told beside a question is told again with it, for as long as it is told at
    all, and old rounds go in blocks. A round begins with what the user says, so a
    tool call is never kept without its result.
    """

    def __init__(self, max_rounds: int) -> None:
        """Keep max_rounds rounds before the current one, 0 for all."""
        self._max_rounds = max_rounds
        self._dropped = 0
        self._contexts: list[tuple[UserContent, TurnContext]] = []
        self._is_new = False

    def begin_turn(self, question: UserContent, context: TurnContext) -> None:
        """Tell context beside a question from now on."""
        self._contexts.append((question, context))
        self._is_new = True

    def forget_hidden(self, is_exposed: Callable[[str], bool]) -> None:
        """Tell no more, not even with earlier questions, of what was hidden since."""
        for _, context in self._contexts:
            for entity_id in list(context.entities):
                if not is_exposed(entity_id):
                    del context.entities[entity_id]

    def sent(self) -> None:
        """Keep the newest context as it is: the server has it in its cache."""
        self._is_new = False

    def context_of(self, question: UserContent) -> str:
        """Return what is told beside a question."""
        for asked, context in self._contexts:
            if asked is question:
                return context.text
        return ""

    def told(self, content: Sequence[Content]) -> list[Content]:
        """Return what is told of a chat log: its prompt and the last rounds.

        Old rounds go half of max_rounds at a time: what is left begins with the
        same ones for as many turns.
        """
        rounds = _rounds(content)
        too_many = len(rounds) - 1 - self._max_rounds
        if self._max_rounds > 0 and too_many > self._dropped:
            block = max(1, self._max_rounds // 2)
            self._dropped = -(-too_many // block) * block
        if not (dropped := min(self._dropped, max(0, len(rounds) - 1))):
            return list(content)
        return [content[0], *content[rounds[dropped] :]]

    def shorten(self, content: Sequence[Content]) -> bool:
        """Tell less: fewer entities with the question, then half of the rounds.

        The last few entities go only when there is no round left to go. Return
        whether there was anything to leave out. What was sent once is not changed,
        only left out.
        """
        entities = self._contexts[-1][1].entities if self._is_new else {}
        if len(entities) > _FEW:
            for entity_id in list(entities)[max(_FEW, len(entities) // 2) :]:
                del entities[entity_id]
        elif (before := len(_rounds(content)) - 1 - self._dropped) > 0:
            self._dropped += -(-before // 2)
        elif entities:
            entities.clear()
        else:
            return False
        return True


class Histories:
    """The histories of an agent's conversations, each for as long as its session."""

    def __init__(self, max_rounds: int) -> None:
        """Keep max_rounds rounds in each."""
        self._max_rounds = max_rounds
        self._histories: dict[str, History] = {}

    def of(self, chat_log: ChatLog) -> History:
        """Return the history of a chat log."""
        key = chat_log.conversation_id
        if (history := self._histories.get(key)) is None:
            history = History(self._max_rounds)
            session = current_session.get()
            if session is not None and session.conversation_id == key:
                self._histories[key] = history
                session.async_on_cleanup(partial(self._forget, key))
        return history

    @callback
    def _forget(self, key: str) -> None:
        """Forget a conversation that is over."""
        del self._histories[key]


def _rounds(content: Sequence[conversation.Content]) -> list[int]:
    """Return where the rounds of a chat log begin."""
    return [
        index for index, item in enumerate(content) if isinstance(item, UserContent)
    ]

"""Evaluate a question by the probabilities of the tokens that answer it.

Each possible answer gets a label of one token. The probability of an answer is that
with which the model would begin with its label.
"""

from collections.abc import Mapping
from math import exp
from typing import TYPE_CHECKING, Any, Final

from homeassistant.components import ai_task, conversation
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.json import json_dumps

from ..const import DOMAIN

# Only since Home Assistant 2026.11.
if TYPE_CHECKING:
    from homeassistant.components.ai_task import (
        EvaluationAnswer,
        EvaluationQuestion,
        EvaluationTask,
    )

_SYSTEM_PROMPT: Final = (
    "You judge an input by one question about it. Begin your answer with one of the"
    " labels that the question names, and write nothing in front of it."
)
# Without I: many answers begin with this word.
_LETTERS: Final = "ABCDEFGHJKLMNOPQRSTU"
_YES_OR_NO: Final = ("Yes", "No")
# What a token may have around its label.
_AROUND_A_LABEL: Final = " \t\n\"'`*(#"


def evaluation_prompt(
    task: EvaluationTask, question: EvaluationQuestion
) -> list[conversation.Content]:
    """Return the prompt for one question of a task.

    The input comes first: the server reads it once for all questions. Raise
    HomeAssistantError if there are more possible answers than labels.
    """
    state = task.state
    text = state if isinstance(state, str) else json_dumps(state)
    parts = [] if state is None else [f"Input:\n{text}"]
    parts.append(f"Question: {question['instructions']}")
    labels = _labels(question)
    if question["type"] != "noul":
        parts.append(
            "\n".join(
                f"{label}: {meaning}"
                for label, meaning in zip(labels, _meanings(question), strict=True)
            )
        )
    parts.append(f"Answer with one of these labels: {', '.join(labels)}")
    return [
        conversation.SystemContent(_SYSTEM_PROMPT),
        conversation.UserContent("\n\n".join(parts), attachments=task.attachments),
    ]


def evaluation_answer(
    question: EvaluationQuestion, logprobs: Mapping[str, float]
) -> EvaluationAnswer:
    """Return the answer to a question, by the log probabilities of the first token.

    Raise HomeAssistantError if no likely token is a label.
    """
    labels = _labels(question)
    found = dict.fromkeys((label.casefold() for label in labels), 0.0)
    for token, logprob in logprobs.items():
        label = token.strip(_AROUND_A_LABEL).casefold()
        if label in found:
            # A probability is 1 at most, whatever the server reports.
            found[label] += exp(min(logprob, 0.0))
    if not (total := sum(found.values())):
        raise HomeAssistantError(
            translation_domain=DOMAIN, translation_key="no_probabilities"
        )
    probabilities = [probability / total for probability in found.values()]
    if question["type"] == "noul":
        return ai_task.NoulAnswer(noul=probabilities[0])
    if question["type"] == "choice":
        by_choice = dict(zip(question["criteria"], probabilities, strict=True))
        best = max(by_choice, key=by_choice.__getitem__)
        return ai_task.ChoiceAnswer(choice=best, probabilities=by_choice)
    score = sum(level * share for level, share in enumerate(probabilities))
    return ai_task.ScoreAnswer(score=score, probabilities=probabilities)


def _meanings(question: Any) -> list[str]:
    """Return a text for each possible answer: its description, after its name."""
    criteria = question["criteria"]
    if isinstance(criteria, Mapping):
        return [f"{name}: {meaning}" for name, meaning in criteria.items()]
    return list(criteria)


def _labels(question: Any) -> tuple[str, ...]:
    """Return a label for each possible answer.

    Raise HomeAssistantError if there are too many.
    """
    if question["type"] == "noul":
        return _YES_OR_NO
    if (count := len(question["criteria"])) > len(_LETTERS):
        raise HomeAssistantError(
            translation_domain=DOMAIN,
            translation_key="too_many_answers",
            translation_placeholders={"limit": str(len(_LETTERS))},
        )
    return tuple(_LETTERS[:count])

"""A question with its reference."""

from dataclasses import dataclass
from random import Random

MAX_TOKENS = 24
"""Limit of an answer; the questions ask for a few tokens."""

_INSTRUCTIONS = {
    "numeric": ("Answer with the number only.", "Number only.", "Reply with just the number."),
    "contains": (
        "Answer with the name only.", "Answer in one or two words.",
        "Reply with the answer only, no sentence.", "Give just the word or name.",
    ),
    "regex": ("Answer with it alone, nothing else.", "Reply with nothing else."),
    "choice": ("Answer with the letter only.", "Reply with the letter of the right option."),
    "normalized": ("Answer with the output only.", "Reply with exactly what is printed."),
    "exact": ("Answer with the output only.", "Reply with exactly what is printed."),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A question without the instruction on the form of its answer."""

    subject: str
    grader: str
    """A key of `routoo.evaluation.graders.GRADERS`."""
    answer: str
    text: str


def with_instruction(question: Question, rng: Random) -> str:
    """Return the prompt: the question and one of the ways to ask for a short answer."""
    instruction = rng.choice(_INSTRUCTIONS[question.grader])
    joint = "\n" if "\n" in question.text else " "
    return f"{question.text}{joint}{instruction}"

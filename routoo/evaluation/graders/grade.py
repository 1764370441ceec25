"""What a grader says of an answer."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grade:
    """A score and how it was reached."""

    score: float | None
    """In [0, 1], 1 = right; None = ungraded: the answer can be read in more than one way."""
    detail: str
    """How the grader decided, for people."""


CHARACTERS_READ = 2000
"""Of a long answer, this much of its start and of its end is searched for a choice or a number."""

_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)


_TYPOGRAPHY = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b4": "'"}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u00a0\u2009\u202f", "\u00a0")
)


def readable(answer: str) -> str:
    """Return an answer without a model's reasoning before it, with plain quotes and dashes."""
    return _THOUGHT.sub(" ", answer).translate(_TYPOGRAPHY).strip()


def first_and_last(text: str) -> str:
    """Return text with single spaces, and a long one without its middle.

    An answer is stated at the start or at the end; babble between must not cost endless time.
    """
    text = re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n\u00a0]+", " ", text))
    if len(text) <= 2 * CHARACTERS_READ:
        return text
    first = text[:CHARACTERS_READ].rpartition(" ")[0]
    last = text[-CHARACTERS_READ:].partition(" ")[2]
    return f"{first}\n...\n{last}"


def right_or_wrong(*, right: bool, detail: str) -> Grade:
    """Return a full or an empty score."""
    return Grade(1.0 if right else 0.0, detail)


def ungraded(detail: str) -> Grade:
    """Return no score, and why."""
    return Grade(None, detail)

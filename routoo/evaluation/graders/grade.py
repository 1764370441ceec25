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


_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)


_TYPOGRAPHY = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b4": "'"}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u00a0\u2009\u202f", "\u00a0")
)


def readable(answer: str) -> str:
    """Return an answer without a model's reasoning before it, with plain quotes and dashes."""
    return _THOUGHT.sub(" ", answer).translate(_TYPOGRAPHY).strip()


def right_or_wrong(*, right: bool, detail: str) -> Grade:
    """Return a full or an empty score."""
    return Grade(1.0 if right else 0.0, detail)


def ungraded(detail: str) -> Grade:
    """Return no score, and why."""
    return Grade(None, detail)

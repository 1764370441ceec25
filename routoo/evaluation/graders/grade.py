"""Defines what every grader shares: the grade it returns, and how it reads an answer's text."""

import re
import unicodedata
from dataclasses import dataclass

import orjson

ITEM_KEY = "routoo_item_id"
"""Field of a request's metadata that says which item it is about."""
SCORE_KEY = "routoo_recorded_score"
"""Field of a replayed response, and of the JSON object that stands for a text that is not recorded;
null for an outcome without a score."""


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
_ARTICLES = {"a", "an", "the"}
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


def normalise(text: str) -> str:
    """Return text without case, punctuation, articles, markup and superfluous space.

    Unicode is folded by NFKC. Kept are decimal points, fractions and signs of numbers, and the
    marks in names such as `C#`, `C++` and `snake_case`; thousands separators go.
    """
    text = unicodedata.normalize("NFKC", readable(text)).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|\Z))", "", text)
    text = re.sub(r"(?<=\w)'(?=\w)", "", text)
    # A minus sign is one only before a number and after nothing that it could join to that number.
    text = re.sub(r"(?<![\w)\]])-(?=[.\d])", " \x00", text)
    text = re.sub(r"(?<=\d)\.(?=\d)", "\x01", text)
    text = re.sub(r"(?<=\d)/(?=\d)", "\x02", text)
    text = re.sub(r"(?<=\w)#", "\x03", text)
    text = re.sub(r"(?<=\w)_(?=\w)", "\x04", text)
    text = "".join(" " if _is_mark(character) else character for character in text)
    text = text.translate({0: "-", 1: ".", 2: "/", 3: "#", 4: "_"})
    words = text.split()
    kept = [word for word in words if word not in _ARTICLES]
    return " ".join(kept or words)


def _is_mark(character: str) -> bool:
    category = unicodedata.category(character)
    return category.startswith("P") or category in {"Sk", "Sc"} or character == "\\"


def alternatives(reference: str) -> list[str]:
    """Return the accepted answers that a reference lists, separated by `|`, normalised."""
    parts = [normalise(part) for part in reference.split("|")]
    return [part for part in parts if part] or [normalise(reference)]


def recorded_answer(score: float | None) -> str:
    """Return the text that stands for an answer whose score alone was recorded."""
    return orjson.dumps({SCORE_KEY: score}).decode()


def grade_recorded(answer: str, told: str | None = None) -> Grade:
    """Return the score that a replayed answer carries.

    Args:
        answer: Its text.
        told: The score as the response has it; None where only the text may.
    """
    try:
        score = orjson.loads(answer)[SCORE_KEY] if told is None else told
        found = None if score is None else float(score)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return ungraded("the answer carries no recorded score")
    if found is None:
        return ungraded("no score was recorded")
    if not 0 <= found <= 1:
        return ungraded(f"the recorded score {found} is outside [0, 1]")
    return Grade(found, "as recorded")

"""Grades answers as text: to the letter, as a reader would, by a pattern, or contained."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from routoo.errors import InputError
from routoo.evaluation.graders.grade import (
    Grade,
    alternatives,
    normalise,
    readable,
    right_or_wrong,
    ungraded,
)

WORDS_READ = 60
"""Words of an answer that count: a model that names everything names the right thing too."""

_LINE_WORDS = 3
"""Lines of no more words than this are the entries of a list."""

_APPOSITION = 2
"""Parts of "Paris, France": a name, and what only says where it is."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?!\d)|\n+")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
_SEPARATOR = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|;|/(?!\d)|\bor\b|\band\b|&)\s*", re.IGNORECASE)
_CONJUNCTION = re.compile(r"\b(?:or|and)\b|&|/(?!\d)", re.IGNORECASE)
_DENIAL = r"(?:not|never|isnt|arent|wasnt|cannot be|neither|nor|rather than|instead of)"
_INTERJECTIONS = {"yes", "no", "well", "sure", "okay", "ok", "certainly", "of course", "so", "hi"}


def grade_exact(answer: str, reference: str) -> Grade:
    """Grade by equality to the letter, but for space at both ends."""
    right = answer.strip() == reference.strip()
    return right_or_wrong(right=right, detail="same text" if right else "different text")


def grade_normalized(answer: str, reference: str) -> Grade:
    """Grade by equality after `normalise`; the reference may list alternatives: "UK | Britain"."""
    said = normalise(readable(answer))
    right = said in alternatives(reference)
    detail = f"{said!r} is {'' if right else 'not '}an accepted answer"
    return right_or_wrong(right=right, detail=detail)


def grade_regex(answer: str, reference: str, options: Mapping[str, Any]) -> Grade:
    """Grade by a regular expression (Python syntax) that is found anywhere in the answer.

    Args:
        answer: What the model wrote.
        reference: The expression.
        options: `whole` (the whole answer must match, default false), `case` (case matters,
            default false).

    Raises:
        InputError: The reference is no regular expression.
    """
    try:
        pattern = re.compile(reference, 0 if options.get("case") else re.IGNORECASE)
    except re.error as error:
        raise InputError(
            f"the reference is no regular expression: {error}",
            value=reference,
            remedy="Correct it, or choose another grader",
        ) from error
    text = readable(answer)
    match = pattern.fullmatch(text) if options.get("whole") else pattern.search(text)
    detail = f"matched {match[0]!r}" if match else "no match"
    return right_or_wrong(right=match is not None, detail=detail)


def grade_contains(answer: str, reference: str) -> Grade:
    """Grade by whether a short answer names the reference and commits to it.

    Args:
        answer: What the model wrote.
        reference: The right answer in few words, or several forms of it separated by `|`.
    """
    text = _first_words(readable(answer))
    verdicts = [_judge(text, wanted) for wanted in alternatives(reference)]
    for verdict in ("named", "denied", "hedged"):
        if verdict in verdicts:
            break
    else:
        return right_or_wrong(right=False, detail="the reference is not named")
    if verdict == "hedged":
        return ungraded("the reference is named among other candidates")
    detail = "the reference is named" if verdict == "named" else "the reference is denied"
    return right_or_wrong(right=verdict == "named", detail=detail)


def _first_words(text: str) -> str:
    words = list(re.finditer(r"\S+", text))
    return text[: words[WORDS_READ - 1].end()] if len(words) > WORDS_READ else text


def _judge(text: str, wanted: str) -> str:
    """Return named, denied, hedged, or absent."""
    verdicts = {_judge_sentence(sentence, wanted) for sentence in _sentences(text)}
    return next(
        (kind for kind in ("named", "hedged", "denied") if kind in verdicts),
        "absent",
    )


def _sentences(text: str) -> list[str]:
    """Return the sentences; bullets, and lines that are all a few words long, are one list."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    bullets = len(_BULLET.findall(text))
    few_words = all(len(line.split()) <= _LINE_WORDS for line in lines)
    if len(lines) > 1 and (bullets > 1 or few_words):
        return [", ".join(_BULLET.sub("", line).rstrip(".,;") for line in lines)]
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def _judge_sentence(sentence: str, wanted: str) -> str:
    said = f" {normalise(sentence)} "
    if f" {wanted} " not in said:
        return "absent"
    if re.search(rf" {_DENIAL} (?:\w+ )?{re.escape(wanted)} ", said):
        return "denied"
    return "hedged" if _is_hedged(sentence, wanted) else "named"


def _is_hedged(sentence: str, wanted: str) -> bool:
    """Whether the reference is one of several candidates that the sentence puts side by side."""
    parts = [normalise(part) for part in _SEPARATOR.split(sentence)]
    parts = [part for part in parts if part and part not in _INTERJECTIONS]
    index = next((i for i, part in enumerate(parts) if f" {wanted} " in f" {part} "), None)
    others = [part for part in parts if f" {wanted} " not in f" {part} "]
    if index is None or not others:
        return False  # a reference that is itself a list ("red, white and blue") is in no part
    if _stands_beside_or(sentence, wanted):
        return True
    joined = _CONJUNCTION.search(sentence) is not None
    if parts[index] != wanted:
        rest = parts[index + 1 :]
        ends_there = bool(rest) and parts[index].endswith(f" {wanted}")
        return ends_there and joined and _are_candidates(rest, most_words=2)
    if _are_candidates(parts, most_words=3):
        # "Paris, France" only says where Paris is; "London, Paris" names two candidates.
        return joined or len(parts) > _APPOSITION or index > 0
    return joined and len(parts) > _APPOSITION


def _are_candidates(parts: list[str], *, most_words: int) -> bool:
    return all(len(part.split()) <= most_words for part in parts)


def _stands_beside_or(sentence: str, wanted: str) -> bool:
    sides = re.split(r"\bor\b", sentence, flags=re.IGNORECASE)
    for left, right in itertools.pairwise(sides):
        before = normalise(left)
        after = normalise(right)
        if f" {before}".endswith(f" {wanted}") or f"{after} ".startswith(f"{wanted} "):
            return True
    return False

"""Answers compared as text: to the letter, as a reader would, or by a regular expression."""

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
)


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

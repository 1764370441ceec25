"""Answers compared as text: to the letter, or as a reader would."""

from routoo.evaluation.graders.grade import Grade, readable, right_or_wrong
from routoo.evaluation.graders.normalise import alternatives, normalise


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

"""Recorded outcomes: how a request names its item, and how an answer carries its score."""

import orjson

from routoo.evaluation.graders.grade import Grade, ungraded

ITEM_KEY = "routoo_item_id"
"""Field of a request's metadata that says which item it is about."""
SCORE_KEY = "routoo_recorded_score"
"""Field of a replayed answer, a JSON object; null for an outcome without a score."""


def recorded_answer(score: float | None) -> str:
    """Return the text that stands for an answer whose score alone was recorded."""
    return orjson.dumps({SCORE_KEY: score}).decode()


def grade_recorded(answer: str) -> Grade:
    """Return the score that a replayed answer carries."""
    try:
        score = orjson.loads(answer)[SCORE_KEY]
        found = None if score is None else float(score)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return ungraded("the answer carries no recorded score")
    if found is None:
        return ungraded("no score was recorded")
    if not 0 <= found <= 1:
        return ungraded(f"the recorded score {found} is outside [0, 1]")
    return Grade(found, "as recorded")

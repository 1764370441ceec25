"""Grades items' answers by their graders, and turns collected answers into outcome tables."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from routoo.domain.completion import RecordedAnswer, TokenProbabilities
from routoo.domain.items import Item
from routoo.domain.pool import CandidateModel
from routoo.domain.tables import Outcomes
from routoo.errors import InputError
from routoo.evaluation.answer_log import CollectedAnswer
from routoo.evaluation.graders import Grade, default_grader, grade, listed_choices
from routoo.evaluation.graders.judge import JUDGE

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class CollectedOutcome:
    """One collected answer with its grade and cost: a row of an outcome table."""

    answer: CollectedAnswer
    grade: Grade
    cost_usd: float


def grade_item(item: Item, answer: str) -> Grade:
    """Grade an answer by the item's own grader, or by the one that fits its reference.

    Returns:
        No score where the item has no reference.

    Raises:
        InputError: The item names an unknown grader, or one that can't use the reference.
    """
    if item.answer is None:
        return Grade(None, "the item has no reference")
    name = item.grader or default_grader(item.prompt, item.answer)
    options = {"choices": listed_choices(item.prompt), **_options(item)}
    try:
        return grade(name, answer, item.answer, options)
    except InputError as error:
        raise InputError(
            error.what, where=f"item {item.item_id}", value=error.value, remedy=error.remedy
        ) from error


def _options(item: Item) -> dict[str, object]:
    try:
        options = orjson.loads(item.grader_options or b"{}")
    except orjson.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise InputError(
            "grader_options is no JSON object",
            where=f"item {item.item_id}",
            value=item.grader_options,
        )
    return options


def check_gradable(items: Sequence[Item]) -> None:
    """Check that every grader can use its item's reference, before any call is paid for.

    Raises:
        InputError: The first that does not.
    """
    for item in items:
        grade_item(item, "")


def check_referenced(items: Sequence[Item]) -> None:
    """Check that every item has a reference, before any call is paid for.

    Raises:
        InputError: Some have none; names the first of them.
    """
    without = [item.item_id for item in items if item.answer is None]
    if without:
        shown = ", ".join([*without[:_MOST_NAMED], *(["..."] if without[_MOST_NAMED:] else [])])
        raise InputError(
            f"{len(without):,} of {len(items):,} items have no reference, so that their answers "
            "can't be graded",
            value=shown,
            remedy="Give each its answer, or pass --ungraded to pay for their answers all the same",
        )


def check_reference(item: Item) -> None:
    """Check that an item of an evaluation set has a reference, and that its grader can use it.

    Raises:
        InputError: It has none, or it can't.
    """
    if item.answer is None:
        raise InputError("the item has no reference", remedy="Give its answer")
    if item.grader == JUDGE:
        _options(item)
    else:
        grade_item(item, "")


def collected_outcome(
    item: Item, model: CandidateModel, answer: CollectedAnswer
) -> CollectedOutcome:
    """Return an answer with its grade, and its cost at the model's price."""
    cost_usd = model.cost_usd(
        answer.prompt_tokens,
        answer.completion_tokens,
        answer.cached_prompt_tokens,
        answer.cache_write_tokens,
    )
    return CollectedOutcome(answer, grade_item(item, answer.answer), float(cost_usd))


def to_outcomes(rows: Sequence[CollectedOutcome]) -> Outcomes:
    """Return graded answers as a table; an answer that could not be graded has no score."""
    scores = [np.nan if row.grade.score is None else row.grade.score for row in rows]
    answers = [row.answer for row in rows]
    return Outcomes(
        [answer.item_id for answer in answers],
        [answer.model for answer in answers],
        np.array(scores, dtype=np.float32),
        np.array([answer.prompt_tokens for answer in answers], dtype=np.float32),
        np.array([answer.completion_tokens for answer in answers], dtype=np.float32),
        np.array([row.cost_usd for row in rows], dtype=np.float64),
        np.array([answer.latency_s for answer in answers], dtype=np.float32),
    )


def to_answers(rows: Sequence[CollectedOutcome]) -> list[RecordedAnswer]:
    """Return what the models said, for judges of answers to be fitted on."""
    return [
        RecordedAnswer(
            answer.item_id,
            answer.model,
            answer.answer,
            answer.finish_reason,
            TokenProbabilities.of_figures(answer.token_probabilities),
        )
        for answer in (row.answer for row in rows)
    ]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """Counts and means of one candidate model's answers."""

    model: str
    answers: int
    ungraded: int
    """Answers that have no reference or can be read in more than one way."""
    failed: int
    score: float | None
    """Mean over graded answers."""
    completion_tokens: float | None
    """Mean over all answers."""
    cost_usd: float
    """Of all answers together."""
    latency_s: float | None
    """Median, in seconds."""
    usage_estimated: int
    """Answers without reported usage; their tokens and cost are upper bounds."""


def summarise(model: str, rows: Sequence[CollectedOutcome], failed: int) -> ModelSummary:
    """Return the summary of one model's rows."""
    scores = [row.grade.score for row in rows if row.grade.score is not None]
    tokens = [row.answer.completion_tokens for row in rows]
    return ModelSummary(
        model,
        answers=len(rows),
        ungraded=len(rows) - len(scores),
        failed=failed,
        score=statistics.fmean(scores) if scores else None,
        completion_tokens=statistics.fmean(tokens) if tokens else None,
        cost_usd=sum(row.cost_usd for row in rows),
        latency_s=statistics.median(row.answer.latency_s for row in rows) if rows else None,
        usage_estimated=sum(row.answer.usage_estimated for row in rows),
    )

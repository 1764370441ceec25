"""Fits the judge of answers that a checkpoint keeps: one for each model with enough of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from routoo.domain.answer import RecordedAnswer
from routoo.evaluation.quality_metrics import metrics_by_model
from routoo.judge.fitting import FittedJudge, GradedAnswers, fit_probe_judge
from routoo.judge.hashed_text import HashedTexts, inverse_frequency
from routoo.judge.judge import AnswerJudge, ProbeAnswer, features_of_answer
from routoo.judge.log_odds import log_odds
from routoo.judge.probe_judge import AnswerInputs
from routoo.ports import Feedback
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups

FOLDS = 5
MIN_ANSWERS = 100
"""With fewer graded answers of a model there is no judge of them."""
MIN_OF_EACH = 10
"""Right answers needed, and wrong ones."""
_RIGHT = 0.5
_LEAST = 1e-4


@dataclass(frozen=True, slots=True)
class PromptEstimates:
    """What cross-fitted predictions expect of the training items."""

    quality: Float32[np.ndarray, "items models"]
    completion_tokens: Float32[np.ndarray, "items models"]


def fit_judge(
    matrix: OutcomeMatrix,
    estimates: PromptEstimates,
    answers: Sequence[RecordedAnswer],
    feedback: Feedback,
    *,
    seed: int,
) -> AnswerJudge:
    """Fit a judge of each model's answers.

    A model gets none whose answers are too few, or tell nothing that holds on answers left out.

    Args:
        matrix: Outcomes of the checkpoint's models.
        estimates: What was expected of the same items.
        answers: Recorded answers; those to other items or of other models are left out.
        feedback: Shows how far it is.
        seed: Of the folds.
    """
    folds = grouped_folds(text_groups(matrix.prompts), FOLDS, seed)
    tables = list(_answer_tables(matrix, answers))
    if not tables:
        feedback.note(f"no model has {MIN_ANSWERS} graded answers: none can be judged")
        return AnswerJudge.none(matrix.models)
    read = []
    with feedback.progress_bar("Reading answers", len(tables)) as progress:
        for table in tables:
            read.append(_read(matrix, estimates, table))
            progress(1)
    scale = inverse_frequency([texts for _, texts in read])
    judges, figures = {}, {}
    with feedback.progress_bar("Fitting judges of answers", len(tables)) as progress:
        for table, (features, texts) in zip(tables, read, strict=True):
            name = matrix.models[table.probe]
            prior = log_odds(estimates.quality[table.rows])
            inputs = AnswerInputs(features, texts.scaled(scale), prior)
            score, parts = matrix.score[table.rows], folds[table.rows]
            fitted = fit_probe_judge(GradedAnswers(table.probe, inputs, score, parts))
            found = _figures(matrix, estimates, table, fitted)
            if found["lead"] > 0:
                judges[name], figures[name] = fitted.judge, found
            progress(1)
    if dropped := [matrix.models[t.probe] for t in tables if matrix.models[t.probe] not in judges]:
        feedback.note(f"answers tell no more than prompts of {', '.join(dropped)}: not judged")
    return AnswerJudge(matrix.models, scale, judges, figures)


@dataclass(frozen=True, slots=True)
class _AnswerTable:
    """The graded answers of one model."""

    probe: int
    rows: Int64[np.ndarray, " answers"]
    """Of the outcomes."""
    answers: tuple[RecordedAnswer, ...]


def _answer_tables(
    matrix: OutcomeMatrix, answers: Sequence[RecordedAnswer]
) -> Iterator[_AnswerTable]:
    """Yield the models that have enough graded answers, with these."""
    row = {item.item_id: number for number, item in enumerate(matrix.items)}
    column = {name: number for number, name in enumerate(matrix.models)}
    by_probe: dict[int, list[tuple[int, RecordedAnswer]]] = {}
    for answer in answers:
        at, probe = row.get(answer.item_id), column.get(answer.model)
        if at is not None and probe is not None and not np.isnan(matrix.score[at, probe]):
            by_probe.setdefault(probe, []).append((at, answer))
    for probe, known in sorted(by_probe.items()):
        rows = np.array([at for at, _ in known], np.int64)
        right = int((matrix.score[rows, probe] > _RIGHT).sum())
        if len(rows) >= MIN_ANSWERS and min(right, len(rows) - right) >= MIN_OF_EACH:
            yield _AnswerTable(probe, rows, tuple(answer for _, answer in known))


def _read(
    matrix: OutcomeMatrix, estimates: PromptEstimates, table: _AnswerTable
) -> tuple[Float32[np.ndarray, "answers features"], HashedTexts]:
    features = [
        features_of_answer(_probe_answer(matrix, estimates, table.probe, at, answer))
        for at, answer in zip(table.rows.tolist(), table.answers, strict=True)
    ]
    return np.stack(features), HashedTexts.of([answer.text for answer in table.answers])


def _probe_answer(
    matrix: OutcomeMatrix,
    estimates: PromptEstimates,
    probe: int,
    at: int,
    answer: RecordedAnswer,
) -> ProbeAnswer:
    return ProbeAnswer(
        matrix.items[at].prompt,
        answer.text,
        estimates.quality[at],
        float(estimates.completion_tokens[at, probe]),
        answer.finish_reason,
        answer.token_probabilities,
    )


def _figures(
    matrix: OutcomeMatrix, estimates: PromptEstimates, table: _AnswerTable, fitted: FittedJudge
) -> dict[str, Any]:
    """Return held-out figures of a judge, beside those of the prompt alone."""
    score = matrix.score[table.rows][:, [table.probe]]
    before = estimates.quality[table.rows][:, [table.probe]]
    after = fitted.held_out_quality[:, [table.probe]]
    name = (matrix.models[table.probe],)
    gained = _log_loss(score, before) - _log_loss(score, after)
    error = float(gained.std()) / float(np.sqrt(len(gained)))
    return {
        "answers": len(table.rows),
        "from_prompt": metrics_by_model(score, before, name)[name[0]],
        "with_answer": metrics_by_model(score, after, name)[name[0]],
        "lead": float(gained.mean()) - error,
    }


def _log_loss(
    score: Float32[np.ndarray, "answers 1"], quality: Float32[np.ndarray, "answers 1"]
) -> Float32[np.ndarray, " answers"]:
    bounded = np.clip(quality, _LEAST, 1 - _LEAST)[:, 0]
    right = score[:, 0]
    return np.asarray(-(right * np.log(bounded) + (1 - right) * np.log(1 - bounded)))

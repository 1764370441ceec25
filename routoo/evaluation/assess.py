"""Estimates held-out outcomes: by a checkpoint, or by fits that each leave a part out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from routoo.domain.answer import RecordedAnswer
from routoo.domain.items import Item
from routoo.domain.tables import OutcomeTables
from routoo.evaluation.build_scorecard import EvaluationData
from routoo.evaluation.cascade import CascadeKnowledge
from routoo.evaluation.cascade_report import CascadeReport, compare_policies
from routoo.evaluation.cross_fitting import (
    FeatureReader,
    cross_fit,
    domain_quality,
    knn_quality,
    mean_quality,
    split_items,
)
from routoo.evaluation.judged_answers import EstimatedItems, judge_recorded, mean_costs
from routoo.evaluation.protocol import Protocol
from routoo.evaluation.quality_metrics import Quality
from routoo.evaluation.routing import cost_matrix, latency_matrix, priced_columns
from routoo.judge.judge import AnswerJudge
from routoo.ports import Feedback
from routoo.predictor.dataset import OutcomeMatrix, outcome_matrix
from routoo.predictor.fitting import FitOptions
from routoo.predictor.predictor import CheckpointPredictor, load_predictor


def evaluation_data(
    tables: OutcomeTables, matrix: OutcomeMatrix, estimates: dict[str, Quality]
) -> EvaluationData:
    """Return what a scorecard is built from: outcomes, costs, latencies and estimates."""
    costs = cost_matrix(matrix, tables.outcomes)
    latencies = latency_matrix(matrix, tables.outcomes)
    return EvaluationData(matrix, costs, latencies, estimates)


def estimate_by_checkpoint(
    checkpoint: Path,
    matrix: OutcomeMatrix,
    trained_on: OutcomeTables | None,
    feedback: Feedback,
    *,
    device: str,
    cache: Path,
) -> dict[str, Quality]:
    """Return a checkpoint's estimates of all items.

    Args:
        checkpoint: Its folder.
        matrix: Held-out outcomes of models that the checkpoint knows.
        trained_on: Tables that it was fitted on: with them baselines are estimated too.
        feedback: Shows how far it is; warns where prompts are not new to the checkpoint.
        device: Where the backbone computes: cpu, cuda or auto.
        cache: Folder of cached embeddings.

    Returns:
        Estimates by name: "predictor", and the baselines'.

    Raises:
        CheckpointError: The checkpoint can't be read.
    """
    predictor = load_predictor(checkpoint, device=device, cache=cache)
    with feedback.progress_bar("Predicting", len(matrix.items)) as progress:
        quality = predictor.predict(matrix.prompts, matrix.models, progress).quality
    if known := int(predictor.remembers(matrix.prompts).sum()):
        feedback.note(
            f"warning: {known:,} of {len(matrix.items):,} prompts are, word for word or nearly so, "
            "among those the checkpoint was trained on: there its figures flatter"
        )
    estimates = {"predictor": quality}
    if trained_on is not None:
        train = outcome_matrix(trained_on.items, trained_on.outcomes, matrix.models)
        estimates |= _baselines(predictor, train, matrix)
    return estimates


@dataclass(frozen=True, slots=True)
class JudgedAnswers:
    """What a checkpoint's judge says of recorded answers to all items."""

    items: tuple[Item, ...]
    models: tuple[str, ...]
    """The pool: models of the outcomes that have costs, in their order."""
    known: CascadeKnowledge
    report: CascadeReport | None
    """None where no item was answered by all models of the pool."""


def judge_by_checkpoint(
    judge: AnswerJudge,
    predictor: CheckpointPredictor,
    data: EvaluationData,
    answers: Sequence[RecordedAnswer],
    feedback: Feedback,
    *,
    seed: int,
) -> JudgedAnswers:
    """Judge recorded answers, and compare probing and deciding with routing by the prompt alone.

    Args:
        judge: Of the checkpoint.
        predictor: Of the same checkpoint.
        data: Held-out outcomes of models that the checkpoint knows.
        answers: Recorded answers.
        feedback: Shows how far it is; told what can't be judged.
        seed: Of the bootstrap.

    Raises:
        InputError: No model has a cost.
    """
    items, columns = data.matrix.items, priced_columns(data.cost_usd)
    pool = tuple(data.matrix.models[column] for column in columns)
    costs = mean_costs(data.cost_usd[:, columns], pool)
    asked = EstimatedItems(items, predictor.predict(data.matrix.prompts, judge.models))
    known = judge_recorded(judge, asked, pool, costs, answers, feedback)
    if not known.probes:
        feedback.note(f"no answers that the checkpoint can judge: {', '.join(judge.probes) or '-'}")
    score = data.matrix.score[:, columns].astype(np.float64)
    rows = np.flatnonzero(~np.isnan(score).any(axis=1))
    report = None
    if len(rows) and len(pool) > 1:
        report = compare_policies(known.take(rows), score[rows], pool, seed)
    return JudgedAnswers(items, pool, known, report)


def estimate_by_protocol(
    matrix: OutcomeMatrix,
    protocol: Protocol,
    fit: FitOptions,
    make_reader: Callable[[OutcomeMatrix], FeatureReader],
    feedback: Feedback,
) -> dict[str, Quality]:
    """Return the predictor's and its baselines' estimates of every item, none fitted on it.

    Args:
        matrix: Outcomes of all items.
        protocol: How the items are split into parts.
        fit: Options of each fit; its seed splits the items.
        make_reader: Returns how prompts are read, given the outcomes of all items.
        feedback: Shows how far it is.

    Raises:
        CheckpointError: There is no such backbone.
        InputError: The items can't be split so, or the rest of them is too little to fit on.
    """
    parts = split_items(matrix, protocol, fit.seed)
    reader = make_reader(matrix)
    with feedback.progress_bar("Fitting without each part", int(parts.max()) + 1) as progress:
        return cross_fit(matrix, reader, parts, fit, progress)


def _baselines(
    predictor: CheckpointPredictor, train: OutcomeMatrix, held: OutcomeMatrix
) -> dict[str, Quality]:
    known, asked = predictor.features(train.prompts), predictor.features(held.prompts)
    return {
        "knn": knn_quality(known, train.score, asked),
        "model_mean": mean_quality(train, held),
        "true_domain_mean": domain_quality(train, held),
    }

"""Builds scorecards from outcomes and the estimates of routers: the figures of one evaluation.

Reports show a scorecard as JSON, on a terminal, and as a page.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float32, Float64, Int64

from routoo.domain.tables import OutcomeTables
from routoo.evaluation.bootstrap import Interval, MeanInterval, Weights, bootstrap_weights
from routoo.evaluation.cascade import CascadeKnowledge
from routoo.evaluation.cascade_report import CascadeReport, judged_curve
from routoo.evaluation.operating_point import (
    CostBin,
    DomainFigures,
    OperatingPoint,
    RoutedAnswers,
    SameCost,
    by_domain,
    cost_bins,
    latency_quantiles,
    operating_figures,
    weighted_mean,
)
from routoo.evaluation.pool_comparison import PoolComparison, compare_pool
from routoo.evaluation.quality_metrics import Quality, Reliability, calibration_report, reliability
from routoo.evaluation.routing import (
    CompleteOutcomes,
    choose,
    complete_outcomes,
    cost_matrix,
    latency_matrix,
    priced_columns,
)
from routoo.predictor.dataset import OutcomeMatrix


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Figures of one candidate model."""

    name: str
    quality: Interval
    """Mean score of the answers it is known to give; NaN where none was asked for."""
    cost_usd: Interval
    """Mean cost of an answer, in USD."""
    share: float
    """Share of the routed items that it answered."""
    latency_p50_s: float
    latency_p95_s: float
    answers: int
    """Graded answers that its quality is measured on."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """Figures of an earlier evaluation of the same set, or of this one."""

    label: str
    """Date or name."""
    quality: Interval
    cost_usd: Interval
    ece: float
    """Expected calibration error; NaN where it was not measured."""


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """Figures of the answers that came about in one way."""

    decision: str
    """direct, accepted, escalated or kept."""
    answers: int
    share: float
    """Of all answers."""
    quality: MeanInterval
    """Of accepted answers that is the precision of acceptance."""
    cost_usd: MeanInterval
    """Of all calls of a job, in USD."""


@dataclass(frozen=True, slots=True)
class Scorecard:
    """One evaluation's figures; a part that was not measured is None or empty."""

    title: str
    facts: dict[str, str]
    """What it was measured on: data, checkpoint, protocol, seed."""
    models: tuple[ModelRow, ...]
    operating: OperatingPoint | None = None
    pool: PoolComparison | None = None
    reliability: tuple[Reliability, ...] = ()
    mean: dict[str, Interval] = field(default_factory=dict)
    """AUC, Brier score and ECE, mean over the models."""
    domains: tuple[DomainFigures, ...] = ()
    cost_bins: tuple[CostBin, ...] = ()
    history: tuple[PastRun, ...] = ()
    """Oldest first."""
    decisions: tuple[DecisionRow, ...] = ()
    """How the answers came about; empty where none was judged."""
    same_cost: SameCost | None = None
    """What else a run's money buys."""
    cascade: CascadeReport | None = None
    """Probing and deciding beside the prompt alone; None where no recorded answers were judged."""


JUDGED = "probe, then decide"
"""Name of the way to route in which recorded answers are judged."""


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """Held-out items, each model's outcomes and what routers expected; NaN is unknown."""

    matrix: OutcomeMatrix
    cost_usd: Float64[np.ndarray, "items models"]
    latency_s: Float32[np.ndarray, "items models"]
    estimates: Mapping[str, Quality]
    """Expected quality by name of router; the one that matters first."""
    expected_cost_usd: Float64[np.ndarray, "items models"] | None = None
    """Expected before the calls; None takes each model's mean."""
    judged: CascadeKnowledge | None = None
    """What judging recorded answers shows, of the models that have a cost; None = nothing."""

    @classmethod
    def of(
        cls, tables: OutcomeTables, matrix: OutcomeMatrix, estimates: Mapping[str, Quality]
    ) -> Self:
        """Return the data of recorded outcomes, whose matrix is known already."""
        costs = cost_matrix(matrix, tables.outcomes)
        return cls(matrix, costs, latency_matrix(matrix, tables.outcomes), estimates)


def build_scorecard(
    title: str,
    facts: Mapping[str, str],
    data: EvaluationData,
    seed: int,
    *,
    reference: str | None = None,
) -> Scorecard:
    """Compare routers with the pool's models, and show them in detail at the reference's mean cost.

    Args:
        title: What was evaluated.
        facts: What it was measured on.
        data: Items, outcomes and estimates.
        seed: Of the bootstrap.
        reference: Model to compare with; None for the best single one.

    Raises:
        InputError: No item was answered by two models at a known cost.
    """
    columns = priced_columns(data.cost_usd)
    rows, outcomes = complete_outcomes(data.matrix, data.cost_usd, columns, data.expected_cost_usd)
    names = tuple(data.matrix.models[column] for column in columns)
    estimates = {name: quality[rows][:, columns] for name, quality in data.estimates.items()}
    further = {}
    if data.judged is not None:
        further[JUDGED] = judged_curve(data.judged.take(rows), outcomes)
    pool = compare_pool(outcomes, names, estimates, seed, reference, further)
    budget_usd = float(outcomes.expected_cost_usd[:, names.index(pool.reference)].mean())
    first = next(iter(estimates.values()))
    choice = choose(outcomes, first, budget_usd)
    answers = _answers(data, outcomes, first, choice, rows, columns)
    return replace(measure_answers(title, facts, data, answers, columns, seed), pool=pool)


def measure_answers(
    title: str,
    facts: Mapping[str, str],
    data: EvaluationData,
    answers: RoutedAnswers,
    columns: list[int],
    seed: int,
) -> Scorecard:
    """Return the figures that need no comparison with the pool: of models, answers, expectations.

    Args:
        title: What was evaluated.
        facts: What it was measured on.
        data: Items, outcomes and estimates.
        answers: The answers of one operating point.
        columns: Models that the choices of the answers count from 0.
        seed: Of the bootstrap.
    """
    matrix, quality = data.matrix, next(iter(data.estimates.values()))
    weights = bootstrap_weights(len(answers.choice), seed)
    return Scorecard(
        title,
        dict(facts),
        model_rows(data, answers.choice, columns, seed),
        operating_figures(answers, weights),
        reliability=tuple(
            reliability(name, quality[:, column], matrix.score[:, column])
            for column, name in enumerate(matrix.models)
        ),
        mean=calibration_report(matrix, quality, seed)[1],
        domains=by_domain(answers, weights),
        cost_bins=cost_bins(answers),
    )


def model_rows(
    data: EvaluationData, choice: Int64[np.ndarray, " items"], columns: list[int], seed: int
) -> tuple[ModelRow, ...]:
    """Return each model's own figures over all items that it answered."""
    weights = bootstrap_weights(len(data.matrix.items), seed)
    shares = np.bincount(choice[choice >= 0], minlength=len(columns)) / max(len(choice), 1)
    share = dict(zip(columns, shares.tolist(), strict=True))
    return tuple(
        _model_row(data, column, share.get(column, 0.0), weights)
        for column in range(len(data.matrix.models))
    )


def _model_row(data: EvaluationData, column: int, share: float, weights: Weights) -> ModelRow:
    score, cost = data.matrix.score[:, column], data.cost_usd[:, column]
    graded = ~np.isnan(score)
    return ModelRow(
        data.matrix.models[column],
        Interval.of(weighted_mean(score, weights, graded)),
        Interval.of(weighted_mean(cost, weights, ~np.isnan(cost))),
        share,
        *latency_quantiles(data.latency_s[:, column]),
        int(graded.sum()),
    )


def _answers(
    data: EvaluationData,
    outcomes: CompleteOutcomes,
    quality: Quality,
    choice: Int64[np.ndarray, " items"],
    rows: Int64[np.ndarray, " items"],
    columns: list[int],
) -> RoutedAnswers:
    at = np.arange(len(rows))
    return RoutedAnswers(
        tuple(data.matrix.models[column] for column in columns),
        choice,
        quality[at, choice],
        outcomes.expected_cost_usd[at, choice],
        outcomes.score[at, choice],
        outcomes.cost_usd[at, choice],
        data.latency_s[rows][:, columns][at, choice],
        [data.matrix.items[row].subject for row in rows],
    )

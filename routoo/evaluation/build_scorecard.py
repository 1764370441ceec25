"""Compile scorecards from outcomes of a whole pool, recorded or answered for a sample."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from routoo.errors import InputError
from routoo.evaluation.bootstrap import Interval, Weights, bootstrap_weights
from routoo.evaluation.operating_point import (
    Answers,
    by_domain,
    cost_bins,
    latency_quantiles,
    operating_figures,
    weighted_mean,
)
from routoo.evaluation.pool_comparison import (
    Quality,
    best_single,
    calibration_report,
    routing_report,
)
from routoo.evaluation.reliability import reliability
from routoo.evaluation.routing import Trial
from routoo.evaluation.scorecard import ModelRow, Pool, Scorecard, Single
from routoo.evaluation.trials import complete_trial, priced_columns
from routoo.evaluation.weak_strong import pair_figures
from routoo.predictor.dataset import OutcomeMatrix
from routoo.selector import Problem, solve


@dataclass(frozen=True, slots=True)
class Evidence:
    """Held-out items, what each model made of them, and what routers expected; NaN marks holes."""

    matrix: OutcomeMatrix
    cost_usd: Float64[np.ndarray, "items models"]
    latency_s: Float32[np.ndarray, "items models"]
    estimates: Mapping[str, Quality]
    """Expected quality by name of router; the one that matters first."""
    expected_cost_usd: Float64[np.ndarray, "items models"] | None = None
    """Expected before the calls; None takes each model's mean."""


def compile_scorecard(
    title: str,
    facts: Mapping[str, str],
    evidence: Evidence,
    seed: int,
    *,
    reference: str | None = None,
    budget_usd: float | None = None,
) -> Scorecard:
    """Compare routers with the pool's models, and show one budget in detail.

    Args:
        title: What was evaluated.
        facts: What it was measured on.
        evidence: Items, outcomes and estimates.
        seed: Of the bootstrap.
        reference: Model to compare with; None for the best single one.
        budget_usd: Mean cost of a call at the point shown in detail, in USD; None for the mean
            cost of the reference.

    Raises:
        InputError: No item was answered by two models at a known cost.
    """
    matrix = evidence.matrix
    columns = priced_columns(evidence.cost_usd)
    rows, trial = complete_trial(matrix, evidence.cost_usd, columns, evidence.expected_cost_usd)
    names = tuple(matrix.models[column] for column in columns)
    estimates = {name: quality[rows][:, columns] for name, quality in evidence.estimates.items()}
    pool = compare_pool(trial, names, estimates, seed, reference)
    first = next(iter(estimates.values()))
    mean_usd = trial.expected_cost_usd[:, names.index(pool.reference)].mean()
    choice = choose(trial, first, float(mean_usd) if budget_usd is None else budget_usd)
    answers = _answers(evidence, trial, first, choice, rows, columns)
    weights = bootstrap_weights(len(rows), seed)
    whole = next(iter(evidence.estimates.values()))
    return Scorecard(
        title,
        dict(facts),
        model_rows(evidence, choice, columns, seed),
        operating_figures(answers, weights),
        pool,
        tuple(
            reliability(name, whole[:, column], matrix.score[:, column])
            for column, name in enumerate(matrix.models)
        ),
        calibration_report(matrix, whole, seed)[1],
        by_domain(answers, weights),
        cost_bins(answers),
    )


def compare_pool(
    trial: Trial,
    models: tuple[str, ...],
    estimates: Mapping[str, Quality],
    seed: int,
    reference: str | None = None,
) -> Pool:
    """Route a trial by each set of estimates and compare it with a model of the pool.

    The pair of APGR and CPT is the cheapest model and the best single one.

    Raises:
        InputError: The reference is not in the pool.
    """
    if reference is not None and reference not in models:
        raise InputError(
            "the reference model is not among those with scores and costs",
            value=reference,
            remedy=f"Name one of {', '.join(models[:50])}",
        )
    column = None if reference is None else models.index(reference)
    report = routing_report(trial, estimates, seed, column)
    weights = bootstrap_weights(len(trial.score), seed)
    weak, strong = int(trial.cost_usd.mean(axis=0).argmin()), best_single(trial)[0]
    known = {**estimates, "oracle": trial.score.astype(np.float32)}
    pairs = {
        name: pair_figures(
            quality[:, strong] - quality[:, weak],
            trial.score[:, weak],
            trial.score[:, strong],
            weights,
        )
        for name, quality in known.items()
        if weak != strong
    }
    return Pool(
        len(trial.score),
        _singles(trial, models, weights),
        models[report.reference],
        models[weak],
        models[strong],
        report.cost_range_usd,
        report.frontiers,
        report.comparisons,
        pairs,
    )


def _singles(trial: Trial, models: tuple[str, ...], weights: Weights) -> tuple[Single, ...]:
    """Return what each model alone costs and does."""
    costs, qualities = trial.cost_usd.mean(axis=0), (weights @ trial.score).T
    return tuple(
        Single(name, float(cost), Interval.of(quality))
        for name, cost, quality in zip(models, costs, qualities, strict=True)
    )


def choose(trial: Trial, quality: Quality, mean_budget_usd: float) -> Int64[np.ndarray, " items"]:
    """Return the column of the model that answers each item under a budget a call, in USD."""
    costs = trial.expected_cost_usd
    least = costs.min(axis=1).sum()
    budget = max(mean_budget_usd * len(costs), float(least)) * (1 + 1e-9)
    return np.asarray(
        solve(Problem(quality.astype(np.float64), costs, budget_usd=budget)).choice, np.int64
    )


def model_rows(
    evidence: Evidence, choice: Int64[np.ndarray, " items"], columns: list[int], seed: int
) -> tuple[ModelRow, ...]:
    """Return each model's own figures over all items that it answered."""
    weights = bootstrap_weights(len(evidence.matrix.items), seed)
    shares = np.bincount(choice[choice >= 0], minlength=len(columns)) / max(len(choice), 1)
    share = dict(zip(columns, shares.tolist(), strict=True))
    return tuple(
        _model_row(evidence, column, share.get(column, 0.0), weights)
        for column in range(len(evidence.matrix.models))
    )


def _model_row(evidence: Evidence, column: int, share: float, weights: Weights) -> ModelRow:
    score, cost = evidence.matrix.score[:, column], evidence.cost_usd[:, column]
    graded = ~np.isnan(score)
    return ModelRow(
        evidence.matrix.models[column],
        Interval.of(weighted_mean(score, weights, graded)),
        Interval.of(weighted_mean(cost, weights, ~np.isnan(cost))),
        share,
        *latency_quantiles(evidence.latency_s[:, column]),
        int(graded.sum()),
    )


def _answers(
    evidence: Evidence,
    trial: Trial,
    quality: Quality,
    choice: Int64[np.ndarray, " items"],
    rows: Int64[np.ndarray, " items"],
    columns: list[int],
) -> Answers:
    at = np.arange(len(rows))
    return Answers(
        tuple(evidence.matrix.models[column] for column in columns),
        choice,
        quality[at, choice],
        trial.expected_cost_usd[at, choice],
        trial.score[at, choice],
        trial.cost_usd[at, choice],
        evidence.latency_s[rows][:, columns][at, choice],
        [evidence.matrix.items[row].subject for row in rows],
    )

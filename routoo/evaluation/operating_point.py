"""Measures an operating point of a router: expected, measured, and against others of its cost."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from routoo.domain.completion import AnswerDecision
from routoo.domain.items import Item
from routoo.errors import InputError
from routoo.evaluation.bootstrap import Interval, MeanInterval, Weights, mean_interval
from routoo.evaluation.evaluation_run import EvaluationRun
from routoo.evaluation.routing import CompleteOutcomes, choose, complete_outcomes, priced_columns
from routoo.predictor.dataset import OutcomeMatrix

MIN_BIN_ANSWERS = 5
COST_BINS = 10
_SAME_COST = 1 + 1e-9
"""The same calls, added up in another order, cost the same."""


@dataclass(frozen=True, slots=True)
class RoutedAnswers:
    """Items with the answer of the model that each was routed to; NaN where nothing is known."""

    models: tuple[str, ...]
    choice: Int64[np.ndarray, " items"]
    """Column of the model that answered; -1 where none did."""
    expected_quality: Float[np.ndarray, " items"]
    expected_cost_usd: Float[np.ndarray, " items"]
    score: Float[np.ndarray, " items"]
    """NaN where the answer could not be graded."""
    cost_usd: Float[np.ndarray, " items"]
    latency_s: Float[np.ndarray, " items"]
    domains: Sequence[str | None]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Figures of one operating point: means over the items for which they are known."""

    items: int
    answered: int
    graded: int
    quality: Interval
    expected_quality: float
    """Mean over the graded items."""
    cost_usd: Interval
    """Mean cost of an answer, in USD."""
    expected_cost_usd: float
    """Mean over the answered items, in USD."""
    cost_ratio: Interval
    """Actual over expected cost."""
    latency_p50_s: float
    latency_p95_s: float


@dataclass(frozen=True, slots=True)
class CostBin:
    """Answers with similar expected costs."""

    expected_usd: float
    actual_usd: float
    answers: int


@dataclass(frozen=True, slots=True)
class DomainFigures:
    """Figures of one domain's items."""

    name: str
    items: int
    quality: Interval
    expected_quality: float
    cost_usd: float
    """Mean cost of an answer, in USD."""


def operating_figures(answers: RoutedAnswers, weights: Weights) -> OperatingPoint:
    """Return actual quality, cost and latency beside what was expected."""
    served = answers.choice >= 0
    graded, priced = ~np.isnan(answers.score), ~np.isnan(answers.cost_usd) & served
    cost = weighted_mean(answers.cost_usd, weights, priced)
    expected = weighted_mean(answers.expected_cost_usd, weights, priced)
    p50, p95 = latency_quantiles(answers.latency_s)
    return OperatingPoint(
        items=len(answers.choice),
        answered=int(served.sum()),
        graded=int(graded.sum()),
        quality=Interval.of(weighted_mean(answers.score, weights, graded)),
        expected_quality=float(weighted_mean(answers.expected_quality, weights[:1], graded)[0]),
        cost_usd=Interval.of(cost),
        expected_cost_usd=float(expected[0]),
        cost_ratio=Interval.of(cost / np.where(expected > 0, expected, np.nan)),
        latency_p50_s=p50,
        latency_p95_s=p95,
    )


def weighted_mean(
    value: Float[np.ndarray, " items"], weights: Weights, keep: np.ndarray
) -> Float64[np.ndarray, " draws"]:
    """Return each draw's mean over the items kept; NaN where a draw has none of them."""
    total = weights[:, keep].sum(axis=1)
    sums = weights[:, keep] @ value[keep].astype(np.float64)
    return np.asarray(sums / np.where(total > 0, total, np.nan))


def latency_quantiles(latency_s: Float[np.ndarray, " items"]) -> tuple[float, float]:
    """Return the median and the 95th percentile, in seconds; NaN where none is known."""
    known = latency_s[~np.isnan(latency_s)]
    if not len(known):
        return float("nan"), float("nan")
    p50, p95 = np.quantile(known, [0.5, 0.95])
    return float(p50), float(p95)


def cost_bins(answers: RoutedAnswers) -> tuple[CostBin, ...]:
    """Return mean actual cost over up to ten groups of rising expected cost.

    The groups are equally large, except that items with the same expected cost are in one group.
    """
    known = np.flatnonzero((answers.choice >= 0) & ~np.isnan(answers.cost_usd))
    if len(known) < MIN_BIN_ANSWERS:
        return ()
    expected = answers.expected_cost_usd[known]
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, COST_BINS + 1), method="lower"))
    numbers = np.searchsorted(edges, expected, side="right")
    parts = [known[numbers == number] for number in np.unique(numbers)]
    return tuple(
        CostBin(
            float(answers.expected_cost_usd[part].mean()),
            float(answers.cost_usd[part].mean()),
            len(part),
        )
        for part in parts
    )


def by_domain(answers: RoutedAnswers, weights: Weights) -> tuple[DomainFigures, ...]:
    """Return figures of each named domain, the largest first."""
    names = np.array([name or "" for name in answers.domains])
    graded = ~np.isnan(answers.score)
    rows = [
        _domain(str(name), answers, weights, graded & (names == name))
        for name in np.unique(names[graded])
        if name
    ]
    return tuple(sorted(rows, key=lambda row: (-row.items, row.name)))


def _domain(name: str, answers: RoutedAnswers, weights: Weights, keep: np.ndarray) -> DomainFigures:
    cost = answers.cost_usd[keep]
    known = cost[~np.isnan(cost)]
    return DomainFigures(
        name,
        int(keep.sum()),
        Interval.of(weighted_mean(answers.score, weights, keep)),
        float(answers.expected_quality[keep].mean()),
        float(known.mean()) if len(known) else float("nan"),
    )


@dataclass(frozen=True, slots=True)
class SameCost:
    """What else a run's money buys, on the items that every model answered."""

    items: int
    cost_usd: float
    """Mean cost of an item as it was routed, in USD."""
    quality: MeanInterval
    """Of the answers as they were routed."""
    best_single: str | None
    """The best model that alone costs no more; None where none is as cheap."""
    over_single: MeanInterval
    """Routed quality less that model's."""
    unjudged_cost_usd: float
    """Mean cost of the choice by the prompt alone; NaN where no answer was judged."""
    over_unjudged: MeanInterval
    """Routed quality less that of the choice by the prompt alone: what judging answers brought."""


def compare_at_same_cost(run: EvaluationRun) -> SameCost | None:
    """Return what the run's money buys otherwise; None without a sample of every model's answers.

    The choice by the prompt alone is made by the run's own predictions, at the models' mean costs,
    under the budget that the routed answers to the same items came to.
    """
    sampled = run.sampled[run.graded[run.sampled]]
    costs = run.sample_cost_usd[sampled]
    columns = priced_columns(costs)
    try:
        kept, outcomes = complete_outcomes(_matrix(run, sampled), costs, columns)
    except InputError:
        return None
    rows = sampled[kept]
    routed, cost_usd = run.quality[rows].astype(np.float64), float(run.cost_usd[rows].mean())
    single = _best_single(outcomes, cost_usd)
    unjudged = _unjudged(run, outcomes, rows, columns, cost_usd)
    at = np.arange(len(rows))
    nothing = np.full(len(rows), np.nan)
    return SameCost(
        len(rows),
        cost_usd,
        mean_interval(routed),
        None if single is None else run.models[columns[single]],
        mean_interval(nothing if single is None else routed - outcomes.score[:, single]),
        float("nan") if unjudged is None else float(outcomes.cost_usd[at, unjudged].mean()),
        mean_interval(nothing if unjudged is None else routed - outcomes.score[at, unjudged]),
    )


def same_cost_figures(run: EvaluationRun) -> dict[str, Any] | None:
    """Return `compare_at_same_cost` as JSON, None for NaN, which JSON does not have."""
    found = compare_at_same_cost(run)
    return None if found is None else _without_nan(asdict(found))


def _without_nan(facts: dict[str, Any]) -> dict[str, Any]:
    def known(value: object) -> object:
        if isinstance(value, dict):
            return _without_nan(value)
        return None if isinstance(value, float) and math.isnan(value) else value

    return {name: known(value) for name, value in facts.items()}


def _matrix(run: EvaluationRun, rows: Int64[np.ndarray, " rows"]) -> OutcomeMatrix:
    items = tuple(Item(run.item_ids[row], run.prompts[row]) for row in rows)
    score = run.sample_quality[rows]
    return OutcomeMatrix(items, run.models, score, np.full(score.shape, np.nan, np.float32))


def _best_single(outcomes: CompleteOutcomes, cost_usd: float) -> int | None:
    cheap = outcomes.cost_usd.mean(axis=0) <= cost_usd * _SAME_COST
    quality = np.where(cheap, outcomes.score.mean(axis=0), -np.inf)
    return int(quality.argmax()) if cheap.any() else None


def _unjudged(
    run: EvaluationRun,
    outcomes: CompleteOutcomes,
    rows: Int64[np.ndarray, " items"],
    columns: list[int],
    cost_usd: float,
) -> Int64[np.ndarray, " items"] | None:
    """Return the choice by the prompt alone at the same cost; None where no answer was judged."""
    judged = (AnswerDecision.ACCEPTED, AnswerDecision.ESCALATED, AnswerDecision.KEPT)
    if not any(run.decided(one).any() for one in judged):
        return None
    expected: Float64[np.ndarray, "items models"] = run.expected_cost_usd[rows][:, columns]
    scale = outcomes.cost_usd.mean(axis=0) / np.maximum(expected.mean(axis=0), 1e-12)
    priced = replace(outcomes, expected_cost_usd=expected * scale)
    return choose(priced, run.predicted_quality[rows][:, columns], cost_usd)

"""Compares a run's routing with what else its money buys: the best single model, no judging."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from routoo.domain.completion import AnswerDecision
from routoo.domain.items import Item
from routoo.errors import InputError
from routoo.evaluation.bootstrap import MeanInterval, mean_interval
from routoo.evaluation.evaluation_run import EvaluationRun
from routoo.evaluation.routing import CompleteOutcomes, choose, complete_outcomes, priced_columns
from routoo.predictor.dataset import OutcomeMatrix

_SAME_COST = 1 + 1e-9
"""The same calls, added up in another order, cost the same."""


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

"""Describes the plan of a batch as JSON, which is kept with the batch.

A batch that is planned and not submitted also gets a forecast for its owner to see.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Int

from routoo.domain.pool import Pool
from routoo.domain.prediction import Experience, experience_to_json
from routoo.pipeline.select.estimates import NOTHING_KNOWN
from routoo.pipeline.select.finish_time import endpoint_times, finish_time_s
from routoo.pipeline.select.matrix import BatchMatrix
from routoo.selector.confidence import quality_interval
from routoo.selector.frontier import frontier
from routoo.selector.problem import Problem
from routoo.selector.solution import Solution
from routoo.statistics import mix_quality
from routoo.store.batches import BatchRecord

_CONFIDENCE = 0.95
_FRONTIER_POINTS = 20


def describe_plan(
    pool: Pool, matrix: BatchMatrix, solution: Solution, experience: Experience = NOTHING_KNOWN
) -> dict[str, Any]:
    """Return what was chosen, how near to the optimum it is, and what each model alone would bring.

    Keys: `status`, `advice`, `jobs`, `served`, `no_eligible_model`, `unaffordable` (jobs),
    `expected_quality` (mean over the served jobs), `expected_cost_usd`, `value`, `bound`, `gap`
    (null where nothing could be chosen), `shadow_price_per_usd`, `shadow_prices` (quality per unit
    of each capacity, by name),
    `experience` (what was known of each model, so that later stages estimate alike),
    `random_mix_quality` (of a random mix of models at the same cost) and `models`:
    in pool order `model`, `jobs`, `share` of the served jobs, `alone_quality` (mean) and
    `alone_cost_usd` (total) if it answered every job of the batch.
    """
    served = solution.served
    rows = np.flatnonzero(solution.choice >= 0)
    # The solution's own mean is a lower bound if the batch is cautious, so it is not used.
    quality = matrix.quality[rows, solution.choice[rows]].astype(np.float64)
    return {
        "status": solution.status.value,
        "advice": solution.advice,
        "jobs": len(solution.choice),
        "served": served,
        "no_eligible_model": len(matrix.ineligible),
        "unaffordable": solution.unaffordable,
        "expected_quality": float(quality.mean()) if served else 0.0,
        "expected_cost_usd": solution.cost_usd,
        "value": _finite(solution.value),
        "bound": _finite(solution.bound),
        "gap": _finite(solution.gap),
        "shadow_price_per_usd": solution.shadow_price_per_usd,
        "shadow_prices": solution.shadow_prices,
        "experience": experience_to_json(experience),
        "random_mix_quality": _random_mix(matrix, solution),
        "models": _models(pool, matrix, solution),
    }


def _models(pool: Pool, matrix: BatchMatrix, solution: Solution) -> list[dict[str, Any]]:
    chosen = np.bincount(solution.choice[solution.choice >= 0], minlength=len(pool.models))
    served = solution.served
    return [
        {
            "model": model.name,
            "jobs": int(chosen[column]),
            "share": chosen[column] / served if served else 0.0,
            "alone_quality": float(matrix.quality[:, column].mean(dtype=np.float64)),
            "alone_cost_usd": float(matrix.cost_usd[:, column].sum()),
        }
        for column, model in enumerate(pool.models)
    ]


def describe_forecast(
    batch: BatchRecord,
    matrix: BatchMatrix,
    problem: Problem,
    solution: Solution,
    experience: Experience,
) -> dict[str, Any]:
    """Return the forecast for the plan of a batch that is not submitted yet.

    Keys: `quality_interval` (where the served jobs' mean grade will lie with `confidence`),
    `cautious_quality` (mean of the lower bounds that were selected on), `worst_case_usd` (every
    answer at its limit, never above the budget), `finish` (null where a latency is not known:
    `p50_s`, `p95_s` and `last_s` after submission, and `endpoints` with `calls`, `spread_s`,
    `latency_s` and what is `slowest`), and `frontier`: points of rising `cost_usd` with
    `mean_quality`, `shadow_price_per_usd` (null at the cheapest) and `random_mix_quality`.
    """
    rows = np.flatnonzero(solution.choice >= 0)
    chosen = solution.choice[rows]
    quality, std = matrix.quality[rows, chosen], matrix.quality_std[rows, chosen]
    return {
        "confidence": _CONFIDENCE,
        "quality_interval": list(quality_interval(quality, std, _CONFIDENCE)),
        "cautious_quality": solution.mean_quality,
        "worst_case_usd": _worst_case_usd(batch, matrix, solution),
        "finish": _finish(batch, matrix, solution, experience),
        "frontier": _frontier(problem),
    }


def _worst_case_usd(batch: BatchRecord, matrix: BatchMatrix, solution: Solution) -> float | None:
    if matrix.bounds is None:
        return None
    worst = matrix.bounds.worst_case_usd(batch.pool, _calls(matrix, solution))
    return worst if batch.budget_usd is None else min(worst, float(batch.budget_usd))


def _finish(
    batch: BatchRecord, matrix: BatchMatrix, solution: Solution, experience: Experience
) -> dict[str, Any] | None:
    if matrix.demand is None or solution.served == 0:
        return None
    times = endpoint_times(batch.pool, _calls(matrix, solution), matrix.demand, experience)
    if times is None:
        return None
    return {
        "p50_s": finish_time_s(times, 0.5),
        "p95_s": finish_time_s(times, 0.95),
        "last_s": finish_time_s(times, 1.0),
        "endpoints": [
            {
                "endpoint": one.endpoint,
                "calls": one.calls,
                "spread_s": one.spread_s,
                "latency_s": one.latency_s,
                "slowest": one.slowest,
            }
            for one in times
        ],
    }


def _calls(matrix: BatchMatrix, solution: Solution) -> Int[np.ndarray, " jobs"]:
    """Return the choice without the jobs that share another's answer."""
    if matrix.weight is None:
        return solution.choice
    return np.where(matrix.weight > 0, solution.choice, -1)


def _frontier(problem: Problem) -> list[dict[str, float | None]]:
    if problem.allowed is not None and not problem.allowed.any():
        return []
    points = frontier(problem, _FRONTIER_POINTS)
    means = problem.quality.mean(axis=0, dtype=np.float64)
    costs = problem.cost_usd.mean(axis=0, dtype=np.float64)
    budgets = np.array([point.cost_usd / problem.jobs for point in points])
    mixed = mix_quality(means, costs, budgets)
    return [
        {
            "cost_usd": point.cost_usd,
            "mean_quality": point.mean_quality,
            "shadow_price_per_usd": _finite(point.shadow_price_per_usd),
            "random_mix_quality": float(mix) if budget >= costs.min() else None,
        }
        for point, mix, budget in zip(points, mixed, budgets, strict=True)
    ]


def _random_mix(matrix: BatchMatrix, solution: Solution) -> float | None:
    """Return the quality of a random mix at the plan's cost; None where that pays for no model.

    It is None as well for a plan that serves no job.
    """
    quality = matrix.quality.mean(axis=0, dtype=np.float64)
    cost_usd = matrix.cost_usd.sum(axis=0)
    if not solution.served or solution.cost_usd < cost_usd.min():
        return None
    return float(mix_quality(quality, cost_usd, np.array([solution.cost_usd]))[0])


def _finite(number: float) -> float | None:
    """Return None for a number that JSON can't express."""
    return number if math.isfinite(number) else None

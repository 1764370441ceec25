"""What a plan promises before any money is spent, kept with the batch for its owner to see."""

from typing import Any

import numpy as np
from jaxtyping import Int

from routoo.domain.prediction import Experience
from routoo.pipeline.select.finish_time import endpoint_times, finish_time_s
from routoo.pipeline.select.matrix import BatchMatrix
from routoo.selector.confidence import quality_interval
from routoo.selector.frontier import frontier
from routoo.selector.problem import Problem
from routoo.selector.solution import Solution
from routoo.statistics import mix_quality
from routoo.store.batches import BatchRecord

CONFIDENCE = 0.95
FRONTIER_POINTS = 20


def describe_forecast(
    batch: BatchRecord,
    matrix: BatchMatrix,
    problem: Problem,
    solution: Solution,
    experience: Experience,
) -> dict[str, Any]:
    """Return the forecast of a draft's plan, as JSON keeps it.

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
        "confidence": CONFIDENCE,
        "quality_interval": list(quality_interval(quality, std, CONFIDENCE)),
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
    points = frontier(problem, FRONTIER_POINTS)
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


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None

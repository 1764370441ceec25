"""Makes the plan of a batch, and describes it as JSON, which is kept with the batch.

A batch that is planned and not submitted also gets a forecast for its owner to see.
"""

import math
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from routoo.domain.pool import Pool
from routoo.domain.prediction import Experience, experience_to_json
from routoo.pipeline.select.capacity import (
    endpoint_times,
    finish_time_s,
)
from routoo.pipeline.select.decisions import Decisions
from routoo.pipeline.select.matrix import BatchMatrix
from routoo.pipeline.select.probes import PosedProblem, ProbedJobs, describe_probes
from routoo.pipeline.select.problem import (
    add_probes,
    choose_payable,
    held_usd,
    pose_problem,
    spare_usd,
)
from routoo.selector.confidence import quality_interval
from routoo.selector.frontier import frontier
from routoo.selector.probes import part_of
from routoo.selector.problem import Problem
from routoo.selector.solution import Solution
from routoo.selector.solvers import solve
from routoo.statistics import mix_quality
from routoo.store.batches.records import BatchRecord

_CONFIDENCE = 0.95
_FRONTIER_POINTS = 20
_SAME_COST = 1 + 1e-9
"""The same calls, added up in another order, cost the same."""
_FRONTIER_JOBS = 20_000
"""Jobs of which the frontier and the choice without probes are made where probes are options."""


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch with what was chosen for it."""

    batch: BatchRecord
    matrix: BatchMatrix
    posed: PosedProblem
    solution: Solution
    """Its choice is the model that each job asks first."""
    decisions: Decisions
    experience: Experience = field(default_factory=dict)
    spare_usd: float = 0.0
    """What the choice leaves of the budget for each job, in USD."""

    @property
    def pool(self) -> Pool:
        """The candidate models."""
        return self.batch.pool

    @property
    def calls(self) -> Int[np.ndarray, " jobs"]:
        """The first model of the jobs that are called: -1 for those that share an answer."""
        choice, weight = self.solution.choice, self.matrix.weight
        return choice if weight is None else np.where(weight > 0, choice, -1)

    @property
    def kept_usd(self) -> Float64[np.ndarray, " jobs"] | None:
        """What the budget keeps for each job's cheapest call, in USD; None where for no job."""
        last = self.matrix.last_resorts
        if last is None or len(self.pool.models) == 1:
            return None
        choice = self.solution.choice
        kept_usd = last.kept_usd(choice, self.decisions.cost_usd, self.spare_usd)
        return np.where(choice >= 0, kept_usd, 0.0)

    @property
    def second_calls(self) -> ProbedJobs:
        """What may be asked after the probes that are called."""
        probed = self.decisions.probed
        return probed.some(self.calls[probed.jobs] >= 0)


def make_plan(
    batch: BatchRecord, matrix: BatchMatrix, experience: Experience, now: datetime
) -> PlannedBatch:
    """Choose a model for every job of a batch.

    Args:
        batch: The batch with its limits.
        matrix: Its jobs.
        experience: What the matrix was estimated with.
        now: The present time, for the deadline.
    """
    direct = pose_problem(batch, matrix, experience, now)
    posed, held = add_probes(batch, matrix, direct, experience, now), held_usd(matrix)
    solution = choose_payable(posed, held)
    spare = spare_usd(posed, solution, held)
    if matrix.duplicates is not None:
        solution = matrix.duplicates.spread(solution)
    probed = posed.probed(solution.choice)
    solution = replace(solution, choice=posed.policies.first(solution.choice))
    decisions = Decisions.of(matrix, solution.choice, probed)
    return PlannedBatch(batch, matrix, posed, solution, decisions, experience, spare)


def describe_plan(planned: PlannedBatch) -> dict[str, Any]:
    """Return what was chosen, how near to the optimum it is, and what each model alone would bring.

    Keys: `status`, `advice`, `jobs`, `served`, `no_eligible_model`, `unaffordable` (jobs),
    `expected_quality` (mean over the served jobs), `expected_cost_usd`, `value`, `bound`, `gap`
    (null where nothing could be chosen), `shadow_price_per_usd`, `shadow_prices` (quality per unit
    of each capacity, by name), `spare_usd_per_job` (what is left of the budget, for each job),
    `experience` (what was known of each model, so that later stages estimate alike),
    `random_mix_quality` (of a random mix of models at the same cost), `best_single` (the best
    `model` that alone costs no more, its `expected_quality` and `expected_cost_usd`; null where
    none is as cheap) and `models`:
    in pool order `model`, `jobs`, `share` of the served jobs, `alone_quality` (mean) and
    `alone_cost_usd` (total) if it answered every job of the batch. Where probes are options there
    are `probes` too, as `describe_probes` gives it, and `direct`: the `expected_quality` and the
    `expected_cost_usd` of the best choice without probes that costs no more.
    """
    matrix, solution = planned.matrix, planned.solution
    served = solution.served
    # The solution's own mean is a lower bound if the batch is cautious, so it is not used.
    quality = planned.decisions.quality[solution.choice >= 0].astype(np.float64)
    plan = {
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
        "spare_usd_per_job": planned.spare_usd,
        "experience": experience_to_json(planned.experience),
        "random_mix_quality": _random_mix(matrix, solution),
        "best_single": _best_single(planned),
        "models": _models(planned.pool, matrix, solution),
    }
    probes = describe_probes(
        planned.posed,
        planned.pool,
        planned.decisions.probed,
        solution.choice,
        solution.shadow_price_per_usd,
    )
    return plan if probes is None else {**plan, "probes": probes, "direct": _direct(planned)}


def _direct(planned: PlannedBatch) -> dict[str, float] | None:
    """Return what the plan's money buys without probes; None where it pays for no such choice."""
    problem, solution = planned.posed.direct, planned.solution
    if not solution.served:
        return None
    spent = replace(
        problem,
        budget_usd=solution.cost_usd,
        min_mean_quality=None,
        willingness_to_pay_usd=None,
        capacities=(),
    )
    step = -(-problem.jobs // _FRONTIER_JOBS)
    jobs = np.arange(0, problem.jobs, step)
    choice = solve(part_of(spent, jobs)).choice
    served = np.flatnonzero(choice >= 0)
    if not len(served):
        return None
    quality = planned.matrix.quality[jobs[served], choice[served]]
    cost_usd = problem.cost_usd[jobs[served], choice[served]].sum(dtype=np.float64)
    return {
        "expected_quality": float(quality.mean(dtype=np.float64)),
        "expected_cost_usd": float(cost_usd) * problem.jobs / len(jobs),
    }


def _best_single(planned: PlannedBatch) -> dict[str, Any] | None:
    """Return the best model that alone costs no more than the plan; None where none is as cheap."""
    matrix, most_usd = planned.matrix, planned.solution.cost_usd * _SAME_COST
    costs_usd = matrix.cost_usd.sum(axis=0, dtype=np.float64)
    quality = matrix.quality.mean(axis=0, dtype=np.float64)
    best = int(np.where(costs_usd <= most_usd, quality, -np.inf).argmax())
    if not planned.solution.served or costs_usd[best] > most_usd:
        return None
    return {
        "model": planned.pool.names[best],
        "expected_quality": float(quality[best]),
        "expected_cost_usd": float(costs_usd[best]),
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


def describe_forecast(planned: PlannedBatch) -> dict[str, Any]:
    """Return the forecast for the plan of a batch that is not submitted yet.

    Keys: `quality_interval` (where the served jobs' mean grade will lie with `confidence`),
    `cautious_quality` (mean of the lower bounds that were selected on), `worst_case_usd` (every
    answer at its limit, never above the budget), `reservations` (how many calls the budget keeps
    in flight), `finish` (null where a latency is not known:
    `p50_s`, `p95_s` and `last_s` after submission, and `endpoints` with `calls`, `spread_s`,
    `latency_s` and what is `slowest`), and `frontier`: points of rising `cost_usd` with
    `mean_quality`, `shadow_price_per_usd` (null at the cheapest) and `random_mix_quality`; where
    probes are options also `direct_quality`, the best mean without them at that cost.
    """
    choice = planned.solution.choice
    rows = np.flatnonzero(choice >= 0)
    quality, std = planned.decisions.quality[rows], planned.matrix.quality_std[rows, choice[rows]]
    return {
        "confidence": _CONFIDENCE,
        "quality_interval": list(quality_interval(quality, std, _CONFIDENCE)),
        "cautious_quality": planned.solution.mean_quality,
        "worst_case_usd": _worst_case_usd(planned),
        "reservations": _reservations(planned),
        "finish": _finish(planned),
        "frontier": _frontier(planned.posed),
    }


def describe_frontier(planned: PlannedBatch) -> dict[str, Any]:
    """Return the forecast of a batch that runs at once: its `frontier`, drawn of some jobs."""
    return {"frontier": _frontier(planned.posed, sampled=True)}


def _worst_case_usd(planned: PlannedBatch) -> float | None:
    batch, bounds = planned.batch, planned.matrix.bounds
    if bounds is None:
        return None
    calls, reserve_usd = planned.calls, planned.matrix.reserve_usd
    worst = bounds.worst_case_usd(batch.pool, calls)
    if reserve_usd is not None:
        rows = np.flatnonzero(calls >= 0)
        twice = bounds.asked_twice[rows, calls[rows]]
        worst += float(reserve_usd[rows, calls[rows]][twice].sum(dtype=np.float64))
    second = planned.second_calls
    if len(second.jobs):
        most_usd = bounds.most_usd(batch.pool, second.jobs)
        alone_usd = np.where(second.second > second.compared, most_usd, 0.0).max(axis=1)
        compared_usd = np.where(second.compared > 0, most_usd, 0.0).max(axis=1)
        third_usd = np.where(second.third > 0, most_usd, 0.0).max(axis=1)
        worst += float(np.maximum(alone_usd, compared_usd + third_usd).sum())
    return worst if batch.budget_usd is None else min(worst, float(batch.budget_usd))


def _reservations(planned: PlannedBatch) -> dict[str, Any] | None:
    """Return how many calls the budget keeps in flight, since each reserves its worst case.

    Keys: `calls_at_once` when the batch starts, `calls_at_the_end` when its last jobs are due,
    `slots` (calls that the planned endpoints could take at once, at most one a job), and
    `budget_for_all_usd`, with which money keeps no slot empty. None without a budget.
    """
    batch, calls, reserved = planned.batch, planned.calls, planned.matrix.reserve_usd
    rows, cost_usd = np.flatnonzero(calls >= 0), planned.solution.cost_usd
    if batch.budget_usd is None or reserved is None or not len(rows):
        return None
    reserve_usd = float(reserved[rows, calls[rows]].mean(dtype=np.float64))
    if reserve_usd <= 0:
        return None
    called = [batch.pool.models[column] for column in set(calls[rows].tolist())]
    endpoints = {key: one for model in called for key, one in model.endpoint_keys.items()}
    slots = min(len(rows), sum(one.max_concurrency for one in endpoints.values()))
    budget_usd = float(batch.budget_usd)
    return {
        "calls_at_once": int(budget_usd / reserve_usd),
        "calls_at_the_end": max(int((budget_usd - cost_usd) / reserve_usd), 0),
        "slots": slots,
        "budget_for_all_usd": cost_usd + slots * reserve_usd,
    }


def _finish(planned: PlannedBatch) -> dict[str, Any] | None:
    demand = planned.matrix.demand
    if demand is None or planned.solution.served == 0:
        return None
    calls = planned.calls, planned.second_calls
    times = endpoint_times(planned.pool, calls[0], demand, planned.experience, calls[1])
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


def _frontier(posed: PosedProblem, *, sampled: bool = False) -> list[dict[str, float | None]]:
    problem, options, jobs = posed.direct, posed.direct, posed.direct.jobs
    if problem.allowed is not None and not problem.allowed.any():
        return []
    if posed.known is not None or sampled:
        problem, options = posed.frontier_problems(_FRONTIER_JOBS)
    scale = jobs / problem.jobs
    points = frontier(options, _FRONTIER_POINTS)
    means = problem.quality.mean(axis=0, dtype=np.float64)
    costs = problem.cost_usd.mean(axis=0, dtype=np.float64)
    budgets = np.array([point.cost_usd / problem.jobs for point in points])
    mixed = mix_quality(means, costs, budgets)
    line: list[dict[str, float | None]] = [
        {
            "cost_usd": point.cost_usd * scale,
            "mean_quality": point.mean_quality,
            "shadow_price_per_usd": _finite(point.shadow_price_per_usd),
            "random_mix_quality": float(mix) if budget >= costs.min() else None,
        }
        for point, mix, budget in zip(points, mixed, budgets, strict=True)
    ]
    if posed.known is not None:
        _add_direct(line, problem, scale)
    return line


def _add_direct(line: list[dict[str, float | None]], direct: Problem, scale: float) -> None:
    """Add to each point the best mean quality without probes at its cost."""
    points = frontier(direct, _FRONTIER_POINTS)
    known_usd = [point.cost_usd * scale for point in points]
    known = [point.mean_quality for point in points]
    for shown in line:
        shown["direct_quality"] = float(np.interp(shown["cost_usd"] or 0.0, known_usd, known))


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

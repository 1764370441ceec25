"""From a batch's arrays to a choice: the problem it poses, and what to do where it can't be met."""

from dataclasses import replace
from datetime import datetime

import numpy as np
from jaxtyping import Float, Float32

from routoo.domain.prediction import Experience
from routoo.pipeline.select.capacity import endpoint_capacities
from routoo.pipeline.select.failures import answered_shares
from routoo.pipeline.select.matrix import BatchMatrix
from routoo.selector.confidence import lower_quality
from routoo.selector.problem import Capacity, Problem, match_model
from routoo.selector.solution import Solution, SolveStatus
from routoo.selector.solvers import solve
from routoo.store.batches import BatchRecord


def pose_problem(
    batch: BatchRecord, matrix: BatchMatrix, experience: Experience, now: datetime
) -> Problem:
    """Return what is to be decided for a whole batch.

    A model's quality counts as far as it answers: what another would answer in its place costs
    that other's money, and is no merit of a model that fails.

    Args:
        batch: The batch with its limits.
        matrix: Its jobs.
        experience: What the matrix was estimated with.
        now: The deadline is counted from here.
    """
    capacities: tuple[Capacity, ...] = ()
    if matrix.demand is not None and batch.deadline is not None:
        left_s = (batch.deadline - now).total_seconds()
        capacities = endpoint_capacities(batch.pool, matrix.demand, experience, left_s)
    aim, quality = batch.objective, matrix.quality
    if aim.risk > 0:
        quality = lower_quality(quality, matrix.quality_std, aim.risk)
    answered = answered_shares(batch.pool, experience)
    if (answered < 1).any():
        quality = quality * answered
    if matrix.weight is not None:
        quality, capacities = _weigh(matrix.weight, quality, capacities)
    problem = Problem(
        quality,
        matrix.cost_usd,
        matrix.allowed,
        budget_usd=batch.budget_usd,
        min_mean_quality=aim.min_mean_quality,
        willingness_to_pay_usd=aim.willingness_to_pay_usd,
        capacities=capacities,
    )
    if aim.match_model is None:
        return problem
    mark = match_model(problem, batch.pool.index(aim.match_model), aim.match_ratio)
    return replace(problem, min_mean_quality=mark)


def _weigh(
    weight: Float32[np.ndarray, " jobs"],
    quality: Float[np.ndarray, "jobs models"],
    capacities: tuple[Capacity, ...],
) -> tuple[Float[np.ndarray, "jobs models"], tuple[Capacity, ...]]:
    """Let an answer count for all jobs that share it, and its call once."""
    calls = np.broadcast_to((weight > 0).astype(np.float32)[:, None], quality.shape)
    counted = [replace(item, use=calls) if item.use is None else item for item in capacities]
    return quality * weight[:, None], tuple(counted)


def choose(problem: Problem) -> Solution:
    """Solve a problem; who can't be served within the limits is left without a model.

    Jobs that the endpoints are not expected to take in time are given a model all the same, within
    the money that is left: an estimate of speed is no reason to refuse a job. The status stays
    `infeasible`, its advice says what is short, and a job that really comes too late expires.

    A mean quality that can't be reached leaves every job without a model: its owner asked for the
    quality, so that spending money on less is not for us to decide.
    """
    if problem.min_mean_quality is not None:
        return _attain(problem)
    solution = solve(problem, allow_partial=True)
    if not problem.capacities or solution.unaffordable == 0:
        return solution
    left = np.flatnonzero(solution.choice < 0)
    budget = problem.exact_budget_usd
    rest = solve(
        Problem(
            problem.quality[left],
            problem.cost_usd[left],
            None if problem.allowed is None else problem.allowed[left],
            budget_usd=None if budget is None else max(float(budget) - solution.cost_usd, 0.0),
            willingness_to_pay_usd=problem.willingness_to_pay_usd,
        ),
        allow_partial=True,
    )
    choice = solution.choice.copy()
    choice[left] = rest.choice
    return replace(
        solution,
        choice=choice,
        quality=solution.quality + rest.quality,
        cost_usd=solution.cost_usd + rest.cost_usd,
        unaffordable=rest.unaffordable,
    )


def is_met(solution: Solution, problem: Problem) -> bool:
    """Return whether a mean quality that was asked for is reached; true where none was."""
    return problem.min_mean_quality is None or solution.served > 0 or solution.unaffordable == 0


def _attain(problem: Problem) -> Solution:
    """Reach a mean quality, too late for the endpoints' pace if it must be, but never above budget.

    The status is `infeasible` then, its advice about the pace.
    """
    solution = solve(problem)
    if solution.feasible or not problem.capacities:
        return solution
    late = solve(replace(problem, capacities=()))
    return (
        replace(late, status=SolveStatus.INFEASIBLE, advice=solution.advice)
        if late.feasible
        else late
    )

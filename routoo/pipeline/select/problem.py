"""Poses a batch as a problem of the selector, and solves it as far as its limits allow."""

from dataclasses import replace
from datetime import datetime

import numpy as np
from jaxtyping import Float, Float32

from routoo.domain.prediction import Experience
from routoo.pipeline.select.capacity import endpoint_capacities
from routoo.pipeline.select.experience import answered_shares
from routoo.pipeline.select.matrix import BatchMatrix
from routoo.pipeline.select.probes import JudgedBatch, PosedProblem, probe_model
from routoo.selector.confidence import lower_quality
from routoo.selector.probes import ProbeModel
from routoo.selector.problem import Capacity, Problem, match_model
from routoo.selector.solution import Solution, SolveStatus
from routoo.selector.solvers import solve
from routoo.store.batches.records import BatchRecord


def pose_problem(
    batch: BatchRecord, matrix: BatchMatrix, experience: Experience, now: datetime
) -> Problem:
    """Return the selection problem of a whole batch.

    A model's quality is multiplied by the share of jobs that it answers: an answer of a fallback
    costs the fallback's price, and is no merit of a model that fails.

    Args:
        batch: The batch with its limits.
        matrix: Its jobs.
        experience: What the matrix was estimated with.
        now: The present time, for the deadline.
    """
    quality = _expected_quality(batch, matrix, experience)
    capacities: tuple[Capacity, ...] = ()
    if matrix.demand is not None and batch.deadline is not None:
        left_s = (batch.deadline - now).total_seconds()
        capacities = endpoint_capacities(batch.pool, matrix.demand, experience, left_s)
    if matrix.weight is not None:
        quality, capacities = _weigh(matrix.weight, quality, capacities)
    aim = batch.objective
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
    target = match_model(problem, batch.pool.index(aim.match_model), aim.match_ratio)
    return replace(problem, min_mean_quality=target)


def add_probes(
    batch: BatchRecord, matrix: BatchMatrix, direct: Problem, experience: Experience, now: datetime
) -> PosedProblem:
    """Return a problem with the policies of the probes that are worth it as further options.

    Args:
        batch: The batch with its limits.
        matrix: Its jobs; without a judge there are no probes.
        direct: Their problem, with the models as its options.
        experience: What the matrix was estimated with.
        now: The present time, for the deadline.
    """
    return PosedProblem.with_probes(direct, known_probes(batch, matrix, direct, experience, now))


def known_probes(
    batch: BatchRecord, matrix: BatchMatrix, direct: Problem, experience: Experience, now: datetime
) -> ProbeModel | None:
    """Return what is known of a batch's probes, as `add_probes` does; None where there are none."""
    if matrix.judge is None or matrix.second_limits is None:
        return None
    left_s = None if batch.deadline is None else (batch.deadline - now).total_seconds()
    latency_s = None if matrix.demand is None else matrix.demand.latency_s
    judged = JudgedBatch(matrix.judge, matrix.allowed, matrix.second_limits, latency_s, left_s)
    quality = _cautious_quality(batch, matrix)
    return probe_model(batch, judged, direct, quality, experience, matrix.weight)


def _cautious_quality(batch: BatchRecord, matrix: BatchMatrix) -> Float[np.ndarray, "jobs models"]:
    """Return predicted quality, lowered by the batch's risk aversion."""
    risk = batch.objective.risk
    return lower_quality(matrix.quality, matrix.quality_std, risk) if risk > 0 else matrix.quality


def _expected_quality(
    batch: BatchRecord, matrix: BatchMatrix, experience: Experience
) -> Float[np.ndarray, "jobs models"]:
    """Return predicted quality, lowered by the batch's risk aversion and by calls that fail."""
    quality = _cautious_quality(batch, matrix)
    answered = answered_shares(batch.pool, experience)
    return quality * answered if (answered < 1).any() else quality


def _weigh(
    weight: Float32[np.ndarray, " jobs"],
    quality: Float[np.ndarray, "jobs models"],
    capacities: tuple[Capacity, ...],
) -> tuple[Float[np.ndarray, "jobs models"], tuple[Capacity, ...]]:
    """Count an answer's quality for all jobs that share it, and its call once."""
    calls = np.broadcast_to((weight > 0).astype(np.float32)[:, None], quality.shape)
    counted = [replace(item, use=calls) if item.use is None else item for item in capacities]
    return quality * weight[:, None], tuple(counted)


def choose(problem: Problem) -> Solution:
    """Solve a problem; jobs that can't be served within the limits are left without a model.

    Jobs that the endpoints probably can't answer in time get a model all the same, within the money
    that is left, since speed is only estimated. The status stays `infeasible`, its advice says what
    is short, and a job that is not answered by its deadline expires.

    If a mean quality can't be reached, no job gets a model: the batch's owner must decide whether
    to spend money on less.
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
    """Return whether the mean quality asked for is reached; true where none was asked for."""
    return problem.min_mean_quality is None or solution.served > 0 or solution.unaffordable == 0


def _attain(problem: Problem) -> Solution:
    """Reach a mean quality within the budget, if need be too late for the endpoints' capacity.

    The status is `infeasible` then, and its advice is about the capacity.
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

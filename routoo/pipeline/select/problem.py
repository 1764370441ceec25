"""Poses a batch as a problem of the selector, and solves it as far as its limits allow."""

import math
from dataclasses import replace
from datetime import datetime

import numpy as np
from jaxtyping import Float, Float32

from routoo.domain.prediction import Experience
from routoo.pipeline.select.capacity import endpoint_capacities
from routoo.pipeline.select.experience import answered_shares
from routoo.pipeline.select.judged_batch import JudgedBatch
from routoo.pipeline.select.matrix import BatchMatrix
from routoo.pipeline.select.probes import PosedProblem, probe_model
from routoo.selector.confidence import lower_quality
from routoo.selector.probe_model import ProbeModel
from routoo.selector.problem import Capacity, Problem, match_model
from routoo.selector.solution import Solution, SolveStatus
from routoo.selector.solvers import solve
from routoo.store.batches.records import BatchRecord

_ROUNDING = 1 + 1e-6
"""Reservations are estimated in single precision."""


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
    left_s = matrix.second_limits.deadline_s - now.timestamp()
    if batch.deadline is not None:
        left_s = np.minimum(left_s, (batch.deadline - now).total_seconds())
    demand = matrix.demand  # without one, jobs with deadlines of their own have latencies
    latency_s = matrix.second_limits.latency_s if demand is None else demand.latency_s
    allowed, reserve_usd = matrix.allowed, matrix.reserve_usd
    if reserve_usd is not None and direct.budget_usd is not None:
        # What the whole budget can't reserve is not asked after a probe either.
        allowed = allowed & (reserve_usd <= float(direct.budget_usd) * _ROUNDING)
    judged = JudgedBatch(matrix.judge, allowed, matrix.second_limits, latency_s, left_s)
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


_MOST_ROUNDS = 5


def choose_payable(
    posed: PosedProblem, reserve_usd: Float32[np.ndarray, "jobs models"] | None
) -> Solution:
    """Solve a problem so that the budget covers what each call reserves when its turn comes.

    A call is sent once its worst case is reserved, so the last jobs need more than they cost. No
    job is given a model whose reservation the whole budget doesn't cover.

    Args:
        posed: The problem; where it asks for a mean quality, only the expected cost is counted. Of
            a probe and the models that may follow, the largest reservation is counted.
        reserve_usd: What a call of each pair reserves, in USD; None where nothing limits it.
    """
    problem, policies = posed.problem, posed.policies
    if problem.budget_usd is None or problem.min_mean_quality is not None or reserve_usd is None:
        return choose(problem)
    if policies.probe:
        reserve_usd = posed.reserved(reserve_usd)
    budget_usd = float(problem.budget_usd)
    asked, payable = problem, reserve_usd <= budget_usd * _ROUNDING
    if not payable.all():
        allowed = payable if problem.allowed is None else problem.allowed & payable
        problem = replace(problem, allowed=allowed)
    solution = choose(problem)
    limit_usd = budget_usd
    for _ in range(_MOST_ROUNDS):
        short_usd = needed_usd(solution, problem, reserve_usd) - budget_usd * _ROUNDING
        if short_usd <= 0:
            break
        limit_usd = max(min(limit_usd, solution.cost_usd) - short_usd, 0.0)
        solution = choose(replace(problem, budget_usd=limit_usd))
    if limit_usd == budget_usd and payable.all():
        return solution
    return _advise(solution, asked, reserve_usd)


def _advise(
    solution: Solution, problem: Problem, reserve_usd: Float32[np.ndarray, "jobs models"]
) -> Solution:
    """Say what budget would serve the jobs that reservations leave without a model."""
    allowed = np.ones(reserve_usd.shape, np.bool_) if problem.allowed is None else problem.allowed
    servable = allowed.any(axis=1)
    left = int(np.count_nonzero(servable & (solution.choice < 0)))
    if left == 0:
        return replace(solution, unaffordable=0)
    cheapest = np.where(allowed, problem.cost_usd, np.inf).argmin(axis=1)
    cheapest = np.where(servable, cheapest, -1).astype(np.int32)
    everybody = replace(solution, choice=cheapest)
    needed = needed_usd(everybody, replace(problem, budget_usd=None), reserve_usd)
    advice = (
        f"The budget leaves {left} jobs without a model: a call reserves its worst case before it "
        f"is sent. Raise budget_usd to at least {_up(needed)}, or set max_tokens."
    )
    return replace(solution, advice=advice, unaffordable=left)


def _up(usd: float) -> str:
    """Return an amount in USD, rounded up to three digits."""
    step = 10.0 ** (math.floor(math.log10(usd)) - 2) if usd > 0 else 1.0
    return f"{math.ceil(usd / step) * step:.3g}"


def held_usd(matrix: BatchMatrix) -> Float32[np.ndarray, "jobs models"] | None:
    """Return what must be free for a call of each pair, in USD; None where nothing limits it.

    It is what the call reserves, and what it leaves for the job's cheapest call if it is another.
    """
    last = matrix.last_resorts
    if matrix.reserve_usd is None or last is None:
        return matrix.reserve_usd
    is_other = np.arange(matrix.cost_usd.shape[1]) != last.column[:, None]
    left_usd = np.where(is_other, np.minimum(last.worst_usd[:, None], matrix.cost_usd), 0.0)
    return matrix.reserve_usd + left_usd.astype(np.float32)


def spare_usd(
    posed: PosedProblem,
    solution: Solution,
    reserve_usd: Float32[np.ndarray, "jobs models"] | None,
) -> float:
    """Return what a choice leaves of the budget for each of its jobs, in USD; 0 without a budget.

    Args:
        posed: The problem.
        solution: Its solution; probes are options.
        reserve_usd: What a call of each pair reserves, in USD.
    """
    budget_usd = posed.problem.budget_usd
    if budget_usd is None or reserve_usd is None or not solution.served:
        return 0.0
    if posed.policies.probe:
        reserve_usd = posed.reserved(reserve_usd)
    left_usd = float(budget_usd) - needed_usd(solution, posed.problem, reserve_usd)
    return max(left_usd, 0.0) / solution.served


def needed_usd(
    solution: Solution, problem: Problem, reserve_usd: Float32[np.ndarray, "jobs models"]
) -> float:
    """Return the money with which every call can be reserved when its turn comes, in USD.

    Calls may come in any order, so each may be the last: it is reserved once all others have cost
    what is expected of them.
    """
    rows = np.flatnonzero(solution.choice >= 0)
    if not len(rows):
        return 0.0
    chosen = solution.choice[rows]
    reserved = reserve_usd[rows, chosen].astype(np.float64)
    cost = problem.cost_usd[rows, chosen].astype(np.float64)
    return float(cost.sum()) + float(np.maximum(reserved - cost, 0).max())


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

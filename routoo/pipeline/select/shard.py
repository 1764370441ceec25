"""The select stage: chooses a model for every job of a batch, the first time or for a re-plan."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int64
from psycopg import AsyncConnection

from routoo.domain.behaviour import pool_as_found
from routoo.domain.job import BatchStatus, Lease
from routoo.domain.pool import Pool
from routoo.domain.prediction import NO_EXPERIENCE, ModelExperience, experience_to_json
from routoo.errors import InfeasibleError
from routoo.pipeline.select.decisions import assign, unserved_results
from routoo.pipeline.select.experience import (
    answered_shares,
    batch_experience,
    learn_failures,
    load_outcomes,
    planned_experience,
)
from routoo.pipeline.select.matrix import BatchMatrix, load_matrix
from routoo.pipeline.select.plan import describe_forecast, describe_plan
from routoo.pipeline.select.problem import choose, is_met, pose_problem
from routoo.selector.problem import Problem
from routoo.selector.solution import Solution
from routoo.store import assignments, batches, endpoint_behaviour, ledger, results
from routoo.store.assignments import OpenJobs, load_open_jobs
from routoo.store.batches import BatchRecord, replans
from routoo.store.batches.replans import FIRST_REVISION, Replan
from routoo.store.database import Database
from routoo.store.model_calls import NO_CALLS, is_down


async def select_shard(db: Database, lease: Lease, batch: BatchRecord) -> None:
    """Make a batch's first plan, or the revision of it that was requested.

    Args:
        db: The store.
        lease: The batch's only select shard; renewed by the caller.
        batch: The batch, every job scored.

    Raises:
        InfeasibleError: The quality asked for can't be reached; a batch that is only planned keeps
            the advice instead.
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        request = await replans.open_request(conn, batch.id)
        behaviour = await endpoint_behaviour.load(conn)
    # So a plan's worst case allows for endpoints that were found to exceed their bounds.
    batch = batch.with_pool(pool_as_found(batch.pool, behaviour))
    if request is None:
        await _plan_batch(db, lease, batch)
    else:
        await replan_batch(db, lease, batch, request)


async def _plan_batch(db: Database, lease: Lease, batch: BatchRecord) -> None:
    """Choose a model for every job and save the plan.

    The choice goes by expected cost; the ledger keeps the hard limit at dispatch. Jobs that no
    model may answer, or that the budget can't pay for, get their result here.
    """
    async with db.transaction() as conn:
        if await assignments.exist(conn, batch.id):
            return  # a worker died after it had saved the plan: what people saw of it stands
        experience = await batch_experience(conn, batch)
        matrix = await load_matrix(conn, batch, experience)
    problem = pose_problem(batch, matrix, experience, datetime.now(UTC))
    solution = await asyncio.to_thread(choose, problem)
    if matrix.duplicates is not None:
        solution = matrix.duplicates.spread(solution)
    plan, met = describe_plan(batch.pool, matrix, solution, experience), is_met(solution, problem)
    if batch.status is BatchStatus.PLANNING:
        plan["forecast"] = await asyncio.to_thread(
            describe_forecast, batch, matrix, problem, solution, experience
        )
    async with db.transaction() as conn:
        if met:
            await _save_first_plan(conn, lease, batch.pool, matrix, solution)
        await batches.save_plan(conn, batch.id, plan)
    if not met and batch.status is not BatchStatus.PLANNING:
        raise InfeasibleError("the batch's aim can't be met", remedy=solution.advice.rstrip("."))


async def _save_first_plan(
    conn: AsyncConnection, lease: Lease, pool: Pool, matrix: BatchMatrix, solution: Solution
) -> None:
    """Save each job's decision: its model, its original, or a result without an answer."""
    served = np.flatnonzero(solution.choice >= 0)
    chosen = assign(pool, matrix, served, solution.choice[served])
    await assignments.save(conn, lease, chosen, FIRST_REVISION)
    if matrix.duplicates is not None:
        await assignments.save_duplicates(conn, lease, matrix.duplicates.pairs())
    unserved = np.flatnonzero(solution.choice < 0).tolist()
    await results.save(conn, lease, list(unserved_results(unserved, matrix, solution.advice)))


@dataclass(frozen=True, slots=True)
class _State:
    """A running batch when the re-plan starts."""

    matrix: BatchMatrix
    """All jobs of the batch; models that can't be called are excluded where a job has others."""
    experience: dict[str, ModelExperience]
    open_jobs: OpenJobs
    free_usd: Decimal | None
    """Budget that is not spent yet, in USD; None means no limit."""
    down: tuple[str, ...]
    """Names of the models whose endpoint doesn't answer."""

    @property
    def movable(self) -> Int64[np.ndarray, " movable"]:
        """Positions, among the open jobs, of those without a call in flight."""
        return np.flatnonzero(~self.open_jobs.called)


async def replan_batch(db: Database, lease: Lease, batch: BatchRecord, request: Replan) -> None:
    """Choose again for every job that has no result and no call in flight.

    The budget is what was not spent, less the expected cost of the calls in flight. A job that
    can't be served any more keeps its model: the ledger decides about it at dispatch.

    Args:
        db: The store.
        lease: The batch's select shard, reopened; renewed by the caller.
        batch: The batch.
        request: The revision that was requested.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        state = await _load(conn, batch)
    jobs, current = state.open_jobs.job_no[state.movable], state.open_jobs.column[state.movable]
    now, rows = datetime.now(UTC), state.matrix.rows(jobs)
    problem = pose_problem(batch, rows, state.experience, now)
    problem = replace(problem, budget_usd=_left_usd(state))
    promised = pose_problem(batch, rows, planned_experience(batch), now)
    solution = await asyncio.to_thread(_choose, problem, promised, current)
    async with db.transaction() as conn:
        await _save(conn, lease, batch, state, solution, request)


async def _save(
    conn: AsyncConnection,
    lease: Lease,
    batch: BatchRecord,
    state: _State,
    solution: Solution,
    request: Replan,
) -> None:
    """Save the revision: the jobs' new models, results without an answer, and the plan."""
    jobs, current = state.open_jobs.job_no[state.movable], state.open_jobs.column[state.movable]
    column = np.where(solution.choice >= 0, solution.choice, current)
    expected, moved = _as_answered(batch, state), np.flatnonzero(column != current)
    moves = assign(batch.pool, expected, jobs[moved], column[moved])
    await assignments.save(conn, lease, moves, request.revision)
    unserved = jobs[column < 0].tolist()
    await results.save(conn, lease, list(unserved_results(unserved, state.matrix, solution.advice)))
    before, after = (_expected(batch, expected, jobs, of) for of in (current, column))
    await replans.decide(conn, lease, request, len(moved), (before, after))
    plan = _revised(batch.plan or {}, state, solution, request.revision)
    await batches.save_plan(conn, batch.id, plan)


async def _load(conn: AsyncConnection, batch: BatchRecord) -> _State:
    known, outcomes = planned_experience(batch), await load_outcomes(conn, batch)
    experience = {
        name: learn_failures(model, known.get(name, NO_EXPERIENCE), outcomes.get(name, NO_CALLS))
        for name, model in (await batch_experience(conn, batch)).items()
    }
    matrix = await load_matrix(conn, batch, experience)
    names = batch.pool.names
    down = tuple([model.name for model in batch.pool.models if await is_down(conn, model)])
    open_jobs = await load_open_jobs(conn, batch.id, batch.job_count, names)
    matrix = matrix.prefer(open_jobs.job_no, _sendable(batch, open_jobs))
    matrix = matrix.prefer(open_jobs.job_no, np.array([name not in down for name in names]))
    return _State(
        matrix=matrix,
        experience=experience,
        open_jobs=open_jobs,
        free_usd=await _unspent_usd(conn, batch),
        down=down,
    )


def _as_answered(batch: BatchRecord, state: _State) -> BatchMatrix:
    """Return the batch with each model's quality times the share of jobs that it answers."""
    answered = answered_shares(batch.pool, state.experience)
    return replace(state.matrix, quality=state.matrix.quality * answered)


def _sendable(batch: BatchRecord, open_jobs: OpenJobs) -> Bool[np.ndarray, "open models"]:
    """Return the pairs that a running dispatcher can carry out.

    A dispatcher sends rows to batch channels before its first call. A job that is moved to a
    channel later would be called at the ordinary price: only a channel's present jobs may stay.
    """
    columns = np.arange(len(batch.pool.models))
    channels = np.array([model.is_batch_channel for model in batch.pool.models])
    return np.asarray(~channels | (columns == open_jobs.column[:, None]))


async def _unspent_usd(conn: AsyncConnection, batch: BatchRecord) -> Decimal | None:
    balance = await ledger.balance(conn, batch.id)
    if balance.limit_usd is None:
        return None
    return balance.limit_usd - balance.spent_usd - balance.overrun_usd


def _left_usd(state: _State) -> Decimal | None:
    """Return the money left after the expected cost of the calls in flight; None = no limit."""
    if state.free_usd is None:
        return None
    in_flight = state.open_jobs.called & (state.open_jobs.column >= 0)
    jobs, column = state.open_jobs.job_no[in_flight], state.open_jobs.column[in_flight]
    expected_usd = float(state.matrix.cost_usd[jobs, column].sum())
    return max(state.free_usd - Decimal(expected_usd), Decimal(0))


def _choose(problem: Problem, promised: Problem, current: Int[np.ndarray, " movable"]) -> Solution:
    """Choose within the limits; the mean quality of the present plan is kept if it is in reach.

    Args:
        problem: The problem by what is known now.
        promised: The problem with the failures that the present plan assumes.
        current: Position of each job's present model in the pool; -1 where it has none.
    """
    if problem.min_mean_quality is None:
        return choose(problem)
    kept = replace(problem, min_mean_quality=_promised_mean(promised, current))
    solution = choose(kept)
    if is_met(solution, kept):
        return solution
    return choose(replace(problem, min_mean_quality=_promised_mean(problem, current)))


def _promised_mean(problem: Problem, current: Int[np.ndarray, " movable"]) -> float:
    """Return the mean quality of the jobs' present models.

    It is what the rest of the batch must keep. The batch's own target is another number, since the
    jobs that have ended may be better or worse than the rest.
    """
    served = np.flatnonzero(current >= 0)
    promised = problem.quality[served, current[served]]
    return float(promised.mean(dtype=np.float64)) if len(served) else 0.0


def _expected(
    batch: BatchRecord,
    matrix: BatchMatrix,
    jobs: Int[np.ndarray, " movable"],
    column: Int[np.ndarray, " movable"],
) -> dict[str, Any]:
    """Return the expected quality and cost of a choice for these jobs, by what is known now."""
    served = column >= 0
    rows, models = jobs[served], column[served]
    counts = np.bincount(models, minlength=len(batch.pool.models)).tolist()
    return {
        "jobs": len(jobs),
        "served": len(rows),
        "expected_quality": float(matrix.quality[rows, models].mean()) if len(rows) else 0.0,
        "expected_cost_usd": float(matrix.cost_usd[rows, models].sum()),
        "models": dict(zip(batch.pool.names, counts, strict=True)),
    }


def _revised(
    plan: dict[str, Any], state: _State, solution: Solution, revision: int
) -> dict[str, Any]:
    """Return the plan with the new revision's prices and experience; its expectations stay."""
    return {
        **plan,
        "revision": revision,
        "shadow_price_per_usd": solution.shadow_price_per_usd,
        "shadow_prices": solution.shadow_prices,
        "experience": experience_to_json(state.experience),
        "down": list(state.down),
    }

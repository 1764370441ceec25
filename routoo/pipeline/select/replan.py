"""A running batch selected anew: its jobs that are not under way, with what is left to spend."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64
from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.domain.prediction import NO_EXPERIENCE, Assignment, ModelExperience, experience_to_json
from routoo.pipeline.select.experience import batch_experience
from routoo.pipeline.select.failures import answered_shares, failures_of, learn, load_outcomes
from routoo.pipeline.select.matrix import BatchMatrix, load_matrix
from routoo.pipeline.select.problem import choose, is_met, pose_problem
from routoo.pipeline.select.refusals import refusals
from routoo.pipeline.select.shard import select_batch
from routoo.selector.problem import Problem
from routoo.selector.solution import Solution
from routoo.store import assignments, batches, ledger, results
from routoo.store.batches import BatchRecord, replans
from routoo.store.batches.replans import Replan
from routoo.store.database import Database
from routoo.store.jobs import OpenJobs, load_open_jobs
from routoo.store.model_calls import NO_CALLS, is_down


@dataclass(frozen=True, slots=True)
class _State:
    """A running batch as the re-plan finds it."""

    matrix: BatchMatrix
    """All jobs of the batch; what can't be sent now is ruled out where another is allowed."""
    experience: dict[str, ModelExperience]
    open_jobs: OpenJobs
    free_usd: Decimal | None
    """Budget not spent yet; None means no limit."""
    down: tuple[str, ...]
    """Models whose endpoint doesn't answer."""

    @property
    def movable(self) -> Int64[np.ndarray, " movable"]:
        """Places among the open jobs of those that no call is under way for."""
        return np.flatnonzero(~self.open_jobs.called)


async def decide_batch(db: Database, lease: Lease, batch: BatchRecord) -> None:
    """Do the select stage: the first plan of a batch, or the revision that was asked for.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        request = await replans.open_request(conn, batch.id)
    if request is None:
        await select_batch(db, lease, batch)
    else:
        await replan_batch(db, lease, batch, request)


async def replan_batch(db: Database, lease: Lease, batch: BatchRecord, request: Replan) -> None:
    """Choose again for every job that has no result and no call under way.

    Money that was spent, and what the calls under way are expected to cost, is gone; the rest is
    spent as well as it can be by what is known now. A job that can't be served any more keeps the
    model it has: dispatch then finds out what the ledger allows.

    Args:
        db: The store.
        lease: The batch's select shard, reopened; renewed by the caller.
        batch: The batch.
        request: The revision asked for.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        state = await _load(conn, batch)
    jobs = state.open_jobs.job_no[state.movable]
    now = datetime.now(UTC)
    current = state.open_jobs.column[state.movable]
    problem = replace(
        pose_problem(batch, state.matrix.rows(jobs), state.experience, now),
        budget_usd=_left_usd(state),
    )
    promised = pose_problem(batch, state.matrix.rows(jobs), failures_of(batch), now)
    solution = await asyncio.to_thread(_choose, problem, promised, current)
    column = np.where(solution.choice >= 0, solution.choice, current)
    expected = _as_answered(batch, state)
    async with db.transaction() as conn:
        await assignments.save(
            conn, lease, _moves(batch, expected, jobs, column, current), request.revision
        )
        unserved = jobs[column < 0].tolist()
        await results.save(conn, lease, list(refusals(unserved, state.matrix, solution.advice)))
        before, after = (_expected(batch, expected, jobs, of) for of in (current, column))
        moved = int(np.count_nonzero(column != current))
        await replans.decide(conn, lease, request, moved, (before, after))
        plan = _revised(batch.plan or {}, state, solution, request.revision)
        await batches.save_plan(conn, batch.id, plan)


async def _load(conn: AsyncConnection, batch: BatchRecord) -> _State:
    known, outcomes = failures_of(batch), await load_outcomes(conn, batch)
    experience = {
        name: learn(model, known.get(name, NO_EXPERIENCE), outcomes.get(name, NO_CALLS))
        for name, model in (await batch_experience(conn, batch)).items()
    }
    matrix = await load_matrix(conn, batch, experience)
    names = batch.pool.names
    down = tuple([model.name for model in batch.pool.models if await is_down(conn, model)])
    open_jobs = await load_open_jobs(conn, batch.id, batch.job_count, names)
    _narrow(matrix, open_jobs.job_no, _sendable(batch, open_jobs))
    _narrow(matrix, open_jobs.job_no, np.array([name not in down for name in names]))
    return _State(
        matrix=matrix,
        experience=experience,
        open_jobs=open_jobs,
        free_usd=await _unspent_usd(conn, batch),
        down=down,
    )


def _as_answered(batch: BatchRecord, state: _State) -> BatchMatrix:
    """Return the batch with quality as it is expected of models that fail now and then."""
    answered = answered_shares(batch.pool, state.experience)
    return replace(state.matrix, quality=state.matrix.quality * answered)


def _sendable(batch: BatchRecord, open_jobs: OpenJobs) -> Bool[np.ndarray, "open models"]:
    """Return the pairs that a dispatcher at work can carry out: a channel for its own jobs only.

    It hands rows to channels before its first call. A job that came to one later would be called
    at the ordinary price, which is not what was planned.
    """
    columns = np.arange(len(batch.pool.models))
    channels = np.array([model.is_batch_channel for model in batch.pool.models])
    return np.asarray(~channels | (columns == open_jobs.column[:, None]))


def _narrow(
    matrix: BatchMatrix, jobs: Int32[np.ndarray, " open"], keep: Bool[np.ndarray, "#open models"]
) -> None:
    """Rule the other models out for the jobs that one of these may answer."""
    allowed = matrix.allowed[jobs] & keep
    movable = allowed.any(axis=1)
    matrix.allowed[jobs[movable]] = allowed[movable]


async def _unspent_usd(conn: AsyncConnection, batch: BatchRecord) -> Decimal | None:
    balance = await ledger.balance(conn, batch.id)
    if balance.limit_usd is None:
        return None
    return balance.limit_usd - balance.spent_usd - balance.overrun_usd


def _left_usd(state: _State) -> Decimal | None:
    """Return what is left once the calls under way have cost what is expected of them."""
    if state.free_usd is None:
        return None
    under_way = state.open_jobs.called & (state.open_jobs.column >= 0)
    jobs, column = state.open_jobs.job_no[under_way], state.open_jobs.column[under_way]
    expected_usd = float(state.matrix.cost_usd[jobs, column].sum())
    return max(state.free_usd - Decimal(expected_usd), Decimal(0))


def _choose(problem: Problem, promised: Problem, current: Int[np.ndarray, " movable"]) -> Solution:
    """Choose within the limits; a mean that was promised is kept, if failures leave it in reach.

    Args:
        problem: By what is known now.
        promised: The same by what was assumed of failures when the present models were chosen.
        current: Column of each job's present model; -1 where it has none.
    """
    if problem.min_mean_quality is None:
        return choose(problem)
    kept = replace(problem, min_mean_quality=_promised_mean(promised, current))
    solution = choose(kept)
    if is_met(solution, kept):
        return solution
    return choose(replace(problem, min_mean_quality=_promised_mean(problem, current)))


def _promised_mean(problem: Problem, current: Int[np.ndarray, " movable"]) -> float:
    """Return the mean that the rest must keep for the whole batch to reach what was asked.

    The batch's own mean is none of the rest: jobs that ended may have been its better or its worse.
    """
    served = np.flatnonzero(current >= 0)
    promised = problem.quality[served, current[served]]
    return float(promised.mean(dtype=np.float64)) if len(served) else 0.0


def _moves(
    batch: BatchRecord,
    matrix: BatchMatrix,
    jobs: Int[np.ndarray, " movable"],
    column: Int[np.ndarray, " movable"],
    current: Int[np.ndarray, " movable"],
) -> Iterator[Assignment]:
    for place in np.flatnonzero(column != current).tolist():
        job_no, model = int(jobs[place]), int(column[place])
        yield Assignment(
            job_no=job_no,
            model=batch.pool.models[model].name,
            expected_quality=float(matrix.quality[job_no, model]),
            expected_cost_usd=Decimal(f"{matrix.cost_usd[job_no, model]:.12f}"),
        )


def _expected(
    batch: BatchRecord,
    matrix: BatchMatrix,
    jobs: Int[np.ndarray, " movable"],
    column: Int[np.ndarray, " movable"],
) -> dict[str, Any]:
    """Return what is expected of the jobs concerned under a choice, by what is known now."""
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
    """Return the plan with what the rest of the batch now goes by; its promises stand as made."""
    return {
        **plan,
        "revision": revision,
        "shadow_price_per_usd": solution.shadow_price_per_usd,
        "shadow_prices": solution.shadow_prices,
        "experience": experience_to_json(state.experience),
        "down": list(state.down),
    }

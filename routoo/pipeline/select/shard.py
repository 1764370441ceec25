"""The select stage: chooses a model for every job of a batch, the first time or for a re-plan."""

import asyncio
from datetime import UTC, datetime

import numpy as np
from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, Lease
from routoo.domain.pool import Pool
from routoo.errors import InfeasibleError
from routoo.pipeline.select.decisions import assign, unserved_results
from routoo.pipeline.select.experience import batch_experience
from routoo.pipeline.select.matrix import BatchMatrix, load_matrix
from routoo.pipeline.select.plan import describe_forecast, describe_plan
from routoo.pipeline.select.problem import choose, is_met, pose_problem
from routoo.pipeline.select.replan import replan_batch
from routoo.selector.solution import Solution
from routoo.store import assignments, batches, results
from routoo.store.batches import BatchRecord, replans
from routoo.store.batches.replans import FIRST_REVISION
from routoo.store.database import Database


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
            await _save(conn, lease, batch.pool, matrix, solution)
        await batches.save_plan(conn, batch.id, plan)
    if not met and batch.status is not BatchStatus.PLANNING:
        raise InfeasibleError("the batch's aim can't be met", remedy=solution.advice.rstrip("."))


async def _save(
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

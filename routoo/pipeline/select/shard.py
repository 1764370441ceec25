"""The select stage: one decision over the whole batch."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, Lease
from routoo.domain.pool import Pool
from routoo.domain.prediction import Assignment
from routoo.errors import InfeasibleError
from routoo.pipeline.select.experience import batch_experience
from routoo.pipeline.select.forecast import describe_forecast
from routoo.pipeline.select.matrix import BatchMatrix, load_matrix
from routoo.pipeline.select.plan import describe_plan
from routoo.pipeline.select.problem import choose, is_met, pose_problem
from routoo.pipeline.select.refusals import refusals
from routoo.selector.solution import Solution
from routoo.store import assignments, batches, results
from routoo.store.batches import BatchRecord
from routoo.store.batches.replans import FIRST_REVISION
from routoo.store.database import Database


async def select_batch(db: Database, lease: Lease, batch: BatchRecord) -> None:
    """Choose a model for every job of a scored batch and keep the plan.

    Expected cost drives the choice; the hard limit is the ledger's, at dispatch. Jobs that no model
    may answer, or that the budget can't pay for, get their result here.

    Args:
        db: The store.
        lease: The batch's select shard; renewed by the caller.
        batch: The batch.

    Raises:
        InfeasibleError: The quality asked for can't be reached; a plan keeps the advice instead.
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        if await assignments.exist(conn, batch.id):
            return  # a crash came between plan and hand-over; what was seen of the plan stands
        experience = await batch_experience(conn, batch)
        matrix = await load_matrix(conn, batch, experience)
    problem = pose_problem(batch, matrix, experience, datetime.now(UTC))
    solution = await asyncio.to_thread(choose, problem)
    if matrix.twins is not None:
        solution = matrix.twins.spread(solution)
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
    """Keep what was decided for each job: its model, whom it follows, or why it has none."""
    await assignments.save(conn, lease, _assignments(pool, matrix, solution), FIRST_REVISION)
    if matrix.twins is not None:
        await assignments.save_duplicates(conn, lease, matrix.twins.followers())
    unserved = np.flatnonzero(solution.choice < 0).tolist()
    await results.save(conn, lease, list(refusals(unserved, matrix, solution.advice)))


def _assignments(pool: Pool, matrix: BatchMatrix, solution: Solution) -> Iterator[Assignment]:
    for job_no in np.flatnonzero(solution.choice >= 0).tolist():
        column = int(solution.choice[job_no])
        yield Assignment(
            job_no=job_no,
            model=pool.models[column].name,
            expected_quality=float(matrix.quality[job_no, column]),
            expected_cost_usd=Decimal(f"{matrix.cost_usd[job_no, column]:.12f}"),
        )

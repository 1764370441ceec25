"""The select stage: one decision over the whole batch."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import numpy as np

from routoo.domain.completion import Result
from routoo.domain.job import Lease, ResultStatus
from routoo.domain.pool import Pool
from routoo.domain.prediction import Assignment
from routoo.pipeline.matrix import BatchMatrix, load_matrix
from routoo.pipeline.plan import describe_plan
from routoo.selector.problem import Problem
from routoo.selector.solution import Solution
from routoo.selector.solve import solve
from routoo.store import assignments, batches, results
from routoo.store.batches import BatchRecord
from routoo.store.database import Database

_FIRST_REVISION = 1


async def select_batch(db: Database, lease: Lease, batch: BatchRecord) -> None:
    """Choose a model for every job of a scored batch and keep the plan.

    Expected cost drives the choice; the hard limit is the ledger's, at dispatch. Jobs that no model
    may answer, or that the budget can't pay for, get their result here.

    Args:
        db: The store.
        lease: The batch's select shard; renewed by the caller.
        batch: The batch.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        matrix = await load_matrix(conn, batch)
    problem = Problem(matrix.quality, matrix.cost_usd, matrix.allowed, budget_usd=batch.budget_usd)
    solution = await asyncio.to_thread(solve, problem, allow_partial=True)
    async with db.transaction() as conn:
        chosen = _assignments(batch.pool, matrix, solution)
        await assignments.save(conn, lease, chosen, _FIRST_REVISION)
        await results.save(conn, lease, list(_refusals(matrix, solution)))
        plan = describe_plan(batch.pool, matrix, solution)
        await batches.save_plan(conn, batch.id, plan)


def _assignments(pool: Pool, matrix: BatchMatrix, solution: Solution) -> Iterator[Assignment]:
    for job_no in np.flatnonzero(solution.choice >= 0).tolist():
        column = int(solution.choice[job_no])
        yield Assignment(
            job_no=job_no,
            model=pool.models[column].name,
            expected_quality=float(matrix.quality[job_no, column]),
            expected_cost_usd=Decimal(f"{matrix.cost_usd[job_no, column]:.12f}"),
        )


def _refusals(matrix: BatchMatrix, solution: Solution) -> Iterator[Result]:
    for job_no in np.flatnonzero(solution.choice < 0).tolist():
        misfit = matrix.misfits.get(job_no)
        if misfit is not None:
            yield _refusal(job_no, ResultStatus.FAILED, "no_eligible_model", misfit)
        else:
            code = ResultStatus.BUDGET_EXHAUSTED.value
            why = solution.advice or "the budget does not cover a call for this job"
            yield _refusal(job_no, ResultStatus.BUDGET_EXHAUSTED, code, why)


def _refusal(job_no: int, status: ResultStatus, code: str, message: str) -> Result:
    return Result(job_no, status, Decimal(0), 0, error_code=code, error_message=message)

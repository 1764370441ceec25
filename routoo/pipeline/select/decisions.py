"""Turns a solution into a decision for each job: a model, or a result without an answer."""

from collections.abc import Iterable, Iterator
from decimal import Decimal

import numpy as np
from jaxtyping import Int

from routoo.domain.completion import Result
from routoo.domain.job import ResultStatus
from routoo.domain.pool import Pool
from routoo.domain.prediction import Assignment
from routoo.pipeline.select.matrix import BatchMatrix

_NO_MONEY = "the budget does not cover a call for this job"


def assign(
    pool: Pool,
    matrix: BatchMatrix,
    jobs: Int[np.ndarray, " some"],
    columns: Int[np.ndarray, " some"],
) -> Iterator[Assignment]:
    """Yield the assignment of each job to its model.

    Args:
        pool: The candidate models.
        matrix: The whole batch.
        jobs: Numbers of the jobs.
        columns: Position of each job's model in the pool.
    """
    for job_no, column in zip(jobs.tolist(), columns.tolist(), strict=True):
        yield Assignment(
            job_no=job_no,
            model=pool.models[column].name,
            expected_quality=float(matrix.quality[job_no, column]),
            expected_cost_usd=Decimal(f"{matrix.cost_usd[job_no, column]:.12f}"),
        )


def unserved_results(jobs: Iterable[int], matrix: BatchMatrix, advice: str) -> Iterator[Result]:
    """Yield the results of jobs that no model may answer, or that the budget can't pay for.

    Args:
        jobs: Numbers of the jobs.
        matrix: The whole batch, which says why a job has no eligible model.
        advice: The solution's advice; it becomes the message of jobs that the budget can't pay for.
    """
    for job_no in sorted(jobs):
        reason = matrix.ineligible.get(job_no)
        if reason is not None:
            yield _unserved(job_no, ResultStatus.FAILED, "no_eligible_model", reason)
        else:
            code = ResultStatus.BUDGET_EXHAUSTED.value
            yield _unserved(job_no, ResultStatus.BUDGET_EXHAUSTED, code, advice or _NO_MONEY)


def _unserved(job_no: int, status: ResultStatus, code: str, message: str) -> Result:
    return Result(job_no, status, Decimal(0), 0, error_code=code, error_message=message)

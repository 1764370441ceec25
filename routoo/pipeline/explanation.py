"""Explains a job: why it got its model, what the others would have brought, and what happened."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from psycopg import AsyncConnection

from routoo.domain.job import Job
from routoo.domain.prediction import experience_from_json
from routoo.errors import InputError
from routoo.pipeline.select.estimates import estimate_calls
from routoo.pipeline.select.matrix import BatchMatrix, load_matrix
from routoo.pipeline.select.problem import pose_problem
from routoo.selector.explain import Explanation, explain
from routoo.store import jobs, predictions
from routoo.store.batches.records import BatchRecord
from routoo.store.job_history import JobHistory, load_job_history


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """One job among its candidate models, in pool order."""

    job: Job
    explanation: Explanation
    """Its candidates' quality is what the selector sees: the sum over all jobs that the call
    serves, and a lower bound if the batch is cautious."""
    quality: tuple[float, ...]
    """Expected quality of each candidate, by the predictor."""
    quality_std: tuple[float, ...]
    """Standard deviation of that estimate."""
    latency_s: tuple[float | None, ...]
    """Typical latency of a call, in seconds; None where nothing is known."""
    serves: int
    """Number of identical jobs that the call answers, this one included."""
    history: JobHistory


async def explain_job(conn: AsyncConnection, batch: BatchRecord, custom_id: str) -> JobExplanation:
    """Explain one job's choice by the estimates of the batch's plan.

    The whole batch is read, since the budget at which a choice changes depends on all its jobs.
    That takes seconds for each hundred thousand jobs.

    Args:
        conn: A connection.
        batch: A batch that was selected.
        custom_id: The owner's key of the job.

    Raises:
        NotFoundError: The batch has no such job.
        InputError: The batch has no plan yet.
    """
    job, plan = await jobs.find(conn, batch.id, custom_id), _plan_of(batch)
    experience = experience_from_json(plan.get("experience"))
    matrix = await load_matrix(conn, batch, experience)
    history = await load_job_history(conn, batch.id, job.job_no)
    original, serves = _original(matrix, job.job_no)
    row = slice(job.job_no, job.job_no + 1)
    tokens = await predictions.load_completion_tokens(conn, batch.id, job.job_no)
    own = estimate_calls([job], batch.pool, matrix.quality[row], tokens[None, :], experience)
    chosen = batch.pool.index(history.decisions[-1].model) if history.decisions else -1
    problem = pose_problem(batch, matrix, experience, datetime.now(UTC))
    price = float(plan["shadow_price_per_usd"])
    explanation = explain(problem, original, chosen, price, batch.pool.names, own.reasons[0])
    return JobExplanation(
        job=job,
        explanation=explanation,
        quality=tuple(matrix.quality[job.job_no].tolist()),
        quality_std=tuple(matrix.quality_std[job.job_no].tolist()),
        latency_s=tuple(None if np.isnan(one) else one for one in own.latency_s[0].tolist()),
        serves=serves,
        history=history,
    )


def _plan_of(batch: BatchRecord) -> dict[str, Any]:
    if batch.plan is None:
        raise InputError(
            f"the batch has no plan yet: it is {batch.status}",
            value=str(batch.id),
            remedy="Ask again when `routoo-producer status` shows it as selected",
        )
    return batch.plan


def _original(matrix: BatchMatrix, job_no: int) -> tuple[int, int]:
    """Return the job whose call answers a job, and how many jobs it answers."""
    if matrix.duplicates is None or matrix.weight is None:
        return job_no, 1
    original = int(matrix.duplicates.original[job_no])
    return original, int(matrix.weight[original])

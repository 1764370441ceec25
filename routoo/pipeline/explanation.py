"""Why a job of a batch got its model, what else was possible, and what happened."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from psycopg import AsyncConnection

from routoo.domain.job import Job
from routoo.domain.prediction import experience_from_json
from routoo.errors import InputError
from routoo.pipeline.select.estimates import estimate
from routoo.pipeline.select.matrix import BatchMatrix, load_matrix
from routoo.pipeline.select.problem import pose_problem
from routoo.selector.explain import Explanation, explain
from routoo.store import jobs, predictions
from routoo.store.batches import BatchRecord
from routoo.store.job_history import JobHistory, load_job_history


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """One job among its candidate models, in pool order."""

    job: Job
    explanation: Explanation
    """Its candidates' quality is what was selected on: of all jobs that the call serves together,
    and lower than expected for a cautious batch."""
    quality: tuple[float, ...]
    """Expected, by the predictor."""
    quality_std: tuple[float, ...]
    """Of that estimate."""
    latency_s: tuple[float | None, ...]
    """Typical wait for an answer; None where nothing is known."""
    serves: int
    """Identical jobs of the batch that its call answers, itself included."""
    history: JobHistory


async def explain_job(conn: AsyncConnection, batch: BatchRecord, custom_id: str) -> JobExplanation:
    """Explain one job's choice by the estimates that the batch's plan goes by.

    The whole batch is read, since the budget at which a choice changes hangs on all its jobs:
    seconds for each hundred thousand.

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
    leader, serves = _leader(matrix, job.job_no)
    row = slice(job.job_no, job.job_no + 1)
    tokens = await predictions.load_completion_tokens(conn, batch.id, job.job_no)
    own = estimate([job], batch.pool, matrix.quality[row], tokens[None, :], experience)
    chosen = batch.pool.index(history.decisions[-1].model) if history.decisions else -1
    told = explain(
        pose_problem(batch, matrix, experience, datetime.now(UTC)),
        leader,
        chosen,
        float(plan["shadow_price_per_usd"]),
        batch.pool.names,
        own.reasons[0],
    )
    return JobExplanation(
        job=job,
        explanation=told,
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


def _leader(matrix: BatchMatrix, job_no: int) -> tuple[int, int]:
    """Return whose call answers a job, and how many jobs it answers."""
    if matrix.twins is None or matrix.weight is None:
        return job_no, 1
    leader = int(matrix.twins.leader[job_no])
    return leader, int(matrix.weight[leader])

"""A whole batch as arrays: what the selector needs to decide, and who it can't decide for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Float64
from psycopg import AsyncConnection

from routoo.domain.job import Job
from routoo.domain.prediction import Predictions
from routoo.pipeline.estimates import Estimates, estimate
from routoo.selector.limits import Reason
from routoo.store import jobs, predictions
from routoo.store.batches import BatchRecord

_SLICE_JOBS = 5000
"""Bodies held in memory at once; the arrays alone grow with the batch."""


@dataclass(frozen=True, slots=True)
class BatchMatrix:
    """Jobs x candidate models in pool order, for a whole batch."""

    quality: Float32[np.ndarray, "jobs models"]
    cost_usd: Float64[np.ndarray, "jobs models"]
    """Expected cost of one call."""
    allowed: Bool[np.ndarray, "jobs models"]
    misfits: dict[int, str] = field(default_factory=dict)
    """Why a job, by job_no, has no eligible model."""


async def load_matrix(conn: AsyncConnection, batch: BatchRecord) -> BatchMatrix:
    """Read a scored batch as arrays.

    Args:
        conn: A connection.
        batch: The batch, every job scored.

    Returns:
        The arrays; about 13 bytes a job and candidate model stay in memory.
    """
    predicted = await predictions.load_batch(conn, batch.id)
    shape = predicted.quality.shape
    matrix = BatchMatrix(predicted.quality, np.zeros(shape), np.zeros(shape, np.bool_))
    for first in range(0, batch.job_count, _SLICE_JOBS):
        slice_ = await jobs.load_slice(conn, batch.id, first, _SLICE_JOBS)
        _fill(matrix, batch, predicted, slice_)
    return matrix


def _fill(
    matrix: BatchMatrix, batch: BatchRecord, predicted: Predictions, slice_: Sequence[Job]
) -> None:
    rows = slice(slice_[0].job_no, slice_[-1].job_no + 1)
    quality, tokens = predicted.quality[rows], predicted.completion_tokens[rows]
    estimates = estimate(slice_, batch.pool, quality, tokens)
    matrix.cost_usd[rows] = estimates.cost_usd
    matrix.allowed[rows] = estimates.allowed
    matrix.misfits.update(_misfits(slice_, estimates, quality))


def _misfits(
    slice_: Sequence[Job], estimates: Estimates, quality: Float32[np.ndarray, "jobs models"]
) -> Iterator[tuple[int, str]]:
    for row in np.flatnonzero(~estimates.allowed.any(axis=1)).tolist():
        job = slice_[row]
        yield job.job_no, _reason(job, row, estimates, quality[row])


def _reason(
    job: Job, row: int, estimates: Estimates, quality: Float32[np.ndarray, " models"]
) -> str:
    """Name the limit that leaves no model when the limits are applied in turn."""
    pin = job.body.get("model")
    whom = "no candidate model" if pin is None else f"the model {pin}, which the request names,"
    reasons = estimates.reasons[row]
    left = (reasons & (Reason.DENIED | Reason.WINDOW)) == 0
    if not left.any():
        return f"{whom} fits: prompt and completion limit exceed the context window"
    best = float(quality[left].max())
    left &= (reasons & Reason.QUALITY) == 0
    if not left.any():
        floor = job.sla.min_quality
        return f"{whom} fits: min_quality is {floor:g}, the best predicted is {best:.3f}"
    cap_usd = job.sla.max_cost_usd
    return f"{whom} fits: the worst-case cost of a call exceeds max_cost_usd {cap_usd}"

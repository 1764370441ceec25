"""A whole batch as arrays: what the selector needs to decide, and who it can't decide for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, Job
from routoo.domain.prediction import Experience
from routoo.pipeline.select.bounds import Bounds
from routoo.pipeline.select.capacity import Demand
from routoo.pipeline.select.dedupe import Digests, Twins
from routoo.pipeline.select.estimates import NOTHING_KNOWN, Estimates, estimate
from routoo.pipeline.select.misfit import describe_misfit
from routoo.store import jobs, predictions
from routoo.store.batches import BatchRecord

_SLICE_JOBS = 5000
"""Bodies held in memory at once; the arrays alone grow with the batch."""


@dataclass(frozen=True, slots=True)
class BatchMatrix:
    """Jobs x candidate models in pool order, for a whole batch."""

    quality: Float32[np.ndarray, "jobs models"]
    quality_std: Float32[np.ndarray, "jobs models"]
    """Of the estimate itself."""
    cost_usd: Float64[np.ndarray, "jobs models"]
    """Expected cost of one call."""
    allowed: Bool[np.ndarray, "jobs models"]
    misfits: dict[int, str] = field(default_factory=dict)
    """Why a job, by job_no, has no eligible model."""
    demand: Demand | None = None
    """What each call takes of its endpoint; None where nobody asks for it."""
    bounds: Bounds | None = None
    """What bounds each call's cost; None where nobody asks for it."""
    weight: Float32[np.ndarray, " jobs"] | None = None
    """Jobs that an answer serves, 0 where an identical job's answer is shared; None = 1 each."""
    twins: Twins | None = None
    """Identical jobs of the whole batch; None where each is called for itself."""

    def rows(self, jobs: Int[np.ndarray, " some"]) -> "BatchMatrix":
        """Return some jobs, in the order given; `misfits` keep their numbers in the batch."""
        demand = self.demand
        return replace(
            self,
            quality=self.quality[jobs],
            quality_std=self.quality_std[jobs],
            cost_usd=self.cost_usd[jobs],
            allowed=self.allowed[jobs],
            demand=demand and Demand(demand.tokens[jobs], demand.latency_s[jobs]),
            weight=None if self.weight is None else self.weight[jobs],
            twins=None,
        )

    def share(self, twins: Twins) -> "BatchMatrix":
        """Return the batch with identical jobs called once: followers cost and take nothing."""
        follows = twins.weight == 0
        self.cost_usd[follows] = 0
        if self.demand is not None:
            self.demand.tokens[follows] = 0
            self.demand.latency_s[follows] = 0
        return replace(self, weight=twins.weight, twins=twins)


async def load_matrix(
    conn: AsyncConnection, batch: BatchRecord, experience: Experience = NOTHING_KNOWN
) -> BatchMatrix:
    """Read a scored batch as arrays.

    Args:
        conn: A connection.
        batch: The batch, every job scored.
        experience: What calls have taught.

    Returns:
        The arrays; about 17 bytes a job and candidate model stay in memory, 8 more where the
        batch has a deadline or is a draft, for a draft 32 a job, and 24 a job to find identical
        requests.
    """
    predicted = await predictions.load_batch(conn, batch.id)
    shape = predicted.quality.shape
    demand, is_draft = None, batch.status is BatchStatus.PLANNING
    if batch.deadline is not None or is_draft:
        demand = Demand(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    matrix = BatchMatrix(
        predicted.quality,
        predicted.quality_std,
        np.zeros(shape),
        np.zeros(shape, np.bool_),
        demand=demand,
        bounds=Bounds.empty(shape[0]) if is_draft else None,
    )
    digests = Digests(shape[0]) if batch.call_options.dedupe else None
    for first in range(0, batch.job_count, _SLICE_JOBS):
        slice_ = await jobs.load_slice(conn, batch.id, first, _SLICE_JOBS)
        rows = slice(first, first + len(slice_))
        quality, tokens = predicted.quality[rows], predicted.completion_tokens[rows]
        estimates = estimate(slice_, batch.pool, quality, tokens, experience)
        _fill(matrix, rows, slice_, estimates)
        if digests is not None:
            digests.fill(rows, slice_)
    return matrix if digests is None else matrix.share(digests.twins())


def _fill(matrix: BatchMatrix, rows: slice, slice_: Sequence[Job], estimates: Estimates) -> None:
    matrix.cost_usd[rows] = estimates.cost_usd
    matrix.allowed[rows] = estimates.allowed
    if matrix.demand is not None:
        matrix.demand.tokens[rows] = estimates.tokens
        matrix.demand.latency_s[rows] = estimates.latency_s
    if matrix.bounds is not None:
        matrix.bounds.fill(rows, slice_)
    matrix.misfits.update(_misfits(slice_, estimates))


def _misfits(slice_: Sequence[Job], estimates: Estimates) -> Iterator[tuple[int, str]]:
    for row in np.flatnonzero(~estimates.allowed.any(axis=1)).tolist():
        job, quality = slice_[row], estimates.sure_quality[row]
        why = describe_misfit(job, estimates.reasons[row], quality, estimates.latency_s[row])
        yield job.job_no, why

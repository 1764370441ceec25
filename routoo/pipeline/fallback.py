"""Whom to ask when the chosen model fails: the next-best within the job's limits."""

from collections.abc import Sequence

import numpy as np

from routoo.domain.job import PendingJob
from routoo.domain.pool import CandidateModel
from routoo.pipeline.estimates import estimate
from routoo.store.batches import BatchRecord


def rank_candidates(
    batch: BatchRecord, pending: Sequence[PendingJob]
) -> list[list[CandidateModel]]:
    """Order each job's candidates: the chosen model, then the others by value for money.

    Value is predicted quality less expected cost at the batch's shadow price, the same trade that
    the selector made, so that a fallback spends no more eagerly than the plan did.

    Args:
        batch: The batch, its plan included.
        pending: Jobs of one shard.

    Returns:
        For each job, models to ask in turn; those that its limits rule out are left out.
    """
    if not pending:
        return []
    models = batch.pool.models
    quality = np.array([job.quality for job in pending], np.float32)
    tokens = np.array([job.completion_tokens for job in pending], np.float32)
    estimates = estimate([job.job for job in pending], batch.pool, quality, tokens)
    price = float((batch.plan or {}).get("shadow_price_per_usd") or 0.0)
    value = np.where(estimates.allowed, quality - price * estimates.cost_usd, -np.inf)
    chosen = np.array([batch.pool.index(job.model) for job in pending])
    value[np.arange(len(pending)), chosen] = np.inf
    order = np.argsort(-value, axis=1, kind="stable")
    return [
        [models[column] for column in row if values[column] > -np.inf]
        for row, values in zip(order, value, strict=True)
    ]

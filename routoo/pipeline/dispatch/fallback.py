"""Whom to ask when the chosen model fails: the next-best within the job's limits."""

from collections.abc import Sequence

import numpy as np

from routoo.domain.job import PendingJob
from routoo.domain.pool import CandidateModel
from routoo.domain.prediction import experience_from_json
from routoo.pipeline.select.estimates import estimate
from routoo.pipeline.select.failures import answered_shares
from routoo.store.batches import BatchRecord


def rank_candidates(
    batch: BatchRecord, pending: Sequence[PendingJob]
) -> list[list[CandidateModel]]:
    """Order each job's candidates: the chosen model, then the others by value for money.

    Value is predicted quality, as far as the model answers, less expected cost at the batch's
    shadow price, the same trade that the selector made, so that a fallback spends no more eagerly
    than the plan did.

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
    plan = batch.plan or {}
    experience = experience_from_json(plan.get("experience"))
    estimates = estimate([job.job for job in pending], batch.pool, quality, tokens, experience)
    price = float(plan.get("shadow_price_per_usd") or 0.0)
    if batch.objective.willingness_to_pay_usd is not None:
        price = max(price, 1.0 / batch.objective.willingness_to_pay_usd)
    worth = quality * answered_shares(batch.pool, experience)
    value = np.where(estimates.allowed, worth - price * estimates.cost_usd, -np.inf)
    column_of = {name: column for column, name in enumerate(batch.pool.names)}
    chosen = np.array([column_of[job.model] for job in pending])
    value[np.arange(len(pending)), chosen] = np.inf
    channels = [model.is_batch_channel for model in models]
    value[:, channels] = -np.inf  # they take batches, not calls: provider_channel sends those
    order = np.argsort(-value, axis=1, kind="stable").tolist()
    counts = np.count_nonzero(value > -np.inf, axis=1).tolist()
    return [
        [models[column] for column in row[:count]] for row, count in zip(order, counts, strict=True)
    ]

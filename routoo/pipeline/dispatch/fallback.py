"""Decides which models to ask when the chosen one fails, and which refusals end a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int

from routoo.domain.batch_options import OnContentFilter
from routoo.domain.job import PendingJob
from routoo.domain.pool import CandidateModel
from routoo.domain.prediction import experience_from_json
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.estimates import (
    CallEstimates,
    estimate_calls,
    last_resorts,
    reservations_usd,
)
from routoo.pipeline.select.experience import answered_shares
from routoo.store.batches.records import BatchRecord


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be asked for a job, and what is expected of it."""

    model: CandidateModel
    expected_quality: float | None = None
    """Predicted, in [0, 1]."""
    expected_cost_usd: Decimal | None = None
    """Of one call."""
    limit_tokens: int | None = None
    """Limit of its answers that is set first; None leaves that to the request and the pool."""
    most_tokens: int | None = None
    """Limit with which an answer that reached the first one is asked again; None where it stays."""
    fallback_usd: Decimal | None = None
    """What the budget keeps for a call to it; None for all but the job's cheapest, its last
    resort."""


def rank_candidates(batch: BatchRecord, pending: Sequence[PendingJob]) -> list[list[Candidate]]:
    """Order each job's candidates: the chosen model, then the others by value for money.

    Value is predicted quality, times the share of jobs that the model answers, less expected cost
    times the batch's shadow price. The selector makes the same trade, so that fallbacks spend no
    more for quality than the plan does.

    Args:
        batch: The batch, its plan included.
        pending: Jobs of one shard.

    Returns:
        For each job the models to ask in turn, without those that its limits rule out.
    """
    if not pending:
        return []
    quality = np.array([job.quality for job in pending], np.float32)
    tokens = np.array([job.completion_tokens for job in pending], np.float32)
    plan = batch.plan or {}
    experience = experience_from_json(plan.get("experience"))
    requests = RequestFacts.of([job.job for job in pending])
    estimates = estimate_calls(
        requests,
        batch.pool,
        quality,
        tokens,
        experience,
        batch.call_options.max_completion_tokens,
    )
    price = quality_per_usd(batch, plan)
    answered = quality * answered_shares(batch.pool, experience)
    value = np.where(estimates.allowed, answered - price * estimates.cost_usd, -np.inf)
    column_of = {name: column for column, name in enumerate(batch.pool.names)}
    chosen = np.array([column_of[job.model] for job in pending])
    value[np.arange(len(pending)), chosen] = np.inf
    channels = [model.is_batch_channel for model in batch.pool.models]
    value[:, channels] = -np.inf  # provider_batch sends their jobs: they take no single calls
    raises = batch.call_options.max_completion_tokens is None
    last = _last_resorts(batch, requests, estimates, chosen)
    return _by_value(value, _Expected(batch.pool.models, quality, estimates, raises, last))


def fallback_money(
    batch: BatchRecord, pending: Sequence[PendingJob], ranked: Sequence[Sequence[Candidate]]
) -> dict[int, Decimal] | None:
    """Return what the budget keeps for the cheapest call of each job, in USD by its number.

    Args:
        batch: The batch.
        pending: Jobs of one shard.
        ranked: Their candidates, by `rank_candidates`.

    Returns:
        None where nothing is kept: there is no budget, or no choice.
    """
    if batch.budget_usd is None or len(batch.pool.models) == 1:
        return None
    return {
        job.job.job_no: one.fallback_usd
        for job, candidates in zip(pending, ranked, strict=True)
        for one in candidates
        if one.fallback_usd is not None
    }


def _last_resorts(
    batch: BatchRecord,
    requests: RequestFacts,
    estimates: CallEstimates,
    chosen: Int[np.ndarray, " jobs"],
) -> list[tuple[int, Decimal]]:
    """Return the column of each job's cheapest model, and what the budget keeps for its call."""
    plan = batch.plan or {}
    reserve_usd = reservations_usd(requests, batch.pool, estimates.limit_tokens)
    found = last_resorts(requests, batch, estimates, reserve_usd)
    expected_usd = estimates.cost_usd[np.arange(len(requests)), chosen]
    kept_usd = found.kept_usd(chosen, expected_usd, float(plan.get("spare_usd_per_job", 0.0)))
    amounts = [Decimal(f"{usd:.12f}") for usd in kept_usd.tolist()]
    return list(zip(found.column.tolist(), amounts, strict=True))


def final_filters(batch: BatchRecord) -> frozenset[str]:
    """Return the names of the models after whose content filter no other model is asked.

    The batch's option counts for all models; where it has none, the pool's option for each model.
    """
    own = batch.call_options.on_content_filter
    return frozenset(
        model.name
        for model in batch.pool.models
        if (own or model.on_content_filter) is OnContentFilter.FAIL
    )


def quality_per_usd(batch: BatchRecord, plan: Mapping[str, Any]) -> float:
    """Return how much quality a dollar must buy, by the plan or by the batch's owner."""
    price = float(plan.get("shadow_price_per_usd") or 0.0)
    if batch.objective.willingness_to_pay_usd is not None:
        price = max(price, 1.0 / batch.objective.willingness_to_pay_usd)
    return price


@dataclass(frozen=True, slots=True)
class _Expected:
    """What is expected of each model for each job, models in pool order."""

    models: Sequence[CandidateModel]
    quality: Float32[np.ndarray, "jobs models"]
    calls: CallEstimates
    raises_limit: bool
    """Whether limits that the requests don't name are raised for answers that reach them."""
    last: Sequence[tuple[int, Decimal]]
    """The column of each job's cheapest model, and what the budget keeps for its call."""

    def candidate(self, row: int, column: int) -> Candidate:
        """Return a model as a candidate for a job."""
        model, limit_tokens, most_tokens = self.models[column], None, None
        if not self.calls.has_own_limit[row]:
            limit_tokens = int(self.calls.limit_tokens[row, column])
            if self.raises_limit and limit_tokens < model.max_completion_tokens:
                most_tokens = model.max_completion_tokens
        cheapest, kept_usd = self.last[row]
        return Candidate(
            model,
            float(self.quality[row, column]),
            Decimal(f"{self.calls.cost_usd[row, column]:.12f}"),
            limit_tokens,
            most_tokens,
            kept_usd if column == cheapest else None,
        )


def _by_value(
    value: Float64[np.ndarray, "jobs models"], expected: _Expected
) -> list[list[Candidate]]:
    """Return each job's models by falling value, without those of value -inf."""
    order = np.argsort(-value, axis=1, kind="stable").tolist()
    counts = np.count_nonzero(value > -np.inf, axis=1).tolist()
    return [
        [expected.candidate(row, column) for column in columns[:count]]
        for row, (columns, count) in enumerate(zip(order, counts, strict=True))
    ]

"""Learns from recent calls how estimates must be corrected, and from a batch's failed ones.

Calls to a model teach how many tokens are billed for one that was estimated, and how long a call
takes. A batch's own calls teach its re-plans how often a model fails: a first plan assumes no
failures, and each revision learns from the calls since the last one only, so that no failure counts
twice.

Latency is fitted as base + slope x completion tokens by medians of pairwise slopes, which stay
right if a third of the measurements are outliers. Source: Sen, Estimates of the regression
coefficient based on Kendall's tau, JASA 63 (1968); Theil (1950).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Float32, Float64
from psycopg import AsyncConnection

from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prediction import (
    NO_EXPERIENCE,
    Experience,
    ModelExperience,
    experience_from_json,
)
from routoo.domain.prompt import estimate_prompt_tokens, requested_completion_tokens
from routoo.errors import StoreError
from routoo.store import predictions
from routoo.store.batches import BatchRecord, replans
from routoo.store.model_calls import MeasuredCall, ModelCalls, calls_since, recent_calls

RECENT_CALLS = 200
"""Number of calls read for each model: enough for medians, few enough to follow a change."""
MIN_CALLS = 20
"""Fewer calls measure no latency. Also the weight of what was assumed of failures and of billed
prompt tokens before, in calls."""
LENGTH_WEIGHT = 2
"""Weight of the predicted length of answers, in calls. Of prompts like those that a predictor was
trained on it predicts lengths well, of others by a factor of 1.5 and for models that nobody has
graded by one of e or more off: `benchmarks/length_correction.py` measures what each weight costs.
"""
_FACTORS = (0.1, 10.0)
"""Bounds of a correction; what is beyond them is taken for an error of measurement."""
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


async def load_experience(
    conn: AsyncConnection,
    pool: Pool,
    prompt_factors: Sequence[float] | None = None,
    at: datetime | None = None,
) -> dict[str, ModelExperience]:
    """Return what is known of each candidate model now.

    Args:
        conn: A transaction.
        pool: The candidates.
        prompt_factors: What stands for calls that were not made yet, in pool order.
        at: When the batch was made that this is for; None for now.
    """
    factors = [1.0] * len(pool.models) if prompt_factors is None else prompt_factors
    return {
        model.name: fit_experience(
            model, await recent_calls(conn, model, RECENT_CALLS, at), prompt_factor=factor
        )
        for model, factor in zip(pool.models, factors, strict=True)
    }


async def batch_experience(conn: AsyncConnection, batch: BatchRecord) -> dict[str, ModelExperience]:
    """Return what is known of a batch's candidates now, with the margins of its quality floors.

    Raises:
        StoreError: The margins of its floors are missing.
    """
    factors = await predictions.load_prompt_factors(conn, batch.id)
    known = await load_experience(conn, batch.pool, factors, batch.created_at)
    if batch.objective.floor_confidence is None:
        return known
    margins = await predictions.load_margins(conn, batch.id)
    if margins is None:
        raise StoreError("a batch with floor_confidence has no margins", value=str(batch.id))
    return {
        name: replace(known[name], quality_margin=margin)
        for name, margin in zip(batch.pool.names, margins, strict=True)
    }


def fit_experience(
    model: CandidateModel, calls: Sequence[MeasuredCall], *, prompt_factor: float = 1.0
) -> ModelExperience:
    """Learn from calls to one model.

    Args:
        model: The candidate; the latency that its endpoint declares stands in for few calls.
        calls: Measured calls.
        prompt_factor: Prompt tokens billed for one estimated, by what the predictor was trained on.

    Returns:
        Factors drawn to what was known before where calls are few, and the latency, None where it
        isn't known. Lengths that another checkpoint predicted correct nothing.
    """
    known = _with_latency(ModelExperience(prompt_factor=prompt_factor), model, calls)
    if not calls:
        return known
    predicted = [call for call in calls if call.same_checkpoint]
    return replace(
        known,
        calls=len(calls),
        prompt_factor=correction(
            [call.prompt_tokens for call in calls],
            [estimate_prompt_tokens(call.body, model) for call in calls],
            weight=MIN_CALLS,
            before=prompt_factor,
        ),
        completion_factor=correction(
            [call.completion_tokens for call in predicted],
            [estimated_completion_tokens(model, call) for call in predicted],
            weight=LENGTH_WEIGHT,
        ),
    )


def _with_latency(
    known: ModelExperience, model: CandidateModel, calls: Sequence[MeasuredCall]
) -> ModelExperience:
    """Add the latency: of the calls where they are enough, else as the endpoint declares it."""
    declared = model.endpoint.expected_latency
    if declared is not None:
        base_s, slope_s = declared.base_s, declared.per_completion_token_s
        known = replace(known, base_s=base_s, per_completion_token_s=slope_s)
    if len(calls) < MIN_CALLS:
        return known
    tokens = np.array([call.completion_tokens for call in calls], np.float64)
    latency_s = np.array([call.latency_s for call in calls], np.float64)
    base_s, slope_s = fit_line(tokens, latency_s)
    typical_s = float((base_s + slope_s * tokens).mean())
    return replace(
        known,
        base_s=base_s,
        per_completion_token_s=slope_s,
        tail_factor=max(1.0, float(latency_s.mean()) / typical_s) if typical_s > 0 else 1.0,
        latency_p95_s=float(np.quantile(latency_s, 0.95)),
    )


def fit_line(
    tokens: Float64[np.ndarray, " calls"], latency_s: Float64[np.ndarray, " calls"]
) -> tuple[float, float]:
    """Return base and slope, both at least 0, of latency over completion tokens."""
    first, second = np.triu_indices(len(tokens), 1)
    run = tokens[second] - tokens[first]
    apart = run != 0
    slope_s = 0.0
    if apart.any():
        rise = latency_s[second] - latency_s[first]
        slope_s = max(0.0, float(np.median(rise[apart] / run[apart])))
    return max(0.0, float(np.median(latency_s - slope_s * tokens))), slope_s


def estimated_completion_tokens(
    model: CandidateModel, call: MeasuredCall, factor: float = 1.0
) -> float:
    """Return the completion tokens that an estimate with this correction counted on."""
    limit = requested_completion_tokens(call.body)
    most = model.max_completion_tokens if limit is None else limit
    return min(min(max(call.predicted_completion_tokens, 1.0), most) * factor, most)


def correction(
    billed: Sequence[float], estimated: Sequence[float], *, weight: float, before: float = 1.0
) -> float:
    """Return by what estimated tokens are to be multiplied, after some calls.

    Args:
        billed: Tokens of each call.
        estimated: What was estimated of them.
        weight: How many average calls the correction before counts for.
        before: That correction.
    """
    if not billed:
        return before
    prior = weight * sum(estimated) / len(estimated)
    ratio = (sum(billed) + before * prior) / (sum(estimated) + prior)
    return min(max(ratio, _FACTORS[0]), _FACTORS[1])


async def load_model_calls(conn: AsyncConnection, batch: BatchRecord) -> dict[str, ModelCalls]:
    """Return how calls to each candidate went since the batch's plan was made.

    Candidates that the plan takes for down are left out, since it plans no calls to them.
    """
    decided = [past.decided_at for past in await replans.history(conn, batch.id) if past.decided_at]
    since = max(decided, default=_BEFORE_ALL)
    down = _down(batch)
    counted_on = [name for name in batch.pool.names if name not in down]
    return {name: await calls_since(conn, batch.id, name, since) for name in counted_on}


def planned_experience(batch: BatchRecord) -> dict[str, ModelExperience]:
    """Return the experience that the batch's plan was made with.

    A model that the plan takes for down has no experience: it is tried again as if it were new.
    """
    known = experience_from_json((batch.plan or {}).get("experience"))
    down = _down(batch)
    return {name: NO_EXPERIENCE if name in down else model for name, model in known.items()}


def _down(batch: BatchRecord) -> set[str]:
    return set((batch.plan or {}).get("down") or ())


def learn_failures(
    known: ModelExperience, planned: ModelExperience, calls: ModelCalls
) -> ModelExperience:
    """Return experience with the failures that are to be expected from now on.

    Args:
        known: What is known from all recent calls.
        planned: What the present plan assumes; it weighs as much as MIN_CALLS calls.
        calls: The calls since that plan.
    """
    jobs = calls.jobs + MIN_CALLS
    return replace(
        known,
        failure_share=(
            (calls.failed + planned.failure_share * MIN_CALLS) / (calls.calls + MIN_CALLS)
        ),
        unanswered_share=(calls.unanswered + planned.unanswered_share * MIN_CALLS) / jobs,
        failed_usd=(calls.failed_usd + planned.failed_usd * MIN_CALLS) / jobs,
    )


def answered_shares(pool: Pool, experience: Experience) -> Float32[np.ndarray, " models"]:
    """Return the share of jobs that each candidate is expected to answer after all retries."""
    known = [experience.get(name, NO_EXPERIENCE) for name in pool.names]
    return np.array([1.0 - model.unanswered_share for model in known], np.float32)

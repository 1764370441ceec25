"""Learns from the last calls: tokens billed for one estimated, and how long a call takes.

Latency is fitted as base + slope x completion tokens by medians of pairwise slopes, which a third
of wild measurements can't bend. Source: Sen, Estimates of the regression coefficient based on
Kendall's tau, JASA 63 (1968); Theil (1950).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from psycopg import AsyncConnection

from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prediction import NO_EXPERIENCE, ModelExperience
from routoo.domain.prompt import estimate_prompt_tokens, requested_completion_tokens
from routoo.errors import StoreError
from routoo.store import predictions
from routoo.store.batches import BatchRecord
from routoo.store.model_calls import MeasuredCall, recent_calls

RECENT_CALLS = 200
"""Calls looked at for each model: enough for medians, few enough to follow a change."""
MIN_CALLS = 20
"""Fewer measure no latency, and weigh no more than this many calls that went as estimated."""
_FACTORS = (0.1, 10.0)
"""A correction beyond this is a fault of the measurement."""


async def load_experience(conn: AsyncConnection, pool: Pool) -> dict[str, ModelExperience]:
    """Return what is known of each candidate model now."""
    return {
        model.name: fit_experience(model, await recent_calls(conn, model, RECENT_CALLS))
        for model in pool.models
    }


async def batch_experience(conn: AsyncConnection, batch: BatchRecord) -> dict[str, ModelExperience]:
    """Return what is known of a batch's candidates now, with the margins of its quality floors.

    Raises:
        StoreError: Its floors need margins, and none were scored.
    """
    known = await load_experience(conn, batch.pool)
    if batch.objective.floor_confidence is None:
        return known
    margins = await predictions.load_margins(conn, batch.id)
    if margins is None:
        raise StoreError("a batch with floor_confidence has no margins", value=str(batch.id))
    return {
        name: replace(known[name], quality_margin=margin)
        for name, margin in zip(batch.pool.names, margins, strict=True)
    }


def fit_experience(model: CandidateModel, calls: Sequence[MeasuredCall]) -> ModelExperience:
    """Learn from calls to one model.

    Args:
        model: The candidate; the latency that its endpoint declares stands in for few calls.
        calls: Measured calls.

    Returns:
        Factors drawn to 1 where calls are few, and the latency, None where it isn't known.
    """
    declared = model.endpoint.expected_latency
    base_s, slope_s = NO_EXPERIENCE.base_s, NO_EXPERIENCE.per_completion_token_s
    if declared is not None:
        base_s, slope_s = declared.base_s, declared.per_completion_token_s
    if not calls:
        return ModelExperience(base_s=base_s, per_completion_token_s=slope_s)
    tokens = np.array([call.completion_tokens for call in calls], np.float64)
    latency_s = np.array([call.latency_s for call in calls], np.float64)
    tail_factor, p95_s = NO_EXPERIENCE.tail_factor, None
    if len(calls) >= MIN_CALLS:
        base_s, slope_s = fit_line(tokens, latency_s)
        typical_s = float((base_s + slope_s * tokens).mean())
        tail_factor = max(1.0, float(latency_s.mean()) / typical_s) if typical_s > 0 else 1.0
        p95_s = float(np.quantile(latency_s, 0.95))
    return ModelExperience(
        calls=len(calls),
        prompt_factor=_factor(
            [call.prompt_tokens for call in calls],
            [estimate_prompt_tokens(call.body, model) for call in calls],
        ),
        completion_factor=_factor(
            tokens.tolist(), [foreseen_completion_tokens(model, call) for call in calls]
        ),
        base_s=base_s,
        per_completion_token_s=slope_s,
        tail_factor=tail_factor,
        latency_p95_s=p95_s,
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


def foreseen_completion_tokens(
    model: CandidateModel, call: MeasuredCall, factor: float = 1.0
) -> float:
    """Return the completion tokens that an estimate with this correction counted on."""
    limit = requested_completion_tokens(call.body)
    most = model.max_completion_tokens if limit is None else limit
    return min(min(max(call.predicted_completion_tokens, 1.0), most) * factor, most)


def _factor(billed: Sequence[float], foreseen: Sequence[float]) -> float:
    """Return billed over foreseen, as if MIN_CALLS more average calls had gone as foreseen."""
    doubt = MIN_CALLS * sum(foreseen) / len(foreseen)
    ratio = (sum(billed) + doubt) / (sum(foreseen) + doubt)
    return min(max(ratio, _FACTORS[0]), _FACTORS[1])

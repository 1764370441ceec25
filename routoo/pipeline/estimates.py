"""What each candidate model would cost for each job, and which may answer it.

The select stage uses it for the whole batch, the dispatch stage to order a job's fallbacks: both
must agree on who is eligible.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from routoo.domain.job import Job
from routoo.domain.pool import TOKENS_PER_MTOK, Pool
from routoo.domain.prompt import (
    bound_completion_tokens,
    bound_prompt_tokens,
    estimate_prompt_tokens,
    requested_completion_tokens,
)
from routoo.selector import limits


@dataclass(frozen=True, slots=True)
class Estimates:
    """Expected cost and eligibility, models in pool order."""

    cost_usd: Float64[np.ndarray, "jobs models"]
    """Expected, not worst-case, cost of one call."""
    reasons: UInt8[np.ndarray, "jobs models"]
    """Why a model may not answer, as flags of `selector.limits.Reason`; 0 where it may."""

    @property
    def allowed(self) -> Bool[np.ndarray, "jobs models"]:
        """Models that meet every limit of the job."""
        return np.asarray(self.reasons == 0)


def estimate(
    jobs: Sequence[Job],
    pool: Pool,
    quality: Float32[np.ndarray, "jobs models"],
    completion_tokens: Float32[np.ndarray, "jobs models"],
) -> Estimates:
    """Estimate cost and eligibility of every candidate model for some jobs.

    Args:
        jobs: The jobs, in the order of the arrays' rows.
        pool: The candidate models and their prices.
        quality: Predicted quality, in [0, 1].
        completion_tokens: Predicted length of the answers, in tokens.

    Returns:
        Arrays of the predictions' shape.
    """
    prompt = np.array([estimate_prompt_tokens(job.body) for job in jobs], np.float64)[:, None]
    limit = _completion_limits(jobs, pool)
    completion = np.minimum(np.maximum(completion_tokens, 1.0), limit)
    prompt_price = _array(float(model.price_usd_per_mtok.prompt) for model in pool.models)
    completion_price = _array(float(model.price_usd_per_mtok.completion) for model in pool.models)
    pairs = limits.Estimates(
        quality,
        # A cap is a promise: it must hold for the worst case of a call.
        _worst_case_usd(jobs, pool),
        prompt_tokens=prompt[:, 0].astype(np.int64),
        completion_tokens=limit.astype(np.int64),
        window_tokens=np.array([model.context_window_tokens for model in pool.models]),
    )
    of_jobs = replace(
        limits.JobLimits.of([job.sla for job in jobs]), usable=_within_pin(jobs, pool)
    )
    return Estimates(
        cost_usd=(prompt * prompt_price + completion * completion_price) / float(TOKENS_PER_MTOK),
        reasons=limits.find_reasons(pairs, of_jobs),
    )


def _array(values: Iterable[float]) -> Float64[np.ndarray, " models"]:
    return np.fromiter(values, np.float64)


def _completion_limits(jobs: Sequence[Job], pool: Pool) -> Float64[np.ndarray, "jobs models"]:
    """Return the completion limit each call would be sent with, in tokens."""
    requested = [requested_completion_tokens(job.body) for job in jobs]
    own = np.array([np.nan if limit is None else limit for limit in requested], np.float64)
    default = _array(model.max_completion_tokens for model in pool.models)
    return np.where(np.isnan(own)[:, None], default, own[:, None])


def _within_pin(jobs: Sequence[Job], pool: Pool) -> Bool[np.ndarray, "jobs models"]:
    within = np.ones((len(jobs), len(pool.models)), np.bool_)
    for row, job in enumerate(jobs):
        pin = job.body.get("model")
        if pin is not None:
            within[row] = [name == pin for name in pool.names]
    return within


def _worst_case_usd(jobs: Sequence[Job], pool: Pool) -> Float64[np.ndarray, "jobs models"]:
    """Return the worst case of a call where the job has a cap to compare it with, 0 elsewhere."""
    worst = np.zeros((len(jobs), len(pool.models)))
    for row, job in enumerate(jobs):
        if job.sla.max_cost_usd is not None:
            prompt = bound_prompt_tokens(job.body)
            worst[row] = [
                float(model.cost_usd(prompt, bound_completion_tokens(job.body, model)))
                for model in pool.models
            ]
    return worst

"""Computes the mask of a batch: which models each job's limits admit, and why not the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from routoo.domain.job import SLA


class IneligibilityReason(IntFlag):
    """Why a model is ruled out for a job; several may hold."""

    NONE = 0
    QUALITY = 1
    """Its expected quality is below the job's floor."""
    COST = 2
    """Its cost is above the job's cap."""
    LATENCY = 4
    """Its expected latency is above the job's cap."""
    WINDOW = 8
    """Prompt and completion don't fit its context window."""
    DENIED = 16
    """It is not among the models that the job may use."""
    CAPABILITY = 32
    """It lacks something the request needs, such as tools or JSON mode."""


_PHRASES = {
    IneligibilityReason.QUALITY: "quality below the job's floor",
    IneligibilityReason.COST: "cost above the job's cap",
    IneligibilityReason.LATENCY: "latency above the job's cap",
    IneligibilityReason.WINDOW: "prompt and completion exceed the context window",
    IneligibilityReason.DENIED: "not among the models the job may use",
    IneligibilityReason.CAPABILITY: "lacks a capability the request needs",
}


@dataclass(frozen=True, slots=True)
class JobEstimates:
    """Estimates for every pair of job and model, and each model's context window."""

    quality: Float[np.ndarray, "jobs models"]
    cost_usd: Float[np.ndarray, "jobs models"]
    """In USD; the worst case where a cap must hold for certain."""
    latency_s: Float[np.ndarray, "jobs models"] | None = None
    prompt_tokens: Int[np.ndarray, "jobs models"] | None = None
    """Expected; models count a request's images differently."""
    completion_tokens: Int[np.ndarray, "jobs models"] | None = None
    """Limit of completion tokens that would be sent."""
    window_tokens: Int[np.ndarray, " models"] | None = None


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Limits of each job; NaN means none."""

    min_quality: Float[np.ndarray, " jobs"]
    max_cost_usd: Float[np.ndarray, " jobs"]
    max_latency_s: Float[np.ndarray, " jobs"]
    usable: Bool[np.ndarray, "jobs models"] | None = None
    """Pairs that allow and deny lists admit; None admits all."""
    capable: Bool[np.ndarray, "jobs models"] | None = None
    """Pairs whose model can do what the request needs; None if all can."""
    in_time: Bool[np.ndarray, "jobs models"] | None = None
    """Pairs whose model promises no time for its answer, or one within the job's limits."""

    @classmethod
    def of(cls, slas: Sequence[SLA]) -> "JobLimits":
        """Return the limits that jobs were submitted with."""
        rows = [(sla.min_quality, sla.max_cost_usd, sla.max_latency_s) for sla in slas]
        table = np.array(rows, np.float64).reshape(len(rows), 3)  # None becomes NaN
        return cls(table[:, 0], table[:, 1], table[:, 2])


def find_reasons(estimates: JobEstimates, limits: JobLimits) -> UInt8[np.ndarray, "jobs models"]:
    """Return for each pair the reasons against it; 0 where it is allowed.

    A limit that is exactly met holds. Comparisons are made in double precision.
    """
    reasons = np.zeros(estimates.quality.shape, dtype=np.uint8)
    # A comparison with NaN is false, so a limit that is not set rules nothing out.
    _rule_out(reasons, IneligibilityReason.QUALITY, estimates.quality < limits.min_quality[:, None])
    _rule_out(reasons, IneligibilityReason.COST, estimates.cost_usd > limits.max_cost_usd[:, None])
    if estimates.latency_s is not None:
        late = estimates.latency_s > limits.max_latency_s[:, None]
        _rule_out(reasons, IneligibilityReason.LATENCY, late)
    if limits.in_time is not None:
        _rule_out(reasons, IneligibilityReason.LATENCY, ~limits.in_time)
    prompt, completion = estimates.prompt_tokens, estimates.completion_tokens
    if not (prompt is None or completion is None or estimates.window_tokens is None):
        exceeds = prompt + completion > estimates.window_tokens
        _rule_out(reasons, IneligibilityReason.WINDOW, exceeds)
    if limits.usable is not None:
        _rule_out(reasons, IneligibilityReason.DENIED, ~limits.usable)
    if limits.capable is not None:
        _rule_out(reasons, IneligibilityReason.CAPABILITY, ~limits.capable)
    return reasons


def describe(reason: int) -> list[str]:
    """Return a phrase for each reason that a code holds."""
    return [words for flag, words in _PHRASES.items() if reason & flag]


def _rule_out(
    reasons: UInt8[np.ndarray, "jobs models"],
    reason: IneligibilityReason,
    against: Bool[np.ndarray, "jobs models"],
) -> None:
    np.bitwise_or(reasons, np.uint8(reason), out=reasons, where=against)

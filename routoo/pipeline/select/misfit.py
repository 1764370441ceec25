"""Why a job has no eligible model: the limit that leaves none when they are applied in turn."""

import numpy as np
from jaxtyping import Float, Float64, UInt8

from routoo.domain.job import Job
from routoo.domain.prompt import image_count, required_capabilities
from routoo.selector.job_limits import IneligibilityReason

_IN_TURN = (
    IneligibilityReason.DENIED,
    IneligibilityReason.CAPABILITY,
    IneligibilityReason.WINDOW,
    IneligibilityReason.QUALITY,
    IneligibilityReason.LATENCY,
    IneligibilityReason.COST,
)


def describe_misfit(
    job: Job,
    reasons: UInt8[np.ndarray, " models"],
    quality: Float[np.ndarray, " models"],
    latency_s: Float64[np.ndarray, " models"],
) -> str:
    """Return what to tell the owner of a job that no model may answer.

    Args:
        job: The job.
        reasons: Why each model is ruled out, as flags of `IneligibilityReason`; none is 0.
        quality: Predicted quality of each model, less what a floor's confidence takes off.
        latency_s: Typical wait for each model's answer; NaN where nothing is known.
    """
    pin = job.body.get("model")
    whom = "no candidate model" if pin is None else f"the model {pin}, which the request names,"
    left = np.ones(len(reasons), np.bool_)
    for reason in _IN_TURN:
        rest = left & ((reasons & reason) == 0)
        if not rest.any():
            return f"{whom} {_wanting(reason, job, quality[left], latency_s[left])}"
        left = rest
    raise AssertionError("a model is eligible, so there is no misfit to describe")


def _wanting(
    reason: IneligibilityReason,
    job: Job,
    quality: Float[np.ndarray, " left"],
    latency_s: Float64[np.ndarray, " left"],
) -> str:
    """Return what none of the models left has; a verb comes first."""
    sla = job.sla
    if reason is IneligibilityReason.DENIED:
        return "fits: allowed_models and denied_models leave none"
    if reason is IneligibilityReason.CAPABILITY:
        return _incapable(job)
    if reason is IneligibilityReason.WINDOW:
        return "fits: prompt and completion limit exceed the context window"
    if reason is IneligibilityReason.QUALITY:
        floor, best = sla.min_quality or 0.0, float(quality.max())
        less = ", less the margin of its confidence" if best >= floor else ""
        return f"fits: min_quality is {floor:g}, the best predicted is {best:.3f}{less}"
    if reason is IneligibilityReason.LATENCY:
        fastest_s = float(np.nanmin(latency_s))
        return (
            f"fits: max_latency_s is {sla.max_latency_s:g}, the fastest takes about {fastest_s:.1f}"
        )
    return f"fits: the worst-case cost of a call exceeds max_cost_usd {sla.max_cost_usd}"


def _incapable(job: Job) -> str:
    needed = sorted(required_capabilities(job.body))
    if not needed:
        return "takes images: set image_prompt_tokens in the pool for those that do"
    images = " and images" if image_count(job.body) else ""
    return f"is capable of {', '.join(needed)}{images}: see `capabilities` in the pool"

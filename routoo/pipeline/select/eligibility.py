"""Finds which models may answer a job, and why a job has no eligible model.

This module applies the limits that need no estimates: lists of models, capabilities, and the
windows of batch channels. `selector.job_limits` applies those that need them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

from routoo.domain.job import SLA
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prompt import PART_REMEDY
from routoo.pipeline.request_facts import RequestKind
from routoo.selector.job_limits import IneligibilityReason

_IN_ORDER = (
    IneligibilityReason.DENIED,
    IneligibilityReason.CAPABILITY,
    IneligibilityReason.WINDOW,
    IneligibilityReason.QUALITY,
    IneligibilityReason.LATENCY,
    IneligibilityReason.COST,
)


def usable(kinds: Sequence[RequestKind], pool: Pool) -> Bool[np.ndarray, "kinds models"]:
    """Return the pairs that the request's own `model` and the job's lists of models allow."""
    allowed = np.ones((len(kinds), len(pool.models)), np.bool_)
    for row, kind in enumerate(kinds):
        sla = kind.sla
        if kind.model is not None:
            allowed[row] &= [name == kind.model for name in pool.names]
        if sla.allowed_models is not None:
            allowed[row] &= [name in sla.allowed_models for name in pool.names]
        if sla.denied_models is not None:
            allowed[row] &= [name not in sla.denied_models for name in pool.names]
    return allowed


def capable(kinds: Sequence[RequestKind], pool: Pool) -> Bool[np.ndarray, "kinds models"]:
    """Return the pairs whose model has the capabilities that the request needs.

    A model that declares no capabilities is taken to have all. Of content parts beside text it
    takes only those of which the pool gives the most tokens.
    """
    able = np.ones((len(kinds), len(pool.models)), np.bool_)
    for row, kind in enumerate(kinds):
        if kind.parts:
            counts = kind.part_counts
            able[row] = [counts.keys() <= model.part_kinds for model in pool.models]
        if kind.capabilities:
            needed = set(kind.capabilities)
            able[row] &= [
                model.capabilities is None or needed <= model.capabilities for model in pool.models
            ]
    return able


def in_time(
    slas: Sequence[SLA], pool: Pool, now: datetime
) -> Bool[np.ndarray, "kinds models"] | None:
    """Return the pairs that the job has time for: only a batch channel may take too long.

    Args:
        slas: The jobs' limits.
        pool: The candidate models.
        now: The present instant.

    Returns:
        None where the pool has no batch channel.
    """
    channels = [column for column, model in enumerate(pool.models) if model.is_batch_channel]
    if not channels:
        return None
    waits = np.ones((len(slas), len(pool.models)), np.bool_)
    for row, sla in enumerate(slas):
        for column in channels:
            waits[row, column] = can_wait(sla, pool.models[column], now)
    return waits


def can_wait(sla: SLA, model: CandidateModel, now: datetime) -> bool:
    """Return whether a job can wait as long as the window of a model's batch channel."""
    if model.batch_channel is None:
        return True
    window = timedelta(hours=model.batch_channel.window_h)
    latency_s, deadline = sla.max_latency_s, sla.deadline
    return (latency_s is None or latency_s >= window.total_seconds()) and (
        deadline is None or now + window <= deadline
    )


def describe_ineligibility(
    kind: RequestKind,
    reasons: UInt8[np.ndarray, " models"],
    quality: Float[np.ndarray, " models"],
    latency_s: Float64[np.ndarray, " models"],
) -> str:
    """Return why no model may answer a job: the limit that rules out the last ones.

    The limits are applied one after the other.

    Args:
        kind: Of its request.
        reasons: Why each model is ruled out, as flags of `IneligibilityReason`; none is 0.
        quality: Predicted quality of each model, less the margin of a floor's confidence.
        latency_s: Typical wait for each model's answer; NaN where nothing is known.
    """
    left = np.ones(len(reasons), np.bool_)
    for reason in _IN_ORDER:
        rest = left & ((reasons & reason) == 0)
        if not rest.any():
            return f"{_subject(kind)} {_predicate(reason, kind, quality[left], latency_s[left])}"
        left = rest
    raise AssertionError("a model is eligible, so there is no reason to describe")


def _subject(kind: RequestKind) -> str:
    if kind.model is None:
        return "no candidate model"
    return f"the model {kind.model}, which the request names,"


def _predicate(
    reason: IneligibilityReason,
    kind: RequestKind,
    quality: Float[np.ndarray, " left"],
    latency_s: Float64[np.ndarray, " left"],
) -> str:
    """Return what none of the models left offers, as a predicate of the message."""
    sla = kind.sla
    if reason is IneligibilityReason.DENIED:
        return "fits: allowed_models and denied_models leave none"
    if reason is IneligibilityReason.CAPABILITY:
        return _missing_capability(kind)
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


def _missing_capability(kind: RequestKind) -> str:
    needed, kinds = kind.capabilities, sorted(kind.part_counts)
    if not needed:
        return f"takes {' and '.join(kinds)} parts: {PART_REMEDY}"
    parts = f" and takes {' and '.join(kinds)} parts" if kinds else ""
    return f"is capable of {', '.join(needed)}{parts}: see `capabilities` in the pool"

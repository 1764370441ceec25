"""What a batch's failed calls teach its next plan, and whether the present one allowed for them.

A plan assumes no failures before it has seen some. Each revision takes in the calls since the one
before, and only those: no failure is counted twice, and none asks for two plans.
"""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Float32
from psycopg import AsyncConnection

from routoo.domain.pool import Pool
from routoo.domain.prediction import (
    NO_EXPERIENCE,
    Experience,
    ModelExperience,
    experience_from_json,
)
from routoo.pipeline.select.experience import MIN_CALLS
from routoo.statistics import share_interval
from routoo.store.batches import BatchRecord, replans
from routoo.store.model_calls import ModelOutcomes, outcomes_since

_DEVIATIONS = 2.576
"""Of the normal distribution: one look in two hundred finds a share above what is sure."""
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


async def load_outcomes(conn: AsyncConnection, batch: BatchRecord) -> dict[str, ModelOutcomes]:
    """Return how calls to each candidate went that the batch's plan has not taken in yet.

    Candidates that the plan takes for down are left out: it counts on none of their answers.
    """
    decided = [past.decided_at for past in await replans.history(conn, batch.id) if past.decided_at]
    since = max(decided, default=_BEFORE_ALL)
    down = _down(batch)
    counted_on = [name for name in batch.pool.names if name not in down]
    return {name: await outcomes_since(conn, batch.id, name, since) for name in counted_on}


def failures_of(batch: BatchRecord) -> dict[str, ModelExperience]:
    """Return what the batch's plan assumes; nothing of endpoints that it took for down.

    Such an endpoint is worth another try some time, and then as one that nobody has called.
    """
    known = experience_from_json((batch.plan or {}).get("experience"))
    down = _down(batch)
    return {name: NO_EXPERIENCE if name in down else model for name, model in known.items()}


def _down(batch: BatchRecord) -> set[str]:
    return set((batch.plan or {}).get("down") or ())


def learn(
    known: ModelExperience, planned: ModelExperience, outcomes: ModelOutcomes
) -> ModelExperience:
    """Return experience with the failures that are to be expected.

    Args:
        known: What calls teach otherwise.
        planned: What the plan so far assumes of failures: it weighs as much as MIN_CALLS calls.
        outcomes: The calls since.
    """
    jobs = outcomes.jobs + MIN_CALLS
    return replace(
        known,
        failure_share=(
            (outcomes.failed + planned.failure_share * MIN_CALLS) / (outcomes.calls + MIN_CALLS)
        ),
        unanswered_share=(outcomes.unanswered + planned.unanswered_share * MIN_CALLS) / jobs,
        failed_usd=(outcomes.failed_usd + planned.failed_usd * MIN_CALLS) / jobs,
    )


def drift_reason(
    name: str, planned: ModelExperience, outcomes: ModelOutcomes, most: float
) -> str | None:
    """Return why a model's failures ask for another plan; None where they surely don't.

    Args:
        name: The model.
        planned: What the plan assumes.
        outcomes: The calls since it was made.
        most: Share by which the calls that an answer takes may miss the plan.
    """
    if outcomes.calls < MIN_CALLS:
        return None
    low, high = sure_shares(outcomes.failed, outcomes.calls)
    reached = 1.0 - planned.failure_share
    told = (
        f"{outcomes.failed} of {outcomes.calls} calls to {name} failed, "
        f"planned were {planned.failure_share:.0%}"
    )
    if reached > (1.0 + most) * (1.0 - low):
        return f"{told} and at least {low:.0%} are sure"
    if reached < (1.0 - most) * (1.0 - high):
        return f"{told} and at most {high:.0%} are sure"
    return None


def sure_shares(failed: int, calls: int) -> tuple[float, float]:
    """Return between which shares the true one lies almost surely."""
    return share_interval(failed / calls, calls, _DEVIATIONS)


def answered_shares(pool: Pool, experience: Experience) -> Float32[np.ndarray, " models"]:
    """Return which share of jobs each candidate is expected to answer, after all its retries."""
    known = [experience.get(name, NO_EXPERIENCE) for name in pool.names]
    return np.array([1.0 - model.unanswered_share for model in known], np.float32)

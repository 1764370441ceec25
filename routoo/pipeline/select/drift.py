"""Finds out whether a running batch drifts from its plan, and requests a re-plan then.

A batch drifts where calls cost or fail otherwise than planned, or a model takes no calls for longer
than jobs wait for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from routoo.domain.absence import Patience
from routoo.domain.batch_options import OnUnavailable
from routoo.domain.job import ShardKey, Stage
from routoo.domain.pool import CandidateModel
from routoo.domain.prediction import NO_EXPERIENCE, ModelExperience, experience_from_json
from routoo.domain.prompt import estimate_prompt_tokens
from routoo.errors import DatabaseUnavailableError, RoutooError
from routoo.pipeline.select.experience import (
    MIN_CALLS,
    RECENT_CALLS,
    estimated_completion_tokens,
    load_model_calls,
    planned_experience,
)
from routoo.statistics import share_interval
from routoo.store import batches
from routoo.store.batches import BatchRecord, replans
from routoo.store.batches.replans import Replan
from routoo.store.database import Database
from routoo.store.endpoints import absence
from routoo.store.model_calls import MeasuredCall, ModelCalls, is_down, recent_calls

_MOST_DOUBLINGS = 8
_DEVIATIONS = 2.576
"""Normal quantile of the interval of failures: 99 %, so that chance rarely causes a re-plan."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReplanOptions:
    """When a batch is planned again."""

    drift: float = 0.25
    """Share by which the cost of calls, or their number for an answer, may differ from the plan."""
    interval_s: float = 15.0
    """Least time between two plans of a batch, in seconds. If money or failures are the reason, it
    doubles with every revision, so that a drift that no plan corrects doesn't load the selector."""


@dataclass(frozen=True, slots=True)
class CostComparison:
    """The cost of some calls of a batch, beside the cost that its plan expected of them."""

    calls: int
    actual_usd: float
    expected_usd: float

    def drift(self) -> float:
        """Return the share by which the cost differs from the plan; 0 if there are few calls."""
        if self.calls < MIN_CALLS or self.expected_usd <= 0:
            return 0.0
        return self.actual_usd / self.expected_usd - 1.0

    def misses(self, most: float, *, keeps_savings: bool) -> bool:
        """Return whether the cost differs from the plan by more than a share.

        Args:
            most: The share.
            keeps_savings: The owner saw the plan and submitted it: then calls that cost less are no
                reason for another plan.
        """
        drift = self.drift()
        return drift > most or (drift < -most and not keeps_savings)


async def request_replans(db: Database, options: ReplanOptions) -> list[ShardKey]:
    """Request a re-plan of every running batch that drifts from its plan.

    Returns:
        The select shards that make the new plans.

    Raises:
        DatabaseUnavailableError: The database can't be reached.
    """
    async with db.transaction() as conn:
        running = await replans.running(conn)
    requested = []
    for batch_id in running:
        reason = await _checked(db, batch_id, options)
        if reason is not None:
            _log.info("batch.replanned", batch=str(batch_id), reason=reason)
            requested.append(ShardKey(batch_id, Stage.SELECT, 0))
    return requested


async def _checked(db: Database, batch_id: UUID, options: ReplanOptions) -> str | None:
    """Do `request_if_adrift`; a batch that can't be checked holds up no other one."""
    try:
        async with db.transaction() as conn:
            return await request_if_adrift(conn, batch_id, options)
    except DatabaseUnavailableError:
        raise
    except RoutooError as error:
        _log.error("batch.not_checked", batch=str(batch_id), error=str(error))
        return None


async def request_if_adrift(
    conn: AsyncConnection, batch_id: UUID, options: ReplanOptions
) -> str | None:
    """Request a re-plan of a running batch if it drifts from its plan.

    Args:
        conn: A transaction.
        batch_id: A batch that is selected and not yet answered.
        options: When a batch is planned again.

    Returns:
        Why a re-plan was requested; None where none was.
    """
    batch = await batches.get(conn, batch_id)
    past = await replans.history(conn, batch_id)
    if not await replans.is_settled(conn, batch_id, options.interval_s):
        return None
    reason = await _endpoint_reason(conn, batch)
    patience_s = options.interval_s * 2 ** min(len(past), _MOST_DOUBLINGS)
    if reason is None and await replans.is_settled(conn, batch_id, patience_s):
        reason = await _failure_reason(conn, batch, options.drift)
        reason = reason or await _cost_reason(conn, batch, past, options.drift)
    is_requested = reason is not None and await replans.request(conn, batch_id, reason)
    return reason if is_requested else None


async def _endpoint_reason(conn: AsyncConnection, batch: BatchRecord) -> str | None:
    known_down = set((batch.plan or {}).get("down") or ())
    for model in batch.pool.models:
        down, known = await is_left(conn, batch, model), model.name in known_down
        if down and not known:
            return f"the endpoint of {model.name} doesn't answer"
        if known and not down:
            return f"the endpoint of {model.name} is worth another try"
    return None


async def _failure_reason(conn: AsyncConnection, batch: BatchRecord, most: float) -> str | None:
    known = planned_experience(batch)
    for name, calls in (await load_model_calls(conn, batch)).items():
        reason = failure_drift(name, known.get(name, NO_EXPERIENCE), calls, most)
        if reason is not None:
            return reason
    return None


async def _cost_reason(
    conn: AsyncConnection, batch: BatchRecord, past: Sequence[Replan], most: float
) -> str | None:
    experience = experience_from_json((batch.plan or {}).get("experience"))
    since = past[-1].decided_at if past else None
    compared = []
    for model in batch.pool.models:
        calls = [
            call
            for call in await recent_calls(conn, model, RECENT_CALLS)
            if call.batch_id == batch.id and (since is None or call.ended_at > since)
        ]
        compared.append(compare_cost(model, calls, experience.get(model.name, NO_EXPERIENCE)))
    total = CostComparison(
        sum(one.calls for one in compared),
        sum(one.actual_usd for one in compared),
        sum(one.expected_usd for one in compared),
    )
    if not total.misses(most, keeps_savings=batch.submitted_at is not None):
        return None
    return f"{total.calls} calls cost {total.drift():+.0%} against the plan"


def compare_cost(
    model: CandidateModel, calls: Sequence[MeasuredCall], known: ModelExperience
) -> CostComparison:
    """Compare the cost of calls to a model with what a plan with some experience expects."""
    expected = actual = 0.0
    for call in calls:
        prompt = estimate_prompt_tokens(call.body, model) * known.prompt_factor
        completion = estimated_completion_tokens(model, call, known.completion_factor)
        expected += _cost_usd(model, prompt, completion)
        actual += _cost_usd(model, call.prompt_tokens, call.completion_tokens)
    return CostComparison(len(calls), actual, expected)


def _cost_usd(model: CandidateModel, prompt_tokens: float, completion_tokens: float) -> float:
    price = model.price_usd_per_mtok
    mtok_usd = float(price.prompt) * prompt_tokens + float(price.completion) * completion_tokens
    return mtok_usd / 1e6


def failure_drift(
    name: str, planned: ModelExperience, calls: ModelCalls, most: float
) -> str | None:
    """Return why a model's failures ask for another plan; None if they don't, or may not.

    Args:
        name: The model.
        planned: What the plan assumes of the model.
        calls: The calls since the plan was made.
        most: Share by which the number of calls for an answer may differ from the plan.
    """
    if calls.calls < MIN_CALLS:
        return None
    low, high = sure_shares(calls.failed, calls.calls)
    reached = 1.0 - planned.failure_share
    counts = (
        f"{calls.failed} of {calls.calls} calls to {name} failed, "
        f"planned were {planned.failure_share:.0%}"
    )
    if reached > (1.0 + most) * (1.0 - low):
        return f"{counts} and at least {low:.0%} are sure"
    if reached < (1.0 - most) * (1.0 - high):
        return f"{counts} and at most {high:.0%} are sure"
    return None


def sure_shares(failed: int, calls: int) -> tuple[float, float]:
    """Return the interval in which the true share of failed calls lies almost surely."""
    return share_interval(failed / calls, calls, _DEVIATIONS)


_LAG_S = 2.0
"""Jobs count an absence from the first failures that they see; the shared account, which a plan
reads, counts it from the report of enough of them, some seconds later at most."""


async def is_left(conn: AsyncConnection, batch: BatchRecord, model: CandidateModel) -> bool:
    """Return whether a plan gives a model's jobs to others for now.

    A batch that rather falls back leaves a model as soon as its calls keep failing; one that waits
    does once its patience or its deadline says so.
    """
    options = batch.call_options
    found = await absence(conn, model)
    if found is None:
        falls_back = options.on_unavailable is OnUnavailable.FALLBACK
        return falls_back and await is_down(conn, model)
    if found.lasted_s:
        found = replace(found, lasted_s=found.lasted_s + _LAG_S)
    deadline = batch.deadline
    left_s = None if deadline is None else (deadline - datetime.now(UTC)).total_seconds()
    patience = Patience(options.on_unavailable, options.patience_s)
    return not patience.waits(found, left_s, has_other=len(batch.pool.models) > 1)

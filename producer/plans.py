"""Waits for plans, submits them, and plans the same jobs for another aim.

A plan is a batch that is scored and selected but not submitted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from producer.progress import Snapshot, follow
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import BatchStatus, Stage
from routoo.errors import InfeasibleError, InputError, RoutooError
from routoo.store import batches, shards
from routoo.store.batches import BatchRecord, plans
from routoo.store.batches.plans import derive_plan
from routoo.store.database import Database


@dataclass(frozen=True, slots=True)
class PlanSubmission:
    """The outcome of submitting a plan."""

    batch_id: UUID
    created: bool
    """False where it was submitted before: then nothing was added."""
    job_count: int
    ready_shards: int
    """Dispatch shards that workers can take."""


async def submit_plan(database: Database, plan: str) -> PlanSubmission:
    """Run exactly what was planned; a plan that was submitted before stays as it is.

    Args:
        database: The store.
        plan: Id of the plan, the start of one, or its name.

    Raises:
        NotFoundError: There is no such plan.
        InputError: It is not ready, its deadline is over, or the batch is no plan that waits.
        InfeasibleError: What it aims at can't be met; the remedy says what to relax.
    """
    async with database.transaction() as conn:
        batch = await batches.find(conn, plan)
        created = await plans.submit_plan(conn, batch.id)
        ready = await shards.ready_keys(conn, batch.id)
    count = sum(key.stage is Stage.DISPATCH for key in ready)
    return PlanSubmission(batch.id, created, batch.job_count, count)


async def plan_again(
    database: Database,
    source: str,
    budget_usd: Decimal | None,
    read_aim: Callable[[BatchRecord], tuple[Objective, CallOptions]],
    shard_size: int,
) -> UUID:
    """Plan a scored batch's jobs for another aim or budget, without scoring them again.

    Args:
        database: The store.
        source: Id of a plan or batch, the start of one, or its name.
        budget_usd: The new plan's budget in USD, None for none.
        read_aim: Returns the new plan's objective and call options, checked against the source.
        shard_size: Most jobs in a shard.

    Returns:
        Id of the new plan.

    Raises:
        NotFoundError: There is no such plan.
        InputError: It is not scored yet, or the aim names no model of its pool.
    """
    async with database.transaction() as conn:
        batch = await batches.find(conn, source)
        objective, call_options = read_aim(batch)
        return await derive_plan(
            conn, batch, budget_usd, objective, shard_size, call_options=call_options
        )


async def await_plan(
    database: Database, batch_id: UUID, on_progress: Callable[[Snapshot], None] | None = None
) -> BatchRecord:
    """Wait until a batch has its plan, and return the batch.

    Args:
        database: The store.
        batch_id: The batch.
        on_progress: Called about twice a second meanwhile.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The batch was submitted without a plan and is not selected yet, or cancelled.
        RoutooError: Planning failed; the message says why.
    """
    async with database.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    if batch.status is BatchStatus.PLANNING:
        async for snapshot in follow(database, batch):
            if on_progress is not None:
                on_progress(snapshot)
        batch = snapshot.batch
    if batch.status is BatchStatus.FAILED:
        raise RoutooError(f"planning failed: {batch.error}", where=f"batch {batch.id}")
    if batch.plan is None:
        raise InputError(
            f"the batch has no plan: it is {batch.status}",
            value=str(batch.id),
            remedy="Make one with `routoo-producer plan FILE`",
        )
    return batch


def check_feasible(plan: dict[str, Any]) -> None:
    """Refuse a plan that serves nobody.

    Raises:
        InfeasibleError: Its limits can't all hold.
    """
    if plan["jobs"] and not plan["served"] and plan["advice"]:
        raise InfeasibleError("the limits can't all hold", remedy=plan["advice"].rstrip("."))

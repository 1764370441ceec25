"""What people do with a batch by name: submit its plan, plan again, pause, resume, cancel, retry.

A plan is a batch that is scored and selected but not submitted.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from producer.progress import Snapshot, find_batch, follow, take_snapshot
from routoo.console.output import note
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import BatchStatus, ResultStatus, Stage
from routoo.errors import InfeasibleError, InputError, RoutooError
from routoo.store import batches, budget, shards
from routoo.store.batches import BatchRecord, control, plans, retry
from routoo.store.batches.plans import derive_plan
from routoo.store.database import Database

_POLL_S = 0.3


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


async def pause_batch(database: Database, batch: str) -> Snapshot:
    """Let no new call of a batch start.

    Args:
        database: The store.
        batch: Id, start of an id, or name.

    Raises:
        NotFoundError: There is no such batch.
        InputError: Its state does not allow it.
    """
    async with database.transaction() as conn:
        record = await find_batch(conn, batch)
        await control.pause(conn, record.id)
        return await take_snapshot(conn, record)


async def resume_batch(database: Database, batch: str, budget_usd: Decimal | None) -> Snapshot:
    """Let a paused batch go on; with a budget, also one whose money ran out.

    Args:
        database: The store.
        batch: Id, start of an id, or name.
        budget_usd: New budget of the whole batch in USD, None to leave it as it is.

    Raises:
        NotFoundError: There is no such batch.
        InputError: Its state does not allow it, or more is spent and reserved than the budget.
    """
    async with database.transaction() as conn:
        record = await find_batch(conn, batch)
    if budget_usd is None:
        async with database.transaction() as conn:
            await control.resume(conn, record.id)
    else:
        await _resume_with(database, record, budget_usd)
    async with database.transaction() as conn:
        return await take_snapshot(conn, record)


async def cancel_batch(database: Database, batch: str, *, wait: bool) -> Snapshot:
    """Cancel a batch; one that is over stays as it is.

    Args:
        database: The store.
        batch: Id, start of an id, or name.
        wait: Whether to return only once the calls in flight have ended.

    Raises:
        NotFoundError: There is no such batch.
    """
    async with database.transaction() as conn:
        record = await find_batch(conn, batch)
        before = await control.cancel(conn, record.id)
    if before in {BatchStatus.COMPLETED, BatchStatus.CANCELLED}:
        note(f"the batch is {before} already: nothing was cancelled")
    while True:
        async with database.transaction() as conn:
            await control.end_cancelled(conn, record.id)
        async with database.transaction() as conn:
            snapshot = await take_snapshot(conn, record)
        if snapshot.is_over or not wait:
            return snapshot
        await asyncio.sleep(_POLL_S)


async def delete_batch(database: Database, batch: str) -> BatchRecord:
    """Delete a batch with all that is known of it; repeated, it goes on where it stopped.

    Args:
        database: The store.
        batch: Id, start of an id, or name.

    Raises:
        NotFoundError: There is no such batch.
        InputError: It is not over, or belongs to an evaluation.
    """
    async with database.transaction() as conn:
        record = await find_batch(conn, batch)
    is_gone = False
    while not is_gone:
        async with database.transaction() as conn:
            is_gone = await control.delete_part(conn, record.id)
    return record


async def retry_batch(
    database: Database,
    batch: str,
    statuses: Collection[ResultStatus],
    error_code: str | None = None,
) -> Snapshot:
    """Open jobs without an answer again.

    Args:
        database: The store.
        batch: Id, start of an id, or name.
        statuses: How they had ended.
        error_code: Only those that ended with this code; None for all.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The state of the batch does not allow it.
    """
    async with database.transaction() as conn:
        record = await find_batch(conn, batch)
    cause = "" if error_code is None else f" of jobs that ended with {error_code}"
    await _reopen(database, record, statuses, f"a retry{cause} was asked for", error_code)
    async with database.transaction() as conn:
        return await take_snapshot(conn, record)


def read_statuses(names: Collection[str], *, failed_only: bool) -> frozenset[ResultStatus]:
    """Return the ways to end that a retry names; all of those without an answer for none.

    Raises:
        InputError: A name is no way to end without an answer, or `failed_only` excludes it.
    """
    if failed_only and names:
        raise InputError("--failed-only and --status exclude each other", remedy="Give one of them")
    if failed_only:
        return frozenset({ResultStatus.FAILED})
    unknown = sorted(set(names) - {str(status) for status in retry.UNANSWERED})
    if unknown:
        raise InputError(
            "this is no way to end without an answer",
            value=unknown[0],
            where="--status",
            remedy=f"Give one of {', '.join(sorted(retry.UNANSWERED))}",
        )
    return frozenset(map(ResultStatus, names)) or retry.UNANSWERED


async def _resume_with(database: Database, record: BatchRecord, budget_usd: Decimal) -> None:
    """Set the budget, then reopen: a command that died in between can be repeated."""
    async with database.transaction() as conn:
        await budget.set_budget(conn, record.id, budget_usd)
        if record.status is BatchStatus.PAUSED:
            await control.resume(conn, record.id)
    reason = f"the budget is now {budget_usd} USD"
    await _reopen(database, record, {ResultStatus.BUDGET_EXHAUSTED}, reason)


async def _reopen(
    database: Database,
    record: BatchRecord,
    statuses: Collection[ResultStatus],
    reason: str,
    error_code: str | None = None,
) -> None:
    async with database.transaction() as conn:
        reopened = await retry.reopen(conn, record.id, statuses, reason, error_code=error_code)
    note(f"{reopened.jobs:,} jobs are open again")
    if reopened.left:
        note(f"{reopened.left:,} more are in shards at work: try again once those have ended")

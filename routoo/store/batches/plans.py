"""Plans: batches that are scored and selected, and make no call until they are submitted."""

from datetime import UTC, datetime
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus
from routoo.errors import InfeasibleError, InputError
from routoo.store import batches
from routoo.store.batches import BatchRecord

_FACTS = ("jobs", "predictions", "assignments", "followers", "results")
"""What a plan has beside the rows that go with the batch's own."""


async def finish_planning(conn: AsyncConnection, batch_id: UUID) -> None:
    """Let a draft whose selection is done wait for its owner.

    `shards.finish` calls this; its dispatch shards stay blocked.
    """
    await conn.execute(
        "UPDATE batches SET status = 'planned' WHERE id = %s AND status = 'planning'", [batch_id]
    )


async def submit_plan(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Hand out a plan's dispatch shards: from here on exactly that plan runs.

    Args:
        conn: A transaction.
        batch_id: The planned batch.

    Returns:
        Whether this call did it; false where the plan was submitted before.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The plan is not ready, its deadline is over, or the batch is.
        InfeasibleError: What the plan aims at can't be met.
    """
    await batches.lock(conn, batch_id)
    batch = await batches.get(conn, batch_id)
    if batch.submitted_at is not None:
        return False
    if batch.status is not BatchStatus.PLANNED:
        raise _no_plan(batch)
    _check_runnable(batch, datetime.now(UTC))
    await conn.execute(
        "UPDATE batches SET status = 'in_progress', submitted_at = clock_timestamp() WHERE id = %s",
        [batch_id],
    )
    await conn.execute(
        "UPDATE shards SET state = 'ready'"
        " WHERE batch_id = %s AND stage = 'dispatch' AND state = 'blocked'",
        [batch_id],
    )
    return True


async def delete_expired(conn: AsyncConnection, retention_s: float) -> UUID | None:
    """Delete one plan that nobody submitted in time, with its jobs; nothing was spent on it.

    Args:
        conn: A transaction of its own: a big plan takes seconds.
        retention_s: Age in seconds at which a plan goes.

    Returns:
        Its id; None where none is so old, or another transaction is busy with it.
    """
    cursor = await conn.execute(
        """
        SELECT id FROM batches
        WHERE status = 'planned' AND created_at < clock_timestamp() - make_interval(secs => %s)
        ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
        """,
        [retention_s],
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    batch_id: UUID = row[0]
    for table in _FACTS:
        await conn.execute(f"DELETE FROM {table} WHERE batch_id = %s".encode(), [batch_id])
    await conn.execute("DELETE FROM batches WHERE id = %s", [batch_id])
    return batch_id


def _no_plan(batch: BatchRecord) -> InputError:
    if batch.status is BatchStatus.PLANNING:
        return InputError(
            "the plan is not ready: it is being scored and selected",
            value=str(batch.id),
            remedy="Wait for it with `routoo-producer watch`",
        )
    return InputError(
        f"the batch is {batch.status} and was no plan that waits",
        value=str(batch.id),
        remedy="Make a plan with `routoo-producer plan FILE`",
    )


def _check_runnable(batch: BatchRecord, now: datetime) -> None:
    plan = batch.plan or {}
    if plan.get("status") == "infeasible" and not plan["served"]:
        raise InfeasibleError(
            "the plan serves nobody: its limits can't all hold",
            value=str(batch.id),
            remedy=plan["advice"].rstrip("."),
        )
    if batch.deadline is not None and batch.deadline <= now:
        raise InputError(
            "the plan's deadline is over",
            value=str(batch.deadline),
            remedy="Plan again with a later one",
        )

"""Pauses, resumes, cancels and deletes a batch from outside, and ends a cancelled one.

Workers look at the batch's state about twice a second and hand their shards back where it is not
in progress; nobody can claim a shard then. So a change of state is all that is needed to stop.
A batch that is over is deleted a part at a time, so that running ones are not held up.
"""

from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus
from routoo.errors import InputError
from routoo.store import batches, provider_batches, put_off, results
from routoo.store.encoding import storable
from routoo.store.endpoints import open_denied
from routoo.store.lost_calls import write_off_batch

_RUNNING = {BatchStatus.IN_PROGRESS, BatchStatus.PAUSED}
_CANCELLABLE = _RUNNING | {BatchStatus.PLANNING, BatchStatus.PLANNED, BatchStatus.FAILED}
_JOBS_AT_ONCE = 5_000
_OF_JOBS = (
    "grades",
    "answer_judgements",
    "kept_answers",
    "provider_rows",
    "reservations",
    "attempts",
    "results",
    "superseded_results",
    "assignments",
    "followers",
    "predictions",
    "jobs",
)
"""Tables with a row a job or more; the jobs themselves last: they say what is left."""
_OF_BATCH = ("provider_batches", "budget_warnings", "batch_counts")
"""Further tables that no foreign key deletes with the batch."""


async def pause(conn: AsyncConnection, batch_id: UUID) -> BatchStatus:
    """Let no further work start; what is in flight ends and is kept. Repeating it does nothing.

    Returns:
        The state before.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The batch is over, or being cancelled.
    """
    return await _change(conn, batch_id, BatchStatus.PAUSED, _RUNNING)


async def pause_running(conn: AsyncConnection, batch_id: UUID, reason: str) -> bool:
    """Pause a batch that runs and can't go on; `resume` lets it go on and forgets the reason.

    Args:
        conn: A transaction.
        batch_id: The batch.
        reason: Why, and what to do, for people.

    Returns:
        Whether this call paused it.
    """
    cursor = await conn.execute(
        "UPDATE batches SET status = 'paused', error = %s WHERE id = %s AND status = 'in_progress'",
        [storable(reason), batch_id],
    )
    return cursor.rowcount > 0


async def resume(conn: AsyncConnection, batch_id: UUID) -> BatchStatus:
    """Let a paused batch go on where it stopped. Repeating it does nothing.

    Returns:
        The state before.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The batch is over, or being cancelled.
    """
    before = await _change(conn, batch_id, BatchStatus.IN_PROGRESS, _RUNNING)
    await conn.execute("UPDATE batches SET error = NULL WHERE id = %s", [batch_id])
    batch = await batches.get(conn, batch_id)
    await open_denied(conn, batch.pool)
    await put_off.end_waits(conn, batch_id)
    return before


async def cancel(conn: AsyncConnection, batch_id: UUID) -> BatchStatus:
    """Let no further work start for good. A batch that is over already stays as it is.

    Jobs that no worker or provider holds end at once, and dispatchers end those of which no call is
    in flight. `end_cancelled` ends the batch once nothing is in flight; call it until it says so.

    Returns:
        The state before.

    Raises:
        NotFoundError: There is no such batch.
    """
    before = await batches.lock(conn, batch_id)
    if before in _CANCELLABLE:
        await _set(conn, batch_id, BatchStatus.CANCELLING)
        await _save_results(conn, batch_id, _IS_IDLE)
        await provider_batches.make_due(conn, batch_id)
    return before


_END_CANCELLED = b"""
    UPDATE batches SET status = 'cancelled',
        completed_at = coalesce(completed_at, clock_timestamp())  -- that of a failed batch stays
    WHERE id = %s
"""


async def end_cancelled(conn: AsyncConnection, batch_id: UUID) -> bool:
    """End a batch that is being cancelled, unless workers are still busy with it.

    A job that waits for another model keeps the answer of its probe; every other job without a
    result gets one that says `cancelled`. Stages keep their state, so that a later retry goes on
    where the batch stopped. `shards.finish` calls this in its own transaction.

    Returns:
        Whether this call ended it.

    Raises:
        NotFoundError: There is no such batch.
    """
    if await batches.lock(conn, batch_id) is not BatchStatus.CANCELLING:
        return False
    await _take_from_silent(conn, batch_id)
    if await _is_at_work(conn, batch_id):
        return False
    await write_off_batch(conn, batch_id)
    await results.take_kept(conn, batch_id)
    await _save_results(conn, batch_id)
    await conn.execute(_END_CANCELLED, [batch_id])
    return True


async def fail(conn: AsyncConnection, batch_id: UUID, error: str) -> None:
    """Let a batch fail: what is in flight ends, and rows at providers are given up."""
    await batches.mark_failed(conn, batch_id, error)
    await provider_batches.make_due(conn, batch_id)


async def settle_left(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Settle what is still reserved in a batch that is over, unless workers are busy with it.

    Args:
        conn: A transaction; `shards.finish` calls this in its own.
        batch_id: The batch.

    Returns:
        Whether that is done: nothing is reserved, and all calls are in what was spent.

    Raises:
        NotFoundError: There is no such batch.
    """
    if not (await batches.lock(conn, batch_id)).is_over:
        return False
    await _take_from_silent(conn, batch_id)
    if await _is_at_work(conn, batch_id):
        return False
    await write_off_batch(conn, batch_id)
    return True


async def with_open_reservations(conn: AsyncConnection) -> list[UUID]:
    """Return the batches that are over and have money reserved."""
    cursor = await conn.execute(
        "SELECT b.id FROM batches b JOIN ledgers l ON l.batch_id = b.id AND l.reserved_usd > 0"
        " WHERE b.status = ANY(%s)",
        [[status.value for status in BatchStatus if status.is_over]],
    )
    return [row[0] async for row in cursor]


async def _take_from_silent(conn: AsyncConnection, batch_id: UUID) -> None:
    """Take the shards of a batch that ends from their owners, but for dispatchers at work.

    Scorers and selectors spend no money: their writes are refused from here on. A dispatcher is
    waited for, unless its lease says that it is gone.
    """
    await conn.execute(
        """
        UPDATE shards s
        SET state = 'ready', owner = NULL, lease_expires_at = NULL, epoch = epoch + 1
        FROM (SELECT stage, shard_no FROM shards
              WHERE batch_id = %(id)s AND state = 'leased'
                AND (stage <> 'dispatch' OR lease_expires_at < clock_timestamp())
              -- one that is being written may want the batch's row next: it is left for next time
              FOR UPDATE SKIP LOCKED) AS idle
        WHERE batch_id = %(id)s AND s.stage = idle.stage AND s.shard_no = idle.shard_no
        """,
        {"id": batch_id},
    )


async def being_cancelled(conn: AsyncConnection) -> list[UUID]:
    """Return the batches that wait for `end_cancelled`, oldest first."""
    cursor = await conn.execute(
        "SELECT id FROM batches WHERE status = 'cancelling' ORDER BY created_at, id"
    )
    return [row[0] async for row in cursor]


async def _change(
    conn: AsyncConnection, batch_id: UUID, target: BatchStatus, allowed: set[BatchStatus]
) -> BatchStatus:
    before = await batches.lock(conn, batch_id)
    if before not in allowed:
        raise InputError(
            f"the batch is {before}",
            value=str(batch_id),
            remedy="Only a batch that is in progress or paused can be paused or resumed;"
            " `routoo-producer retry` reopens one that is over",
        )
    await _set(conn, batch_id, target)
    return before


async def _set(conn: AsyncConnection, batch_id: UUID, status: BatchStatus) -> None:
    await conn.execute("UPDATE batches SET status = %s WHERE id = %s", [str(status), batch_id])


async def _is_at_work(conn: AsyncConnection, batch_id: UUID) -> bool:
    cursor = await conn.execute(
        "SELECT FROM shards WHERE batch_id = %s AND state = 'leased' LIMIT 1", [batch_id]
    )
    return cursor.rowcount > 0 or await provider_batches.is_any_open(conn, batch_id)


# No call for the job is in flight, or waits to be written off.
_IS_IDLE = """
    NOT EXISTS (SELECT FROM reservations r WHERE r.batch_id = j.batch_id AND r.job_no = j.job_no
                  AND NOT EXISTS (
                      SELECT FROM attempts a WHERE a.batch_id = r.batch_id
                        AND a.job_no = r.job_no AND a.attempt_no = r.attempt_no))
    AND NOT EXISTS (
        SELECT FROM kept_answers k WHERE k.batch_id = j.batch_id AND k.job_no = j.job_no)
    AND NOT EXISTS (
        SELECT FROM shards s WHERE s.batch_id = j.batch_id AND s.stage = 'dispatch'
          AND s.state = 'leased' AND j.job_no >= s.first_job
          AND j.job_no < s.first_job + s.job_count)
"""


async def _save_results(conn: AsyncConnection, batch_id: UUID, condition: str = "true") -> None:
    await conn.execute(
        f"""
        INSERT INTO results (batch_id, job_no, status, cost_usd, attempts, error_code,
                             error_message)
        SELECT j.batch_id, j.job_no, 'cancelled', coalesce(calls.cost_usd, 0),
               coalesce(calls.attempts, 0), 'cancelled',
               'The batch was cancelled before this job was answered'
        FROM jobs j CROSS JOIN LATERAL (
            SELECT max(attempt_no) AS attempts, sum(cost_usd) AS cost_usd
            FROM attempts a WHERE a.batch_id = j.batch_id AND a.job_no = j.job_no) AS calls
        -- A scalar, not EXISTS: each job is looked up in the index. A join may be planned that
        -- goes through all results of the batch for each job, those written here among them.
        WHERE j.batch_id = %(batch_id)s AND (
            SELECT 1 FROM results r WHERE r.batch_id = j.batch_id AND r.job_no = j.job_no) IS NULL
          AND {condition}
        """.encode(),
        {"batch_id": batch_id},
    )


async def delete_part(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Delete some thousand jobs of a batch with all that is known of them; at last the batch.

    Args:
        conn: A transaction of its own; call it until the batch is gone.
        batch_id: The batch: over, with nothing reserved, or a plan.

    Returns:
        Whether the batch is gone.

    Raises:
        NotFoundError: There is no such batch.
        InputError: It runs, has money reserved, or belongs to an evaluation.
    """
    status = await batches.lock(conn, batch_id)
    batch = await batches.get(conn, batch_id)
    await _check_deletable(conn, batch, status)
    first = await _last_jobs(conn, batch_id)
    if first is None:
        for table in _OF_BATCH:
            await conn.execute(f"DELETE FROM {table} WHERE batch_id = %s".encode(), [batch_id])
        await conn.execute("DELETE FROM batches WHERE id = %s", [batch_id])
        return True
    for table in _OF_JOBS:
        await conn.execute(
            f"DELETE FROM {table} WHERE batch_id = %s AND job_no >= %s".encode(), [batch_id, first]
        )
    return False


async def _check_deletable(
    conn: AsyncConnection, batch: batches.BatchRecord, status: BatchStatus
) -> None:
    if batch.kind != "batch":
        raise InputError(
            f"the batch is of kind {batch.kind}",
            value=str(batch.id),
            remedy="The batches of evaluations stay: their figures are compared with later ones",
        )
    if not (status.is_over or status is BatchStatus.PLANNED) or await _has_reserved(conn, batch.id):
        raise InputError(
            f"the batch is {status}, and can't be deleted while calls may be made for it",
            value=str(batch.id),
            remedy="Wait until it is over, or end it with `routoo-producer cancel`",
        )


async def find_old(conn: AsyncConnection, retention_s: float) -> UUID | None:
    """Return the batch that has been over for longest, if that is long enough; None without one."""
    cursor = await conn.execute(
        """
        SELECT id FROM batches b WHERE kind = 'batch' AND status = ANY(%s)
          AND completed_at < clock_timestamp() - make_interval(secs => %s)
          AND NOT EXISTS (SELECT FROM ledgers WHERE batch_id = b.id AND reserved_usd > 0)
        ORDER BY completed_at LIMIT 1
        """,
        [[status.value for status in BatchStatus if status.is_over], retention_s],
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def _has_reserved(conn: AsyncConnection, batch_id: UUID) -> bool:
    cursor = await conn.execute(
        "SELECT FROM ledgers WHERE batch_id = %s AND reserved_usd > 0", [batch_id]
    )
    return cursor.rowcount > 0


async def _last_jobs(conn: AsyncConnection, batch_id: UUID) -> int | None:
    """Return the first number of the last jobs that are left; None where none is."""
    cursor = await conn.execute(
        "SELECT max(job_no) - %s + 1 FROM jobs WHERE batch_id = %s", [_JOBS_AT_ONCE, batch_id]
    )
    row = await cursor.fetchone()
    return row[0] if row else None

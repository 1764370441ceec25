"""Deletes batches that are over, a part at a time, so that running ones are not held up."""

from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus
from routoo.errors import InputError
from routoo.store import batches

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

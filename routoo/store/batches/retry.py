"""Retries: jobs that ended without an answer are opened again, and how they ended is kept."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, ResultStatus
from routoo.errors import InputError
from routoo.store import batches, webhooks
from routoo.store.batches import replans

UNANSWERED = frozenset(set(ResultStatus) - {ResultStatus.SUCCEEDED})
"""How a job ends that may be tried again."""


_REOPENABLE = {
    BatchStatus.IN_PROGRESS,
    BatchStatus.COMPLETED,
    BatchStatus.FAILED,
    BatchStatus.CANCELLED,
}
_IDLE = """
    shards.batch_id = %(id)s AND stage = 'dispatch'
    AND (state <> 'leased' OR lease_expires_at < clock_timestamp())
"""


# The first condition leads to the index of jobs without an answer.
_ENDED_SO = """
    r.status <> 'succeeded' AND r.status = ANY(%(statuses)s)
    AND (%(error_code)s::text IS NULL OR coalesce(r.error_code, r.status) = %(error_code)s)
"""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How the jobs ended that are to be opened again."""

    statuses: list[str]
    error_code: str | None


@dataclass(frozen=True, slots=True)
class Reopened:
    """What a retry opened again."""

    jobs: int
    """Jobs that are open again."""
    left: int
    """Jobs that ended so too, but whose shard a worker is busy with."""


async def reopen(
    conn: AsyncConnection,
    batch_id: UUID,
    statuses: Collection[ResultStatus],
    reason: str,
    *,
    error_code: str | None = None,
) -> Reopened:
    """Open jobs of a batch again, with the model choice made anew for them.

    Their results move to `superseded_results`; their calls stay, count and are numbered on. A
    batch that is over is in progress again; parked shards are tried again. All of it happens in
    this transaction or not at all.

    Args:
        conn: A transaction of its own.
        batch_id: The batch.
        statuses: How the jobs have ended; none of them may be `succeeded`.
        reason: Why, for the plan's history.
        error_code: Only jobs that ended with this code, or as this status where they have none.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The batch is paused, being cancelled or a plan, or its models are being chosen.
    """
    before = await _check_reopenable(conn, batch_id)
    await conn.execute(f"SELECT FROM shards WHERE {_IDLE} FOR UPDATE".encode(), {"id": batch_id})
    wanted = _Wanted(sorted(map(str, set(statuses) & UNANSWERED)), error_code)
    jobs = await _supersede(conn, batch_id, wanted)
    if jobs or before is not BatchStatus.IN_PROGRESS:
        await _reopen_shards(conn, batch_id)
    left = await _count(conn, batch_id, wanted)
    if jobs or await _has_open_jobs(conn, batch_id):
        await _set_in_progress(conn, batch_id)
        await replans.request(conn, batch_id, reason)
    return Reopened(jobs, left)


async def _check_reopenable(conn: AsyncConnection, batch_id: UUID) -> BatchStatus:
    """Lock the batch and return its state; refuse one whose jobs can't be opened now."""
    before = await batches.lock(conn, batch_id)
    if before not in _REOPENABLE:
        raise InputError(
            f"the batch is {before}",
            value=str(batch_id),
            remedy="Retry one that is over or in progress; `routoo-producer resume` ends a pause",
        )
    batch = await batches.get(conn, batch_id)
    if batch.plan_only and batch.submitted_at is None:
        raise InputError(
            "the batch is a plan that was cancelled before it was submitted",
            value=str(batch_id),
            remedy="Plan or submit its input again",
        )
    if await _is_being_selected(conn, batch_id):
        raise InputError(
            "models are being chosen for the batch at this moment",
            value=str(batch_id),
            remedy="Try again in a few seconds",
        )
    return before


_SUPERSEDE = f"""
    WITH led AS (
        SELECT r.job_no FROM shards JOIN results r ON r.batch_id = shards.batch_id
          AND r.job_no >= first_job AND r.job_no < first_job + job_count
        WHERE {_IDLE} AND {_ENDED_SO} AND NOT EXISTS (
            SELECT FROM followers f WHERE f.batch_id = r.batch_id AND f.job_no = r.job_no)
    ), wanted AS (  -- a duplicate is opened again with its original, wherever its own shard is
        SELECT job_no FROM led UNION ALL
        SELECT f.job_no FROM followers f JOIN led ON f.leader_no = led.job_no
        WHERE f.batch_id = %(id)s
    ), gone AS (
        DELETE FROM results r USING wanted
        WHERE r.batch_id = %(id)s AND r.job_no = wanted.job_no RETURNING r.*
    ), forgotten AS (  -- all models are asked again
        DELETE FROM kept_answers k USING gone
        WHERE k.batch_id = gone.batch_id AND k.job_no = gone.job_no
    ), ungraded AS (
        DELETE FROM grades g USING gone
        WHERE g.batch_id = gone.batch_id AND g.job_no = gone.job_no
    )
    INSERT INTO superseded_results (batch_id, retry_no, job_no, status, model, cost_usd,
        attempts, error_code, error_message, ended_at)
    SELECT batch_id, (SELECT coalesce(max(retry_no), 0) + 1 FROM superseded_results
                      WHERE batch_id = %(id)s),
           job_no, status, model, cost_usd, attempts, error_code, error_message, created_at
    FROM gone
""".encode()


async def _supersede(conn: AsyncConnection, batch_id: UUID, wanted: _Wanted) -> int:
    """Move results to the history, but those of shards that a worker is busy with."""
    cursor = await conn.execute(_SUPERSEDE, {"id": batch_id, **asdict(wanted)})
    return cursor.rowcount


async def _reopen_shards(conn: AsyncConnection, batch_id: UUID) -> None:
    """Let dispatch shards with open jobs wait for the new choice, and parked ones try again."""
    await conn.execute(
        f"""
        UPDATE shards SET state = CASE stage WHEN 'dispatch' THEN 'blocked' ELSE 'ready' END,
            owner = NULL, lease_expires_at = NULL, epoch = epoch + 1, attempts = 0, error = NULL,
            not_before = NULL, waits_for = NULL, waits_usd = NULL,
            next_deadline = CASE stage WHEN 'dispatch' THEN
                (SELECT first_deadline FROM batches WHERE id = %(id)s) END
        WHERE (shards.batch_id = %(id)s AND stage <> 'dispatch' AND state = 'parked')
          -- its owner is gone; should it come back, it must not unblock jobs that it never saw
          OR (batch_id = %(id)s AND stage = 'select' AND state = 'leased')
          OR ({_IDLE} AND state <> 'blocked' AND EXISTS (
                SELECT FROM generate_series(first_job, first_job + job_count - 1) AS n
                WHERE NOT EXISTS (SELECT FROM results r
                                  WHERE r.batch_id = shards.batch_id AND r.job_no = n)
                  AND NOT EXISTS (SELECT FROM followers f
                                  WHERE f.batch_id = shards.batch_id AND f.job_no = n)))
        """.encode(),
        {"id": batch_id},
    )


async def _is_being_selected(conn: AsyncConnection, batch_id: UUID) -> bool:
    cursor = await conn.execute(
        """
        SELECT FROM shards WHERE batch_id = %s AND stage = 'select' AND state = 'leased'
          AND lease_expires_at >= clock_timestamp() LIMIT 1
        """,
        [batch_id],
    )
    return cursor.rowcount > 0


async def _count(conn: AsyncConnection, batch_id: UUID, wanted: _Wanted) -> int:
    cursor = await conn.execute(
        f"SELECT count(*) FROM results r WHERE batch_id = %(id)s AND {_ENDED_SO}".encode(),
        {"id": batch_id, **asdict(wanted)},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def _has_open_jobs(conn: AsyncConnection, batch_id: UUID) -> bool:
    cursor = await conn.execute(
        """
        SELECT FROM batches b WHERE id = %s
          AND job_count > (SELECT count(*) FROM results WHERE batch_id = b.id)
        """,
        [batch_id],
    )
    return cursor.rowcount > 0


async def _set_in_progress(conn: AsyncConnection, batch_id: UUID) -> None:
    await conn.execute(
        """
        UPDATE batches SET status = 'in_progress', completed_at = NULL, error = NULL WHERE id = %s
        """,
        [batch_id],
    )
    await webhooks.reopen(conn, batch_id)

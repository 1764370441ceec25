"""Calls in flight: money that a worker alive may still give back."""

from uuid import UUID

from psycopg import AsyncConnection


async def may_give_back(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Return whether a worker that holds a shard of the batch awaits a call of its own.

    What a dead worker reserved is settled by the next owner of its shard; rows at a provider wait
    for hours. Neither is worth holding a shard for.
    """
    cursor = await conn.execute(
        """
        SELECT FROM shards s CROSS JOIN LATERAL (
            SELECT job_no, attempt_no FROM reservations
            WHERE batch_id = s.batch_id AND job_no >= s.first_job
              AND job_no < s.first_job + s.job_count
        ) AS r
        WHERE s.batch_id = %s AND s.stage = 'dispatch' AND s.state = 'leased'
          AND s.lease_expires_at >= clock_timestamp()
          -- Scalars, not EXISTS: a hash of all attempts costs more than to look a few thousand up.
          AND (SELECT 1 FROM attempts a WHERE a.batch_id = s.batch_id AND a.job_no = r.job_no
                 AND a.attempt_no = r.attempt_no) IS NULL
          AND (SELECT 1 FROM provider_rows m JOIN provider_batches b USING (marker)
               WHERE m.batch_id = s.batch_id AND m.job_no = r.job_no
                 AND m.attempt_no = r.attempt_no AND b.state <> 'closed' LIMIT 1) IS NULL
        LIMIT 1
        """,
        [batch_id],
    )
    return await cursor.fetchone() is not None

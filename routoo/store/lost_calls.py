"""Writes off calls whose outcome a crash hid: each counts at its worst case, as it may be billed.

Calls that had surely not been sent are given back.
"""

from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.store import leases
from routoo.store.ledger import SETTLE_NEW


async def write_off(conn: AsyncConnection, lease: Lease) -> int:
    """Count calls whose outcome a crash hid as spent at their worst case.

    Call it when a shard is taken, before any call of one's own: every reservation of the slice
    that has no attempt then belongs to a worker that is gone. Those of calls that it had surely not
    sent are given back.

    Returns:
        How many calls were lost.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    return await _write_off(
        conn, lease.key.batch_id, lease.first_job, lease.first_job + lease.job_count
    )


async def write_off_batch(conn: AsyncConnection, batch_id: UUID) -> int:
    """Write off the calls of a whole batch that no worker will settle: count their worst cases.

    Args:
        conn: A transaction that has made sure that no dispatch shard of the batch has an owner.
        batch_id: The batch.

    Returns:
        How many calls were lost.
    """
    return await _write_off(conn, batch_id, 0, None)


async def write_off_job(conn: AsyncConnection, batch_id: UUID, job_no: int) -> int:
    """Write off the calls of one job whose shard nobody owns; return how many were lost."""
    return await _write_off(conn, batch_id, job_no, job_no + 1)


_WRITE_OFF = f"""
    WITH new AS (
        INSERT INTO attempts (batch_id, job_no, attempt_no, model, status, cost_usd,
                              error_code, error_message)
        SELECT batch_id, job_no, attempt_no, model, 'lost', worst_case_usd, 'lost',
               'The worker that made the call died before it could say what came back'
        FROM reservations r
        WHERE batch_id = %(batch_id)s AND job_no >= %(first)s
          AND (%(end)s::int IS NULL OR job_no < %(end)s)
          AND NOT EXISTS (
            SELECT FROM attempts a WHERE a.batch_id = r.batch_id AND a.job_no = r.job_no
              AND a.attempt_no = r.attempt_no)
          AND NOT EXISTS (  -- a provider's batch outlives the worker that handed it over
            SELECT FROM provider_rows m JOIN provider_batches b USING (marker)
            WHERE m.batch_id = r.batch_id AND m.job_no = r.job_no
              AND m.attempt_no = r.attempt_no AND b.state <> 'closed')
        ON CONFLICT DO NOTHING RETURNING batch_id, job_no, attempt_no, cost_usd
    ), settled AS ({SETTLE_NEW})
    SELECT count(*) FROM new
""".encode()


async def _write_off(
    conn: AsyncConnection, batch_id: UUID, first_job: int, end_job: int | None
) -> int:
    values = {"batch_id": batch_id, "first": first_job, "end": end_job}
    await conn.execute(_FREE_UNSENT, values)
    cursor = await conn.execute(_WRITE_OFF, values)
    row = await cursor.fetchone()
    return row[0] if row else 0


_FREE_UNSENT = """
    WITH freed AS (
        DELETE FROM reservations r
        WHERE batch_id = %(batch_id)s AND job_no >= %(first)s
          AND (%(end)s::int IS NULL OR job_no < %(end)s) AND NOT sent
          AND NOT EXISTS (
            SELECT FROM attempts a WHERE a.batch_id = r.batch_id AND a.job_no = r.job_no
              AND a.attempt_no = r.attempt_no)
        RETURNING worst_case_usd
    )
    UPDATE ledgers SET reserved_usd = reserved_usd - freed_usd
    FROM (SELECT sum(worst_case_usd) AS freed_usd FROM freed HAVING count(*) > 0) AS total
    WHERE batch_id = %(batch_id)s
"""

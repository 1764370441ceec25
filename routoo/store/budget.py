"""Changes a batch's budget, keeps some of it, warns about its use, and tells what may come back."""

from decimal import Decimal
from uuid import UUID

import numpy as np
from jaxtyping import Float64
from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, Lease
from routoo.errors import InputError
from routoo.store import batches, leases, ledger, provider_batches

WARN_AT_PERCENT = (50, 80, 95)
"""Shares of the budget, in per cent, whose use is worth a warning."""

_UNCHANGEABLE = {BatchStatus.PLANNING, BatchStatus.PLANNED, BatchStatus.CANCELLING}
"""A plan was made for its budget, and runs as it was made."""


async def set_budget(conn: AsyncConnection, batch_id: UUID, budget_usd: Decimal) -> Decimal | None:
    """Give a batch another budget: more, or less as far as it is neither spent nor set aside.

    Args:
        conn: A transaction.
        batch_id: The batch.
        budget_usd: Most that all its calls may cost together, those made already among them.

    Returns:
        The budget before; None means it had none.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The batch has committed more than that, is a plan, or is being cancelled.
    """
    _check_changeable(batch_id, await batches.lock(conn, batch_id))
    before = await ledger.balance(conn, batch_id, locked=True)
    _check_covers(budget_usd, before.reserved_usd + before.spent_usd)
    await conn.execute(
        "UPDATE ledgers SET limit_usd = %s WHERE batch_id = %s", [budget_usd, batch_id]
    )
    await conn.execute("UPDATE batches SET budget_usd = %s WHERE id = %s", [budget_usd, batch_id])
    return before.limit_usd


def _check_changeable(batch_id: UUID, status: BatchStatus) -> None:
    if status in _UNCHANGEABLE:
        raise InputError(
            f"the batch is {status}",
            value=str(batch_id),
            remedy="Its budget can't be changed; submit it anew",
        )


def _check_covers(budget_usd: Decimal, committed_usd: Decimal) -> None:
    if budget_usd < committed_usd:
        raise InputError(
            "the batch has spent or set aside more than this budget",
            value=str(budget_usd),
            where="--budget-usd",
            remedy=f"Give at least {committed_usd}",
        )


_KEEP = f"""
    WITH before AS (SELECT fallback_usd AS usd FROM shards WHERE {leases.OWNED}),
    kept AS (UPDATE shards SET fallback_usd = %(usd)s WHERE {leases.OWNED} RETURNING 1)
    UPDATE ledgers SET fallback_usd = greatest(fallback_usd + %(usd)s - before.usd, 0)
    FROM before, kept WHERE batch_id = %(batch_id)s
""".encode()


async def keep_fallback(conn: AsyncConnection, lease: Lease, usd: Decimal) -> None:
    """Have a batch's ledger keep money for the cheapest calls of a shard's open jobs.

    Of a shard that is done a trigger keeps nothing.

    Args:
        conn: A transaction that has proved the lease.
        lease: The dispatch shard.
        usd: All that is kept for the shard from now on, in USD.
    """
    await conn.execute(_KEEP, {**leases.owned_values(lease), "usd": usd})


_KEEP_MORE = f"""
    WITH kept AS (
        UPDATE shards SET fallback_usd = fallback_usd + %(usd)s WHERE {leases.OWNED} AND EXISTS (
            SELECT FROM ledgers l WHERE l.batch_id = shards.batch_id AND l.limit_usd IS NOT NULL)
        RETURNING 1)
    UPDATE ledgers SET fallback_usd = fallback_usd + %(usd)s FROM kept WHERE batch_id = %(batch_id)s
""".encode()


async def keep_freed(conn: AsyncConnection, lease: Lease, usd: Decimal) -> None:
    """Have a batch's ledger keep more for a shard: money that this transaction frees.

    The shard's dispatch makes it what the jobs need.

    Args:
        conn: A transaction.
        lease: The dispatch shard.
        usd: What is kept beyond what was, in USD.
    """
    await conn.execute(_KEEP_MORE, {**leases.owned_values(lease), "usd": usd})


async def keep_fallbacks(
    conn: AsyncConnection, batch_id: UUID, usd: Float64[np.ndarray, " jobs"]
) -> None:
    """Have a batch's ledger keep money for the cheapest calls of the jobs that no worker holds.

    The owner of a shard keeps its own (`keep_fallback`). Nothing is kept for rows at a provider:
    their money is reserved, and pays for the call if the row fails.

    Args:
        conn: A transaction of its own: it waits for the ledger while it holds no other lock.
        batch_id: The batch.
        usd: What each of its jobs keeps, in USD; 0 for those that are not called.
    """
    await ledger.balance(conn, batch_id, locked=True)
    cursor = await conn.execute(
        # A shard that was done meanwhile keeps nothing: its jobs may have been open when the
        # amounts were reckoned.
        "SELECT shard_no, first_job, CASE state WHEN 'done' THEN 0 ELSE job_count END, fallback_usd"
        " FROM shards WHERE batch_id = %s"
        " AND stage = 'dispatch' AND state <> 'leased' FOR NO KEY UPDATE SKIP LOCKED",
        [batch_id],
    )
    shards = await cursor.fetchall()
    usd = usd.copy()
    usd[await provider_batches.held_jobs(conn, batch_id)] = 0.0
    kept = [Decimal(f"{usd[first : first + count].sum():.12f}") for _, first, count, _ in shards]
    more_usd = sum(kept) - sum(before for *_, before in shards)
    await conn.execute(
        "UPDATE shards s SET fallback_usd = kept.usd"
        " FROM unnest(%s::int[], %s::numeric[]) AS kept(shard_no, usd)"
        " WHERE s.batch_id = %s AND s.stage = 'dispatch' AND s.shard_no = kept.shard_no",
        [[shard_no for shard_no, *_ in shards], kept, batch_id],
    )
    await conn.execute(
        "UPDATE ledgers SET fallback_usd = greatest(fallback_usd + %s, 0) WHERE batch_id = %s",
        [more_usd, batch_id],
    )


async def note_warnings(conn: AsyncConnection, batch_id: UUID) -> list[int]:
    """Write down which shares of its budget a batch has used up.

    Any number of workers may ask; of each share one of them learns, once.

    Returns:
        The shares that are new, in per cent, ascending.
    """
    cursor = await conn.execute(
        """
        INSERT INTO budget_warnings (batch_id, limit_usd, percent, spent_usd)
        SELECT batch_id, limit_usd, percent, spent_usd + overrun_usd
        FROM ledgers, unnest(%s::int[]) AS percent
        WHERE batch_id = %s AND limit_usd > 0
          AND (spent_usd + overrun_usd) * 100 >= limit_usd * percent
        ON CONFLICT DO NOTHING RETURNING percent
        """,
        [list(WARN_AT_PERCENT), batch_id],
    )
    return sorted([row[0] async for row in cursor])


_AWAITED_CALL = b"""
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
"""


async def may_give_back(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Return whether a worker that holds a shard of the batch awaits a call of its own.

    What a dead worker reserved is settled by the next owner of its shard; rows at a provider wait
    for hours. Neither is worth holding a shard for.
    """
    cursor = await conn.execute(_AWAITED_CALL, [batch_id])
    return await cursor.fetchone() is not None


async def key_of(conn: AsyncConnection, batch_id: UUID) -> UUID | None:
    """Return the key whose money a batch spends; None where it is nobody's."""
    cursor = await conn.execute("SELECT key_id FROM ledgers WHERE batch_id = %s", [batch_id])
    row = await cursor.fetchone()
    return row[0] if row else None

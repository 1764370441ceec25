"""Leases shards to workers: a worker claims one, renews its lease, and proves it in each write.

A worker that claims a shard holds a lease with an epoch. Whatever it writes for the shard, it first
proves with `fence`, in the same transaction, that the lease is still its own. The fence locks the
shard's row FOR SHARE, and taking a shard over updates that row: so a take-over waits for writes
that were fenced before it, and a write that is fenced after it fails.

A transaction that writes facts takes its locks in one order: shard (fence), ledger, batch.
`shards.finish` runs in a transaction of its own, after the facts are written.
"""

from collections.abc import Collection
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor

from routoo.domain.job import Lease, ShardKey, Stage
from routoo.errors import StaleLeaseError

PROGRESS = """
    (SELECT count(*) FROM results r WHERE s.stage = 'dispatch' AND r.batch_id = s.batch_id
       AND r.job_no >= s.first_job AND r.job_no < s.first_job + s.job_count)
    + (SELECT count(*) FROM kept_answers k WHERE s.stage = 'dispatch' AND k.batch_id = s.batch_id
         AND k.job_no >= s.first_job AND k.job_no < s.first_job + s.job_count)
"""
"""How far a shard `s` is: jobs that have ended, and answers that wait for a decision."""
OWNED = """
    batch_id = %(batch_id)s AND stage = %(stage)s AND shard_no = %(shard_no)s
    AND state = 'leased' AND owner = %(owner)s AND epoch = %(epoch)s
"""
"""Condition that a lease holds; `owned_values` are its parameters."""
_FREE = """
    ((s.state = 'ready' AND (s.not_before IS NULL OR s.not_before <= clock_timestamp()))
     OR (s.state = 'leased' AND s.lease_expires_at < clock_timestamp()))
"""
# A batch that was cancelled or failed is worked on for as long as a provider holds rows of it.
_AT_WORK = """
    (b.status IN ('planning', 'in_progress') OR (
        b.status IN ('cancelling', 'failed') AND s.stage = 'dispatch' AND EXISTS (
            SELECT FROM provider_batches p WHERE p.batch_id = s.batch_id
              AND p.shard_no = s.shard_no AND p.state <> 'closed')))
"""


_CLAIM = f"""
    UPDATE shards s SET state = 'leased', owner = %(owner)s, epoch = epoch + 1,
        (attempts, progress, error) = (
            SELECT CASE now.progress WHEN s.progress THEN s.attempts + 1 ELSE 1 END,
                   now.progress, CASE now.progress WHEN s.progress THEN s.error END
            FROM (SELECT {PROGRESS} AS progress) AS now),
        lease_expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)
    WHERE batch_id = %(batch_id)s AND stage = %(stage)s AND shard_no = %(shard_no)s AND {_FREE}
      AND EXISTS (SELECT FROM batches b WHERE b.id = s.batch_id AND {_AT_WORK})
    RETURNING epoch, first_job, job_count, attempts
""".encode()


async def claim(conn: AsyncConnection, key: ShardKey, owner: str, lease_s: float) -> Lease | None:
    """Take a shard that is ready, or whose owner has been silent too long.

    Claims are counted, so that a shard that ends its workers is found. The count starts anew when
    the shard has made progress since the last claim: then its workers ended for another reason.

    Args:
        conn: A transaction; commit it before the work starts.
        key: The shard.
        owner: Name of the worker, unique among those alive.
        lease_s: How long the lease holds without `renew`, in seconds.

    Returns:
        The lease, or None where the shard is done, blocked, parked, another's or waits, or its
        batch is over.
    """
    cursor = await conn.execute(_CLAIM, {**key_values(key), "owner": owner, "lease_s": lease_s})
    row = await cursor.fetchone()
    return None if row is None else Lease(key, owner, *row)


async def renew(conn: AsyncConnection, lease: Lease, lease_s: float) -> None:
    """Let the lease hold for another `lease_s` seconds from now.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    changes = "lease_expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)"
    await update_owned(conn, lease, changes, lease_s=lease_s)


async def fence(conn: AsyncConnection, lease: Lease) -> None:
    """Prove that the lease holds, and keep the shard from being taken over in this transaction.

    Raises:
        StaleLeaseError: Another worker owns the shard now; write nothing.
    """
    check_fence(await ask_fence(conn, lease), lease)


async def ask_fence(conn: AsyncConnection, lease: Lease) -> AsyncCursor:
    """Ask for the proof without waiting for it, in a pipeline; `check_fence` reads the answer."""
    return await conn.execute(
        f"SELECT FROM shards WHERE {OWNED} FOR SHARE".encode(),
        owned_values(lease),
    )


def check_fence(proof: AsyncCursor, lease: Lease) -> None:
    """Read the answer to `ask_fence`, once the pipeline has it.

    Raises:
        StaleLeaseError: Another worker owns the shard now; roll the transaction back.
    """
    if proof.rowcount == 0:
        raise _stale(lease)


async def due(conn: AsyncConnection, stage: Stage, limit: int) -> list[ShardKey]:
    """Return shards of running batches that wait for a worker or whose lease has expired.

    Args:
        conn: A connection.
        stage: The stage to look at.
        limit: Most shards to return.

    Returns:
        Their keys: those whose lease has expired first, then by the age of their batch.
    """
    cursor = await conn.execute(
        f"""
        SELECT s.batch_id, s.shard_no FROM shards s JOIN batches b ON b.id = s.batch_id
        WHERE s.stage = %s AND {_FREE} AND {_AT_WORK}
        ORDER BY s.state = 'ready', b.created_at, s.batch_id, s.shard_no LIMIT %s
        """.encode(),
        [str(stage), limit],
    )
    return [ShardKey(batch_id, stage, shard_no) async for batch_id, shard_no in cursor]


async def abandoned(conn: AsyncConnection, stage: Stage) -> ShardKey | None:
    """Return a shard of a running batch whose owner has been silent too long, the longest first."""
    cursor = await conn.execute(
        f"""
        SELECT s.batch_id, s.shard_no FROM shards s JOIN batches b ON b.id = s.batch_id
        WHERE s.stage = %s AND s.state = 'leased' AND s.lease_expires_at < clock_timestamp()
          AND {_AT_WORK}
        ORDER BY s.lease_expires_at LIMIT 1
        """.encode(),
        [str(stage)],
    )
    row = await cursor.fetchone()
    return None if row is None else ShardKey(row[0], stage, row[1])


_URGENT = f"""
    WITH due AS MATERIALIZED (
        SELECT s.batch_id, s.stage, s.shard_no, s.state = 'leased' AS is_left, row_number()
            OVER (PARTITION BY s.batch_id, s.stage, s.state ORDER BY s.shard_no) AS place
        FROM shards s JOIN batches b ON b.id = s.batch_id
        WHERE s.stage = ANY(%s) AND {_FREE} AND {_AT_WORK}
    )
    SELECT batch_id, stage, shard_no, is_left FROM (
        SELECT due.*, row_number()
            OVER (PARTITION BY is_left ORDER BY stage = 'select' DESC, random()) AS turn
        FROM due WHERE is_left OR (place = 1 AND NOT EXISTS (
            SELECT FROM shards held WHERE held.batch_id = due.batch_id
              AND held.stage = due.stage AND held.state = 'leased'
              AND held.lease_expires_at >= clock_timestamp()))) AS found
    WHERE turn <= CASE WHEN is_left THEN %s ELSE %s END ORDER BY turn
""".encode()


async def urgent(
    conn: AsyncConnection, stages: Collection[Stage], *, left: int, others: int
) -> tuple[list[ShardKey], list[ShardKey]]:
    """Return shards that must not wait until those before them in the queue are done.

    They are those that a worker left behind, selections, and one shard of each batch of which none
    is at work: so no batch waits for another one's endpoint, and none for a full queue.

    Args:
        conn: A connection.
        stages: The stages to look at.
        left: Most shards to return that were left behind.
        others: Most other shards to return.

    Returns:
        The keys of those that were left behind, and of the others, selections first.
    """
    cursor = await conn.execute(_URGENT, [[str(stage) for stage in stages], left, others])
    found = [(ShardKey(row[0], Stage(row[1]), row[2]), row[3]) async for row in cursor]
    abandoned = [key for key, is_left in found if is_left]
    return abandoned, [key for key, is_left in found if not is_left]


async def untaken_stage(conn: AsyncConnection, batch_id: UUID) -> Stage | None:
    """Return the stage of a running batch's shards that any worker might take while none works.

    Args:
        conn: A connection.
        batch_id: The batch.

    Returns:
        The earliest such stage; None where a worker holds a shard of the batch, or none is ready.
    """
    cursor = await conn.execute(
        f"""
        SELECT s.stage FROM shards s JOIN batches b ON b.id = s.batch_id
        WHERE s.batch_id = %(batch_id)s AND {_FREE} AND {_AT_WORK} AND NOT EXISTS (
            SELECT FROM shards held WHERE held.batch_id = %(batch_id)s AND held.state = 'leased'
              AND held.lease_expires_at >= clock_timestamp())
        ORDER BY array_position(ARRAY['score', 'select', 'dispatch'], s.stage) LIMIT 1
        """.encode(),
        {"batch_id": batch_id},
    )
    row = await cursor.fetchone()
    return None if row is None else Stage(row[0])


async def update_owned(
    conn: AsyncConnection, lease: Lease, changes: str, **values: object
) -> tuple[str, int]:
    """Change the row of a shard whose lease still holds; return its state and attempts then.

    Args:
        conn: A transaction.
        lease: The lease.
        changes: SQL assignments, with `%(name)s` for each of `values`.
        values: What the assignments refer to.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    cursor = await conn.execute(
        f"UPDATE shards SET {changes} WHERE {OWNED} RETURNING state, attempts".encode(),
        {**owned_values(lease), **values},
    )
    row = await cursor.fetchone()
    if row is None:
        raise _stale(lease)
    return row[0], row[1]


def key_values(key: ShardKey) -> dict[str, object]:
    """Return the columns of a shard's key by name, as statements refer to them."""
    return {"batch_id": key.batch_id, "stage": str(key.stage), "shard_no": key.shard_no}


def owned_values(lease: Lease) -> dict[str, object]:
    """Return the parameters of `OWNED`."""
    return {**key_values(lease.key), "owner": lease.owner, "epoch": lease.epoch}


def _stale(lease: Lease) -> StaleLeaseError:
    return StaleLeaseError(
        "another worker took the shard over",
        where=describe(lease.key),
        value=f"epoch {lease.epoch}",
        remedy="Drop this shard's work; its new owner does it",
    )


def describe(key: ShardKey) -> str:
    """Return how messages name a shard."""
    return f"batch {key.batch_id}, {key.stage} shard {key.shard_no}"

"""Shards: hand out, renew, hand back and complete the units of queueing.

A worker that claims a shard holds a lease with an epoch. Whatever it writes for the shard, it first
proves with `fence`, in the same transaction, that the lease is still its own. The fence locks the
shard's row FOR SHARE, and taking a shard over updates that row: so a take-over waits for writes
that were fenced before it, and a write that is fenced after it fails.

Locks are taken in one order: shard (fence), ledger, batch. Write facts first and complete last.
"""

from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor

from routoo.domain.job import BatchStatus, Lease, ShardKey, ShardState, Stage
from routoo.errors import StaleLeaseError, StoreError
from routoo.store import batches
from routoo.store.batches import plans

_OWNED = """
    batch_id = %(batch_id)s AND stage = %(stage)s AND shard_no = %(shard_no)s
    AND state = 'leased' AND owner = %(owner)s AND epoch = %(epoch)s
"""
_UNOWNED = "owner = NULL, lease_expires_at = NULL"
_FREE = """
    ((s.state = 'ready' AND (s.not_before IS NULL OR s.not_before <= clock_timestamp()))
     OR (s.state = 'leased' AND s.lease_expires_at < clock_timestamp()))
"""
# A cancelled batch is worked on for as long as a provider holds rows of it.
_AT_WORK = """
    (b.status IN ('planning', 'in_progress') OR (
        b.status = 'cancelling' AND s.stage = 'dispatch' AND EXISTS (
            SELECT FROM provider_batches p WHERE p.batch_id = s.batch_id
              AND p.shard_no = s.shard_no AND p.state <> 'closed')))
"""


async def claim(conn: AsyncConnection, key: ShardKey, owner: str, lease_s: float) -> Lease | None:
    """Take a shard that is ready, or whose owner has been silent too long.

    Args:
        conn: A transaction; commit it before the work starts.
        key: The shard.
        owner: Name of the worker, unique among those alive.
        lease_s: How long the lease holds without `renew`, in seconds.

    Returns:
        The lease, or None where the shard is done, blocked, parked, another's or waits, or its
        batch is over.
    """
    cursor = await conn.execute(
        f"""
        UPDATE shards s SET state = 'leased', owner = %(owner)s, epoch = epoch + 1,
            attempts = attempts + 1,
            lease_expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)
        WHERE batch_id = %(batch_id)s AND stage = %(stage)s AND shard_no = %(shard_no)s AND {_FREE}
          AND EXISTS (SELECT FROM batches b WHERE b.id = s.batch_id AND {_AT_WORK})
        RETURNING epoch, first_job, job_count
        """.encode(),  # noqa: S608 - literals of this module
        {**_key(key), "owner": owner, "lease_s": lease_s},
    )
    row = await cursor.fetchone()
    return None if row is None else Lease(key, owner, *row)


async def renew(conn: AsyncConnection, lease: Lease, lease_s: float) -> None:
    """Let the lease hold for another `lease_s` seconds from now.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    changes = "lease_expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)"
    await _update(conn, lease, changes, lease_s=lease_s)


async def fence(conn: AsyncConnection, lease: Lease) -> None:
    """Prove that the lease holds, and keep the shard from being taken over in this transaction.

    Raises:
        StaleLeaseError: Another worker owns the shard now; write nothing.
    """
    check_fence(await ask_fence(conn, lease), lease)


async def ask_fence(conn: AsyncConnection, lease: Lease) -> AsyncCursor:
    """Ask for the proof without waiting for it, in a pipeline; `check_fence` reads the answer."""
    return await conn.execute(
        f"SELECT FROM shards WHERE {_OWNED} FOR SHARE".encode(),
        _proof(lease),
    )


def check_fence(proof: AsyncCursor, lease: Lease) -> None:
    """Read the answer to `ask_fence`, once the pipeline has it.

    Raises:
        StaleLeaseError: Another worker owns the shard now; roll the transaction back.
    """
    if proof.rowcount == 0:
        raise _stale(lease)


async def complete(conn: AsyncConnection, lease: Lease) -> None:
    """Mark a shard as done; the last one of a stage unblocks the next, or completes the batch.

    A draft's selection unblocks nothing: its calls wait until the plan is submitted.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: A job of a dispatch shard has no result yet.
    """
    # Of two last shards the second sees the first.
    status = await batches.lock(conn, lease.key.batch_id)
    await _update(conn, lease, f"state = 'done', {_UNOWNED}")
    if lease.key.stage is Stage.DISPATCH:
        await _require_results(conn, lease)
    elif lease.key.stage is Stage.SELECT and status is BatchStatus.PLANNING:
        await plans.finish_planning(conn, lease.key.batch_id)
    else:
        await conn.execute(_UNBLOCK[lease.key.stage], _key(lease.key))
    if lease.key.stage is not Stage.SCORE:  # a re-plan's select shard may be the last one open
        await batches.finish_if_done(conn, lease.key.batch_id)


_UNBLOCK = {
    Stage.SCORE: """
        UPDATE shards s SET state = 'ready'
        WHERE batch_id = %(batch_id)s AND stage = 'select' AND state = 'blocked' AND NOT EXISTS (
            SELECT FROM shards WHERE batch_id = s.batch_id AND stage = 'score' AND state <> 'done')
        """,
    Stage.SELECT: """
        UPDATE shards SET state = 'ready'
        WHERE batch_id = %(batch_id)s AND stage = 'dispatch' AND state = 'blocked'
        """,
}


async def release(conn: AsyncConnection, lease: Lease, *, count_attempt: bool) -> None:
    """Hand a shard back, ready for any worker.

    Args:
        conn: A transaction.
        lease: The lease to give up.
        count_attempt: False where the shard is not to blame, as in a shutdown.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    undo = "" if count_attempt else ", attempts = greatest(attempts - 1, 0)"
    await _update(conn, lease, f"state = 'ready', {_UNOWNED}{undo}")


async def postpone(conn: AsyncConnection, lease: Lease, wait_s: float) -> None:
    """Keep a shard, once it is handed back, from being handed out for `wait_s` seconds.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    changes = "not_before = clock_timestamp() + make_interval(secs => %(wait_s)s)"
    await _update(conn, lease, changes, wait_s=wait_s)


async def fail(conn: AsyncConnection, lease: Lease, error: str, max_attempts: int) -> bool:
    """Hand a shard back after an error; one that failed too often is parked and fails its batch.

    Args:
        conn: A transaction.
        lease: The lease to give up.
        error: What went wrong; kept with the shard.
        max_attempts: Attempts after which the shard is parked.

    Returns:
        Whether it was parked.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await batches.lock(conn, lease.key.batch_id)
    changes = (
        f"{_UNOWNED}, error = %(error)s,"
        " state = CASE WHEN attempts >= %(max_attempts)s THEN 'parked' ELSE 'ready' END"
    )
    state, attempts = await _update(conn, lease, changes, error=error, max_attempts=max_attempts)
    if state != ShardState.PARKED:
        return False
    await batches.fail(conn, lease.key.batch_id, _parked(lease.key, attempts, error))
    return True


async def due(conn: AsyncConnection, stage: Stage, limit: int) -> list[ShardKey]:
    """Return shards of running batches that wait for a worker or whose lease has expired.

    Args:
        conn: A connection.
        stage: The stage to look at.
        limit: Most shards to return.

    Returns:
        Their keys, oldest batch first.
    """
    cursor = await conn.execute(
        f"""
        SELECT s.batch_id, s.shard_no FROM shards s JOIN batches b ON b.id = s.batch_id
        WHERE s.stage = %s AND {_FREE} AND {_AT_WORK}
        ORDER BY b.created_at, s.batch_id, s.shard_no LIMIT %s
        """.encode(),  # noqa: S608 - as above
        [str(stage), limit],
    )
    return [ShardKey(batch_id, stage, shard_no) async for batch_id, shard_no in cursor]


async def ready_keys(conn: AsyncConnection, batch_id: UUID) -> list[ShardKey]:
    """Return a batch's shards that wait for a worker, in order."""
    cursor = await conn.execute(
        """
        SELECT stage, shard_no FROM shards WHERE batch_id = %s AND state = 'ready'
        ORDER BY stage, shard_no
        """,
        [batch_id],
    )
    return [ShardKey(batch_id, Stage(stage), shard_no) async for stage, shard_no in cursor]


async def _update(
    conn: AsyncConnection, lease: Lease, changes: str, **values: object
) -> tuple[str, int]:
    cursor = await conn.execute(
        f"UPDATE shards SET {changes} WHERE {_OWNED} RETURNING state, attempts".encode(),  # noqa: S608 - literals of this module
        {**_proof(lease), **values},
    )
    row = await cursor.fetchone()
    if row is None:
        raise _stale(lease)
    return row[0], row[1]


async def _require_results(conn: AsyncConnection, lease: Lease) -> None:
    cursor = await conn.execute(
        """
        SELECT count(*) FROM generate_series(%(first)s::int, %(last)s::int) AS n
        WHERE NOT EXISTS (SELECT FROM results WHERE batch_id = %(id)s AND job_no = n)
          -- its leader's shard answers for it
          AND NOT EXISTS (SELECT FROM followers WHERE batch_id = %(id)s AND job_no = n)
        """,
        {
            "id": lease.key.batch_id,
            "first": lease.first_job,
            "last": lease.first_job + lease.job_count - 1,
        },
    )
    row = await cursor.fetchone()
    missing = row[0] if row else 0
    if missing:
        raise StoreError(
            f"{missing} jobs of a dispatch shard have no result",
            where=_name(lease.key),
            remedy="Save a result for every job, then complete the shard",
        )


def _key(key: ShardKey) -> dict[str, object]:
    return {"batch_id": key.batch_id, "stage": str(key.stage), "shard_no": key.shard_no}


def _proof(lease: Lease) -> dict[str, object]:
    return {**_key(lease.key), "owner": lease.owner, "epoch": lease.epoch}


def _stale(lease: Lease) -> StaleLeaseError:
    return StaleLeaseError(
        "another worker took the shard over",
        where=_name(lease.key),
        value=f"epoch {lease.epoch}",
        remedy="Drop this shard's work; its new owner does it",
    )


def _name(key: ShardKey) -> str:
    return f"batch {key.batch_id}, {key.stage} shard {key.shard_no}"


def _parked(key: ShardKey, attempts: int, error: str) -> str:
    return f"{key.stage} shard {key.shard_no} failed {attempts} times, last with: {error}"

"""Ends the work on shards, and starts what follows from it.

A shard is a contiguous slice of a batch's jobs in one stage, the unit of queueing. `finish` is the
one way in which a worker that holds a lease gives it up. Every change of a shard's state here
locks the batch's row first, so that two workers that end their shards at once see each other.
"""

from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, Lease, ShardKey, ShardState, Stage
from routoo.errors import StoreError
from routoo.store import batches, leases
from routoo.store.batches import control, plans

_UNOWNED = "owner = NULL, lease_expires_at = NULL"
_NEXT_STAGE = {Stage.SCORE: Stage.SELECT, Stage.SELECT: Stage.DISPATCH}


@dataclass(frozen=True, slots=True)
class Done:
    """Every job of the shard is done with in this stage."""


@dataclass(frozen=True, slots=True)
class HandedBack:
    """A part of the shard is left for later; the attempt doesn't count as a failure."""

    wait_s: float | None = None
    """No worker gets the shard before so many seconds have passed; None = at once."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The work ended with an error."""

    error: str
    """What went wrong; kept with the shard."""
    max_attempts: int
    """Attempts after which the shard is parked and its batch fails; 0 parks it at once."""


WorkOutcome = Done | HandedBack | Failed
"""How a worker's work on a shard ended."""


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """What follows from the end of a shard's work."""

    ready: tuple[ShardKey, ...] = ()
    """Shards that a worker may take now, to be published on the queue."""
    parked: bool = False
    """Whether the shard failed too often, and its batch with it."""


async def finish(conn: AsyncConnection, lease: Lease, outcome: WorkOutcome) -> FinishedShard:
    """End a worker's work on a shard and give up its lease, all in one transaction.

    - Done: the last shard of a stage unblocks the next stage, or completes the batch. The selection
      of a plan unblocks nothing: its calls wait until the plan is submitted.
    - Handed back: the shard is ready for any worker, at once or after a wait.
    - Failed: the shard is ready for another attempt; one that failed too often is parked, and its
      batch fails. It is not published: the recovery tick finds it, some seconds later.

    Where the batch is being cancelled and this was the last shard at work, the batch ends.

    Args:
        conn: A transaction of its own, after the transactions that wrote the shard's facts.
        lease: The lease to give up.
        outcome: How the work ended.

    Returns:
        What follows.

    Raises:
        StaleLeaseError: Another worker owns the shard now; nothing was changed.
        StoreError: A job of a dispatch shard that is said to be done has no result yet.
        NotFoundError: The batch is gone.
    """
    status = await batches.lock(conn, lease.key.batch_id)
    match outcome:
        case Done():
            finished = await _complete(conn, lease, status)
        case HandedBack(wait_s):
            finished = await _hand_back(conn, lease, wait_s)
        case Failed(error, max_attempts):
            finished = await _fail(conn, lease, error, max_attempts)
    if status is BatchStatus.CANCELLING:
        await control.end_cancelled(conn, lease.key.batch_id)
    return finished


async def _complete(conn: AsyncConnection, lease: Lease, status: BatchStatus) -> FinishedShard:
    await leases.update_owned(conn, lease, f"state = 'done', {_UNOWNED}")
    batch_id, stage = lease.key.batch_id, lease.key.stage
    if stage is Stage.DISPATCH:
        await _require_results(conn, lease)
    elif stage is Stage.SELECT and status is BatchStatus.PLANNING:
        await plans.finish_planning(conn, batch_id)
    else:
        await conn.execute(_UNBLOCK[stage], {"batch_id": batch_id})
    if stage is not Stage.SCORE:  # a re-plan's select shard may be the last one open
        await batches.finish_if_done(conn, batch_id)
    if stage is Stage.DISPATCH:
        return FinishedShard()
    ready = await ready_keys(conn, batch_id)
    return FinishedShard(tuple(key for key in ready if key.stage is _NEXT_STAGE[stage]))


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


async def _hand_back(conn: AsyncConnection, lease: Lease, wait_s: float | None) -> FinishedShard:
    changes = f"state = 'ready', {_UNOWNED}, attempts = greatest(attempts - 1, 0)"
    if wait_s is None:
        await leases.update_owned(conn, lease, changes)
        return FinishedShard(ready=(lease.key,))
    changes += ", not_before = clock_timestamp() + make_interval(secs => %(wait_s)s)"
    await leases.update_owned(conn, lease, changes, wait_s=wait_s)
    return FinishedShard()


async def _fail(
    conn: AsyncConnection, lease: Lease, error: str, max_attempts: int
) -> FinishedShard:
    changes = (
        f"{_UNOWNED}, error = %(error)s,"
        " state = CASE WHEN attempts >= %(max_attempts)s THEN 'parked' ELSE 'ready' END"
    )
    state, attempts = await leases.update_owned(
        conn, lease, changes, error=error, max_attempts=max_attempts
    )
    if state != ShardState.PARKED:
        return FinishedShard()
    stage, shard_no = lease.key.stage, lease.key.shard_no
    reason = f"{stage} shard {shard_no} failed {attempts} times, last with: {error}"
    await batches.fail(conn, lease.key.batch_id, reason)
    return FinishedShard(parked=True)


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


async def _require_results(conn: AsyncConnection, lease: Lease) -> None:
    cursor = await conn.execute(
        """
        SELECT count(*) FROM generate_series(%(first)s::int, %(last)s::int) AS n
        WHERE NOT EXISTS (SELECT FROM results WHERE batch_id = %(id)s AND job_no = n)
          -- a duplicate gets its result with its original's, which may be in another shard
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
            where=leases.describe(lease.key),
            remedy="Save a result for every job, then finish the shard",
        )


_EXHAUSTED = """
    state = 'leased' AND lease_expires_at < clock_timestamp() AND attempts >= %s
    AND batch_id IN (SELECT id FROM batches WHERE status IN ('planning', 'in_progress'))
"""


async def park_exhausted(conn: AsyncConnection, max_attempts: int) -> list[ShardKey]:
    """Park shards that killed every worker that took them, and fail their batches.

    A worker that is killed by its shard reports no error: only the expired lease and the count of
    attempts show it.

    Args:
        conn: A transaction.
        max_attempts: Attempts after which an abandoned shard is parked.

    Returns:
        Keys of the shards parked now.
    """
    # Batches first, as in `finish`, so that the two can't wait for each other.
    await conn.execute(
        f"SELECT FROM batches WHERE id IN (SELECT batch_id FROM shards WHERE {_EXHAUSTED})"
        " ORDER BY id FOR NO KEY UPDATE",
        [max_attempts],
    )
    cursor = await conn.execute(
        f"""
        UPDATE shards SET state = 'parked', owner = NULL, lease_expires_at = NULL,
            error = coalesce(error, 'its worker died')
        WHERE {_EXHAUSTED} RETURNING batch_id, stage, shard_no
        """,
        [max_attempts],
    )
    parked = [ShardKey(row[0], Stage(row[1]), row[2]) async for row in cursor]
    for key in parked:
        reason = f"{key.stage} shard {key.shard_no} lost its worker {max_attempts} times"
        await batches.fail(conn, key.batch_id, reason)
    return parked

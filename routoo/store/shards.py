"""Ends the work on shards, and starts what follows from it.

A shard is a contiguous slice of a batch's jobs in one stage, the unit of queueing. `finish` is the
one way in which a worker that holds a lease gives it up. Every change of a shard's state here
locks the batch's row first, so that two workers that end their shards at once see each other.
"""

from dataclasses import dataclass, replace
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, Lease, ShardKey, ShardState, Stage
from routoo.errors import StoreError
from routoo.store import batches, leases, lost_calls, predictions, put_off, results
from routoo.store.batches import control, plans
from routoo.store.encoding import storable
from routoo.store.put_off import WaitsFor

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
    waits_for: WaitsFor | None = None
    """What ends that wait earlier; None = nothing does."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The work ended with an error."""

    error: str
    """What went wrong; kept with the shard."""
    permanent: bool = False
    """No other attempt can help: the shard is parked, and its batch fails."""


WorkOutcome = Done | HandedBack | Failed
"""How a worker's work on a shard ended."""


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """What follows from the end of a shard's work."""

    ready: tuple[ShardKey, ...] = ()
    """Shards that a worker may take now, to be published on the queue."""
    parked: bool = False
    """Whether the shard failed for good, and its batch with it."""
    ended: BatchStatus | None = None
    """How the batch ended, where it ended with this shard; None where it failed with it."""


async def finish(conn: AsyncConnection, lease: Lease, outcome: WorkOutcome) -> FinishedShard:
    """End a worker's work on a shard and give up its lease, all in one transaction.

    - Done: the last shard of a stage unblocks the next stage, or completes the batch. The selection
      of a plan unblocks nothing: its calls wait until the plan is submitted.
    - Handed back: the shard is ready for any worker, at once or after a wait.
    - Failed: the shard is ready for another attempt. It is not published: the recovery tick finds
      it, some seconds later, or splits it. One that failed for good is parked, and its batch fails.

    Where the batch is being cancelled and this was the last shard at work, the batch ends. Where it
    failed meanwhile, what is still reserved is settled. A score shard leaves both to others, the
    recovery tick among them: its worker has no right to end jobs or to settle money.

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
        case HandedBack():
            finished = await _hand_back(conn, lease, outcome)
        case Failed():
            finished = await _fail(conn, lease, outcome)
    if lease.key.stage is Stage.SCORE:
        return finished
    if status is BatchStatus.CANCELLING:
        if await control.end_cancelled(conn, lease.key.batch_id):
            return replace(finished, ended=BatchStatus.CANCELLED)
    elif status.is_over or finished.parked:
        await control.settle_left(conn, lease.key.batch_id)
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
        if stage is Stage.SELECT:  # jobs that waited for a model may have another one now
            await put_off.end_waits(conn, batch_id)
    if stage is not Stage.SCORE:  # a re-plan's select shard may be the last one open
        is_over = await batches.finish_if_done(conn, batch_id)
    else:
        is_over = False
    ended = BatchStatus.COMPLETED if is_over else None
    if stage is Stage.DISPATCH:
        return FinishedShard(ended=ended)
    ready = await ready_keys(conn, batch_id)
    due = tuple(key for key in ready if key.stage is _NEXT_STAGE[stage])
    return FinishedShard(due, ended=ended)


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


async def _hand_back(conn: AsyncConnection, lease: Lease, outcome: HandedBack) -> FinishedShard:
    changes = f"state = 'ready', {_UNOWNED}, attempts = greatest(attempts - 1, 0)"
    if outcome.wait_s is None:
        await leases.update_owned(conn, lease, changes)
        return FinishedShard(ready=(lease.key,))
    changes += (
        ", not_before = clock_timestamp() + make_interval(secs => %(wait_s)s),"
        " waits_for = %(endpoints)s, waits_usd = %(usd)s"
    )
    waits_for = outcome.waits_for
    endpoints = None if waits_for is None else sorted(waits_for.endpoints)
    usd = None if waits_for is None else waits_for.usd
    await leases.update_owned(
        conn, lease, changes, wait_s=outcome.wait_s, endpoints=endpoints, usd=usd
    )
    return FinishedShard()


async def _fail(conn: AsyncConnection, lease: Lease, failed: Failed) -> FinishedShard:
    state = ShardState.PARKED if failed.permanent else ShardState.READY
    changes = f"{_UNOWNED}, error = %(error)s, state = %(state)s"
    error = storable(failed.error)
    await leases.update_owned(conn, lease, changes, error=error, state=str(state))
    if failed.permanent:
        stage, shard_no = lease.key.stage, lease.key.shard_no
        reason = f"{stage} shard {shard_no} failed, and no other attempt can help: {error}"
        await control.fail(conn, lease.key.batch_id, reason)
    return FinishedShard(parked=failed.permanent)


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


_TRIES_OF_PART = 2
"""A part of a shard that was split is split again after so many failures."""
_SELECT_PATIENCE = 2
"""A selection can't be split: it may fail so many times as often."""
_MOST_ISOLATED = 20
"""If so many jobs of a batch failed alone, it is not the jobs: the batch fails."""
WORKER_DIED, STAGE_FAILED = "worker_died", "stage_failed"
"""Error codes of jobs that were found to be what a shard failed for."""
_EXHAUSTED = f"""
    ((s.state = 'leased' AND s.lease_expires_at < clock_timestamp())
     OR (s.state = 'ready' AND s.error IS NOT NULL))
    AND s.attempts >= %(most)s * CASE s.stage WHEN 'select' THEN {_SELECT_PATIENCE} ELSE 1 END
    AND s.batch_id IN (SELECT id FROM batches WHERE status IN ('planning', 'in_progress'))
    AND {leases.PROGRESS} = s.progress
"""
_HAS_PROVIDER_ROWS = """
    EXISTS (SELECT FROM provider_batches p WHERE p.batch_id = s.batch_id AND s.stage = 'dispatch'
              AND p.shard_no = s.shard_no AND p.state <> 'closed')
"""


@dataclass(frozen=True, slots=True)
class ExhaustedShard:
    """A shard that failed, or whose workers died, too often without any progress between."""

    key: ShardKey
    first_job: int
    job_count: int
    attempts: int
    error: str | None
    """Its last error; None where its workers died without one."""
    has_provider_rows: bool
    """Whether a provider's batch holds rows of it, so that it can't be split."""

    @property
    def cause(self) -> str:
        """What happened, for people."""
        if self.error is None:
            return f"{self.attempts} workers died one after the other while they worked on it"
        return f"it failed {self.attempts} times, last with: {self.error}"


_LOCK_EXHAUSTED = f"""
    SELECT s.batch_id, s.stage, s.shard_no, s.first_job, s.job_count, s.attempts, s.error,
           {_HAS_PROVIDER_ROWS}
    FROM shards s WHERE {_EXHAUSTED} FOR UPDATE SKIP LOCKED
""".encode()


async def isolate_failing(conn: AsyncConnection, max_attempts: int) -> list[ExhaustedShard]:
    """Split the shards that fail or end their workers, until the job is found that is the cause.

    Each of them is divided into two, which are worked on for themselves. Where it has one job only,
    that job gets a failed result with the cause, and all others go on. A selection, which can't be
    split, is parked and its batch fails; so does a batch of which too many jobs failed so.

    A worker that is killed by its shard reports no error: only the expired lease and the count of
    claims without progress show it.

    Args:
        conn: A transaction.
        max_attempts: Attempts without progress after which a shard is split.

    Returns:
        What was split, ended or parked.
    """
    # Batches first, as in `finish`, so that the two can't wait for each other.
    values = {"most": max_attempts}
    await conn.execute(
        "SELECT FROM batches WHERE id IN"
        f" (SELECT s.batch_id FROM shards s WHERE {_EXHAUSTED}) ORDER BY id FOR NO KEY UPDATE",
        values,
    )
    cursor = await conn.execute(_LOCK_EXHAUSTED, values)
    found = [
        ExhaustedShard(ShardKey(row[0], Stage(row[1]), row[2]), *row[3:])
        for row in await cursor.fetchall()
    ]
    for shard in found:
        await _isolate(conn, shard, max_attempts)
    return found


async def _isolate(conn: AsyncConnection, shard: ExhaustedShard, max_attempts: int) -> None:
    if shard.key.stage is Stage.SELECT or (shard.has_provider_rows and shard.error):
        await _park(conn, shard)
    elif shard.has_provider_rows:
        await _change(conn, shard, "state = 'ready', attempts = 0")
    elif shard.job_count > 1:
        await _split(conn, shard, tries=max(0, max_attempts - _TRIES_OF_PART))
    else:
        await _end_alone(conn, shard)


async def _change(
    conn: AsyncConnection, shard: ExhaustedShard, changes: str, **values: object
) -> None:
    """Change a shard, and take it from an owner that was silent too long."""
    await conn.execute(
        f"UPDATE shards SET {_UNOWNED}, epoch = epoch + 1, {changes} WHERE batch_id = %(batch_id)s"
        " AND stage = %(stage)s AND shard_no = %(shard_no)s",
        {**leases.key_values(shard.key), **values},
    )


async def _park(conn: AsyncConnection, shard: ExhaustedShard) -> None:
    await _change(conn, shard, "state = 'parked', error = %(error)s", error=shard.cause)
    reason = f"{shard.key.stage} shard {shard.key.shard_no}: {shard.cause}"
    await control.fail(conn, shard.key.batch_id, reason)


async def _split(conn: AsyncConnection, shard: ExhaustedShard, *, tries: int) -> None:
    kept = (shard.job_count + 1) // 2
    values = {"kept": kept, "tries": tries}
    changes = "state = 'ready', job_count = %(kept)s, attempts = %(tries)s"
    await _change(conn, shard, changes, **values)
    await conn.execute(
        """
        INSERT INTO shards (batch_id, stage, shard_no, first_job, job_count, state, attempts, error,
                            next_deadline)
        SELECT batch_id, stage, 1 + (SELECT max(shard_no) FROM shards o
                                     WHERE o.batch_id = s.batch_id AND o.stage = s.stage),
               first_job + job_count, %(rest)s, 'ready', attempts, error, next_deadline
        FROM shards s
        WHERE batch_id = %(batch_id)s AND stage = %(stage)s AND shard_no = %(shard_no)s
        """,
        {**leases.key_values(shard.key), "rest": shard.job_count - kept},
    )


async def _end_alone(conn: AsyncConnection, shard: ExhaustedShard) -> None:
    """Give the only job of a shard its failed result, and end the shard."""
    key, code = shard.key, STAGE_FAILED if shard.error else WORKER_DIED
    await lost_calls.write_off_job(conn, key.batch_id, shard.first_job)
    message = f"the {key.stage} stage works on this job alone, and {shard.cause}"
    await results.end_failed(conn, key.batch_id, shard.first_job, code=code, message=message)
    if key.stage is Stage.SCORE:
        await predictions.save_unknown(conn, key.batch_id, shard.first_job)
    await _change(conn, shard, "state = 'done'")
    if await _count_isolated(conn, key.batch_id) >= _MOST_ISOLATED:
        reason = f"{_MOST_ISOLATED} jobs failed for themselves: {shard.cause}"
        await control.fail(conn, key.batch_id, reason)
        return
    if key.stage is Stage.SCORE:
        await conn.execute(_UNBLOCK[key.stage], {"batch_id": key.batch_id})
    else:
        await batches.finish_if_done(conn, key.batch_id)


async def _count_isolated(conn: AsyncConnection, batch_id: UUID) -> int:
    cursor = await conn.execute(
        "SELECT count(*) FROM results WHERE batch_id = %s AND error_code = ANY(%s)",
        [batch_id, [WORKER_DIED, STAGE_FAILED]],
    )
    row = await cursor.fetchone()
    return row[0] if row else 0

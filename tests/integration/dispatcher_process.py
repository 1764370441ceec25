"""A dispatcher without a broker: works on a batch's dispatch shards until all are done.

`python -m tests.integration.dispatcher_process DATABASE_URL BATCH_ID SPAN_S`
"""

import asyncio
import os
import sys
from uuid import UUID

import uvloop
from psycopg import AsyncConnection

from routoo.client.endpoints import ChatEndpoints
from routoo.domain.job import ShardKey, Stage
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.store import batches, leases, shards
from routoo.store.database import Database
from routoo.store.endpoints import DatabaseLimits

SHARDS_AT_ONCE = 4
_PAUSE_S = 0.2
_LEASE_S = 600.0
"""Nobody renews it: it must outlast a shard."""
ATTEMPTS_A_JOB = 8
"""About 8 % of the proof's calls fail: with the usual four attempts a job in 30,000 would fail by
chance alone, with eight one in a billion, so a job that fails is a defect."""


def work(database_url: str, batch_id: UUID, span_s: float) -> None:
    """Dispatch the batch; the body of a process."""
    uvloop.run(_run(database_url, batch_id, span_s))


async def _run(database_url: str, batch_id: UUID, span_s: float) -> None:
    async with (
        Database(database_url, max_size=2 * SHARDS_AT_ONCE + 2) as db,
        ChatEndpoints(limits=DatabaseLimits(db, span_s=span_s)) as client,
    ):
        await asyncio.gather(*(_work(db, client, batch_id) for _ in range(SHARDS_AT_ONCE)))


async def _work(db: Database, client: ChatEndpoints, batch_id: UUID) -> None:
    while True:
        async with db.transaction() as conn:
            batch = await batches.get(conn, batch_id)
            ready = await shards.ready_keys(conn, batch_id)
            left = await _shards_left(conn, batch_id)
        if not left:
            return
        due = [key for key in ready if key.stage is Stage.DISPATCH]
        if not await _dispatch(db, client, batch, due):
            await asyncio.sleep(_PAUSE_S)  # the rest is others' or postponed


async def _shards_left(conn: AsyncConnection, batch_id: UUID) -> bool:
    found = await conn.execute(
        "SELECT FROM shards WHERE batch_id = %s AND stage = 'dispatch' AND state <> 'done' LIMIT 1",
        [batch_id],
    )
    return await found.fetchone() is not None


async def _dispatch(
    db: Database, client: ChatEndpoints, batch: batches.BatchRecord, due: list[ShardKey]
) -> bool:
    """Work on the first shard that can be had; return whether there was one."""
    for key in due:
        async with db.transaction() as conn:
            lease = await leases.claim(conn, key, f"dispatcher-{os.getpid()}", _LEASE_S)
        if lease is None:
            continue
        options = DispatchOptions(max_attempts_per_model=ATTEMPTS_A_JOB)
        stop = asyncio.Event()
        # Handed back where jobs wait for money or for an endpoint: the shard comes back later.
        outcome = await dispatch_shard(db, client, lease, batch, options=options, stop=stop)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, outcome)
        return True
    return False


if __name__ == "__main__":
    work(sys.argv[1], UUID(sys.argv[2]), float(sys.argv[3]))

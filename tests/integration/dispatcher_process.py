"""A dispatcher without a broker: works on a batch's dispatch shards until all are done.

`python -m tests.integration.dispatcher_process DATABASE_URL BATCH_ID SPAN_S`
"""

import asyncio
import os
import sys
from uuid import UUID

import uvloop

from routoo.client.endpoints import ChatEndpoints
from routoo.domain.job import ShardKey, Stage
from routoo.pipeline.dispatch import DispatchOptions, dispatch_shard
from routoo.store import batches, shards
from routoo.store.database import Database
from routoo.store.endpoint_limits import DatabaseLimits

SHARDS_AT_ONCE = 4
ATTEMPTS_A_JOB = 8
"""About 8 % of the proof's calls fail: with the usual four attempts a job in 30,000 would fail by
chance alone, with eight one in a billion, so that a job that fails tells of a defect."""


async def run(database_url: str, batch_id: UUID, span_s: float) -> None:
    async with (
        Database(database_url, max_size=2 * SHARDS_AT_ONCE + 2) as db,
        ChatEndpoints(limits=DatabaseLimits(db, span_s=span_s)) as client,
    ):
        await asyncio.gather(*(_work(db, client, batch_id) for _ in range(SHARDS_AT_ONCE)))


async def _work(db: Database, client: ChatEndpoints, batch_id: UUID) -> None:
    while True:
        async with db.transaction() as conn:
            batch = await batches.get(conn, batch_id)
            due = await shards.ready_keys(conn, batch_id)
        due = [key for key in due if key.stage is Stage.DISPATCH]
        if not due:
            return
        await _dispatch(db, client, batch, due)


async def _dispatch(
    db: Database, client: ChatEndpoints, batch: batches.BatchRecord, due: list[ShardKey]
) -> None:
    for key in due:
        async with db.transaction() as conn:
            lease = await shards.claim(conn, key, f"dispatcher-{os.getpid()}", 120.0)
        if lease is not None:
            options = DispatchOptions(max_attempts_per_model=ATTEMPTS_A_JOB)
            assert await dispatch_shard(
                db, client, lease, batch, options=options, stop=asyncio.Event()
            )
            async with db.transaction() as conn:
                await shards.complete(conn, lease)
            return


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], UUID(sys.argv[2]), float(sys.argv[3])))

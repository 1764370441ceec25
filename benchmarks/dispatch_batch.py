"""Brings a batch to its dispatch stage and dispatches it: the side of ours in dispatch.py."""

import asyncio
from collections import deque
from decimal import Decimal
from uuid import UUID

import numpy as np
import orjson
from dispatch_call import BODY, Taken
from dispatch_judge import MODELS

from routoo.client.endpoints import ChatEndpoints
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import Lease, ShardKey, Stage
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.prediction import Assignment, Predictions
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.store import (
    assignments,
    batches,
    checkpoints,
    jobs,
    leases,
    predictions,
    put_off,
    shards,
)
from routoo.store.database import Database
from routoo.store.endpoints import DatabaseLimits
from worker.runtime import tune_garbage_collector

SHARD_SIZE = 1000
AT_ONCE = 4
"""Shards that a dispatcher works on at once, as in the default settings."""
LEASE_S = 600.0
_LOOK_S = 0.05
"""Time between two looks whether a shard that waits is due, in seconds."""


AMPLE_A_MINUTE = 100_000_000
"""Requests and tokens: limits that are kept account of and never reached."""


def pool_of(base_url: str, concurrency: int, *, limited: bool) -> Pool:
    """Return a pool of two models at one endpoint, its rates limited or not."""
    rate = AMPLE_A_MINUTE if limited else None
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=Endpoint(
                    base_url=base_url,
                    max_concurrency=concurrency,
                    requests_per_minute=rate,
                    tokens_per_minute=rate,
                ),
                price_usd_per_mtok=Tariff(prompt=Decimal("0.15"), completion=Decimal("0.6")),
                context_window_tokens=8192,
            )
            for name in MODELS
        )
    )


async def prepare(database_url: str, pool: Pool, count: int, judge: bytes | None = None) -> UUID:
    """Submit a batch with an ample budget, score it and select for it.

    With a judge, every second job is a probe, and about half of these are escalated.
    """
    body = orjson.dumps(BODY).decode()
    async with Database(database_url) as db:
        async with db.transaction() as conn:
            new = batches.NewBatch(name="bench", pool=pool, budget_usd=Decimal(1_000_000))
            batch_id, _ = await batches.create(conn, new)
            async with jobs.copy_jobs(conn, batch_id) as copy:
                await copy.write([jobs.JobInput(no, f"job-{no}", body) for no in range(count)])
            await batches.seal(conn, batch_id, count, SHARD_SIZE)
        for shard_no in range(-(-count // SHARD_SIZE)):
            lease = await _claim(db, ShardKey(batch_id, Stage.SCORE, shard_no))
            async with db.transaction() as conn:
                await predictions.save(conn, lease, _predictions(lease.job_count))
                if judge is not None:
                    await checkpoints.keep_judge(conn, lease, judge)
                await shards.finish(conn, lease, shards.Done())
        lease = await _claim(db, ShardKey(batch_id, Stage.SELECT, 0))
        async with db.transaction() as conn:
            probed = [judge is not None and no % 2 == 0 for no in range(count)]
            chosen = [
                Assignment(no, MODELS[0], 0.5, Decimal("0.001"), probe)
                for no, probe in enumerate(probed)
            ]
            await assignments.save(conn, lease, chosen, 1)
            await shards.finish(conn, lease, shards.Done())
    return batch_id


async def dispatch_all(
    database_url: str, batch_id: str, shard_count: int, *, limited: bool
) -> Taken:
    """Dispatch a batch's shards as a worker does, from its first claim to its completion.

    Limited, the endpoint's account is shared with other dispatchers through the database; else it
    is this process's own, and counts the calls in flight only.
    """
    tune_garbage_collector()
    key, taken = UUID(batch_id), Taken()
    waiting = deque(range(shard_count))
    async with (
        Database(database_url, max_size=2 * AT_ONCE + 2) as db,
        ChatEndpoints(limits=DatabaseLimits(db) if limited else None) as client,
    ):
        async with db.transaction() as conn:
            batch = await batches.get(conn, key)

        async def work() -> None:
            while waiting:
                shard_no = waiting.popleft()
                lease = await _claim_when_due(db, ShardKey(key, Stage.DISPATCH, shard_no))
                options = DispatchOptions()
                outcome = await dispatch_shard(
                    db, client, lease, batch, options=options, stop=asyncio.Event()
                )
                async with db.transaction() as conn:
                    await shards.finish(conn, lease, outcome)
                if outcome != shards.Done():  # its jobs wait for those of others
                    waiting.append(shard_no)

        taken.start()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        taken.stop()
        async with db.transaction() as conn:
            found = await conn.execute(
                "SELECT latency_s FROM results WHERE batch_id = %s AND status = 'succeeded'", [key]
            )
            taken.latencies_s = [row[0] for row in await found.fetchall()]
            made = await conn.execute("SELECT count(*) FROM attempts WHERE batch_id = %s", [key])
            (taken.calls,) = (await made.fetchall())[0]
    return taken


async def _claim_when_due(db: Database, key: ShardKey) -> Lease:
    while True:
        async with db.transaction() as conn:
            await put_off.make_due(conn)
            lease = await leases.claim(conn, key, "benchmark", LEASE_S)
        if lease is not None:
            return lease
        await asyncio.sleep(_LOOK_S)


async def _claim(db: Database, key: ShardKey) -> Lease:
    async with db.transaction() as conn:
        lease = await leases.claim(conn, key, "benchmark", LEASE_S)
    assert lease is not None
    return lease


def _predictions(count: int) -> Predictions:
    quality = np.tile(np.array([0.3, 0.99], np.float32), (count, 1))
    quality[::4, 1] = 0.1  # a quarter of the jobs, half of the probed ones: nothing better is known
    return Predictions(
        quality=quality,
        quality_std=np.zeros((count, 2), np.float32),
        completion_tokens=np.full((count, 2), 6, np.float32),
        novelty=np.zeros(count, np.float32),
        truncated=np.zeros(count, np.bool_),
    )

"""Batches whose dispatch runs against a fake endpoint, and what can be read of them."""

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import orjson

from routoo.client.endpoints import ChatEndpoints
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import SLA, Lease, ShardKey, Stage
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.prediction import Assignment, Predictions
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.pipeline.select.shard import select_shard
from routoo.store import assignments, batches, jobs, leases, predictions, shards
from routoo.store.database import Database
from routoo.store.endpoints import DatabaseLimits
from tests.fakes.openai_server import FakeServer

PATIENCE_S = 120.0
"""Longest wait of a test for what must come about, on a machine that others use too."""
NO_FIELDS: dict[str, Any] = {}
PRICES = {"small": Decimal(1), "large": Decimal(10)}
THREE_PRICES = {"small": Decimal(1), "twin": Decimal("0.5"), "large": Decimal(10)}


def pool_of(server: FakeServer, prices: Mapping[str, Decimal] = PRICES) -> Pool:
    """Return a pool of a cheap and a dear model at the server, or of models of other prices."""
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=Endpoint(base_url=server.base_url, max_concurrency=8, timeout_s=5),
                price_usd_per_mtok=Tariff(prompt=price, completion=price),
                context_window_tokens=4096,
            )
            for name, price in prices.items()
        )
    )


def body_of(number: int, **fields: Any) -> str:
    """Return the request of a job as JSON text."""
    messages = [{"role": "user", "content": f"Question number {number}?"}]
    return orjson.dumps({"messages": messages, "max_tokens": 20, **fields}).decode()


async def prepare(
    db: Database,
    pool: Pool,
    count: int,
    *,
    model: str | None = "small",
    sla: SLA = jobs.NO_LIMITS,
    body: Mapping[str, Any] = NO_FIELDS,
    **options: Any,
) -> Lease:
    """Bring a batch to the point where its one dispatch shard is leased.

    Without a model the jobs are selected as in earnest. Further options are those of `NewBatch`.
    """
    async with db.transaction() as conn:
        new = batches.NewBatch("test", pool, **options)
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write(
                [jobs.JobInput(n, f"job-{n}", body_of(n, **body), sla) for n in range(count)]
            )
        await batches.seal(conn, batch_id, count, 1000)
    score = await claim(db, ShardKey(batch_id, Stage.SCORE, 0))
    async with db.transaction() as conn:
        await predictions.save(conn, score, predictions_of(count, len(pool.models)))
        await shards.finish(conn, score, shards.Done())
    if model is None:
        await select(db, batch_id)
        return await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
    lease = await claim(db, ShardKey(batch_id, Stage.SELECT, 0))
    async with db.transaction() as conn:
        chosen = [Assignment(number, model, 0.5, Decimal("0.0001")) for number in range(count)]
        await assignments.save(conn, lease, chosen, 1)
        await shards.finish(conn, lease, shards.Done())
    return await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))


async def select(db: Database, batch_id: UUID) -> None:
    """Do the select stage, the first time or again."""
    lease = await claim(db, ShardKey(batch_id, Stage.SELECT, 0))
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    await select_shard(db, lease, batch)
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())


def predictions_of(count: int, models: int = 2) -> Predictions:
    """Return predictions by which the dear model, the last one, is the better one."""
    return Predictions(
        quality=np.tile(np.float32([*([0.5] * (models - 1)), 0.9]), (count, 1)),
        quality_std=np.zeros((count, models), np.float32),
        completion_tokens=np.full((count, models), 5, np.float32),
        novelty=np.zeros(count, np.float32),
        truncated=np.zeros(count, np.bool_),
    )


async def claim(db: Database, key: ShardKey, lease_s: float = 60.0) -> Lease:
    """Claim a shard that is known to be free."""
    async with db.transaction() as conn:
        lease = await leases.claim(conn, key, "worker", lease_s)
    assert lease is not None
    return lease


async def dispatch(
    db: Database, lease: Lease, *, stop: asyncio.Event | None = None, **changes: Any
) -> bool:
    """Dispatch a leased shard, and return whether it is done."""
    return isinstance(await dispatch_to_outcome(db, lease, stop=stop, **changes), shards.Done)


async def dispatch_to_outcome(
    db: Database, lease: Lease, *, stop: asyncio.Event | None = None, **changes: Any
) -> shards.WorkOutcome:
    """Dispatch a leased shard, and return how that ended.

    With `shared`, the accounts of endpoints are in the database, where a plan reads them. With
    `client`, that one is used, as by a worker that has dispatched other shards before.
    """
    limits = DatabaseLimits(db) if changes.pop("shared", False) else None
    async with db.transaction() as conn:
        batch = await batches.get(conn, lease.key.batch_id)
    client = changes.pop("client", None)
    opened = (
        ChatEndpoints(batch.pool.models, limits=limits) if client is None else nullcontext(client)
    )
    async with opened as endpoints:
        options = DispatchOptions(
            **{"max_attempts_per_model": 2, "drain_grace_s": 0.2, "replan_wait_s": 0.2} | changes
        )
        return await dispatch_shard(
            db,
            endpoints,
            lease,
            batch,
            options=options,
            stop=stop or asyncio.Event(),
        )


async def rows(db: Database, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Return what a query finds."""
    async with db.transaction() as conn:
        return await (await conn.execute(query.encode(), values)).fetchall()


async def requests_at(server: FakeServer, count: int) -> None:
    """Wait until the server has been asked so often."""
    async with asyncio.timeout(PATIENCE_S):
        while len(server.requests) < count:
            await asyncio.sleep(0.01)


async def some_result(db: Database) -> None:
    """Wait until a job has a result."""
    async with asyncio.timeout(PATIENCE_S):
        while not await rows(db, "SELECT FROM results"):
            await asyncio.sleep(0.05)


def billed_usd(server: FakeServer) -> Decimal:
    """Return what the endpoint would charge for all it did."""
    return (
        sum(
            (
                THREE_PRICES[served.model] * (served.prompt_tokens + served.completion_tokens)
                for served in server.requests
            ),
            Decimal(0),
        )
        / 1_000_000
    )

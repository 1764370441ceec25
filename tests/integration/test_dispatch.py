"""The dispatch stage against a real database and a real local endpoint."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest

from routoo.client.endpoints import ChatEndpoints
from routoo.domain.job import Lease, ShardKey, Stage
from routoo.domain.pool import CandidateModel, Endpoint, Pool, Tariff
from routoo.domain.prediction import Assignment, Predictions
from routoo.errors import StaleLeaseError
from routoo.pipeline.dispatch import DispatchOptions, dispatch_shard
from routoo.store import assignments, batches, jobs, ledger, predictions, shards
from routoo.store.database import Database
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

PRICES = {"small": Decimal(1), "large": Decimal(10)}


def pool_of(server: FakeServer) -> Pool:
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=Endpoint(base_url=server.base_url, max_concurrency=8, timeout_s=5),
                price_usd_per_mtok=Tariff(prompt=price, completion=price),
                context_window_tokens=4096,
            )
            for name, price in PRICES.items()
        )
    )


def body_of(number: int) -> str:
    messages = [{"role": "user", "content": f"Question number {number}?"}]
    return orjson.dumps({"messages": messages, "max_tokens": 20}).decode()


async def prepare(
    db: Database, pool: Pool, count: int, *, model: str = "small", budget_usd: Decimal | None = None
) -> Lease:
    """Bring a batch to the point where its one dispatch shard is leased."""
    async with db.transaction() as conn:
        new = batches.NewBatch(name="test", pool=pool, budget_usd=budget_usd)
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write(
                [jobs.JobInput(number, f"job-{number}", body_of(number)) for number in range(count)]
            )
        await batches.seal(conn, batch_id, count, 1000)
    score = await claim(db, ShardKey(batch_id, Stage.SCORE, 0))
    async with db.transaction() as conn:
        await predictions.save(conn, score, predictions_of(count))
        await shards.complete(conn, score)
    select = await claim(db, ShardKey(batch_id, Stage.SELECT, 0))
    async with db.transaction() as conn:
        chosen = [Assignment(number, model, 0.5, Decimal("0.0001")) for number in range(count)]
        await assignments.save(conn, select, chosen, 1)
        await shards.complete(conn, select)
    return await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))


def predictions_of(count: int) -> Predictions:
    return Predictions(
        quality=np.tile(np.float32([0.5, 0.9]), (count, 1)),
        quality_std=np.zeros((count, 2), np.float32),
        completion_tokens=np.full((count, 2), 5, np.float32),
        novelty=np.zeros(count, np.float32),
        truncated=np.zeros(count, np.bool_),
    )


async def claim(db: Database, key: ShardKey, lease_s: float = 60.0) -> Lease:
    async with db.transaction() as conn:
        lease = await shards.claim(conn, key, "worker", lease_s)
    assert lease is not None
    return lease


async def dispatch(
    db: Database, lease: Lease, *, stop: asyncio.Event | None = None, **changes: Any
) -> bool:
    async with db.transaction() as conn:
        batch = await batches.get(conn, lease.key.batch_id)
    async with ChatEndpoints(batch.pool.models) as client:
        options = DispatchOptions(**{"max_attempts_per_model": 2, "drain_grace_s": 0.2} | changes)
        return await dispatch_shard(
            db, client, lease, batch, options=options, stop=stop or asyncio.Event()
        )


async def rows(db: Database, query: str) -> list[tuple[Any, ...]]:
    async with db.transaction() as conn:
        return await (await conn.execute(query.encode())).fetchall()


async def requests_at(server: FakeServer, count: int) -> None:
    """Wait until the server has been asked so often."""
    async with asyncio.timeout(20):
        while len(server.requests) < count:  # noqa: ASYNC110 - another party's list, no event
            await asyncio.sleep(0.01)


def billed_usd(server: FakeServer) -> Decimal:
    return (
        sum(
            (
                PRICES[served.model] * (served.prompt_tokens + served.completion_tokens)
                for served in server.requests
            ),
            Decimal(0),
        )
        / 1_000_000
    )


async def test_every_job_gets_one_result_and_the_ledger_agrees_with_the_endpoint(
    db: Database,
) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 200)
        assert await dispatch(db, lease)
        async with db.transaction() as conn:
            balance = await ledger.balance(conn, lease.key.batch_id)
            await shards.complete(conn, lease)
        assert await rows(db, "SELECT status, count(*) FROM results GROUP BY 1") == [
            ("succeeded", 200)
        ]
        assert balance.reserved_usd == 0
        assert balance.spent_usd == billed_usd(server)
        assert await rows(db, "SELECT status FROM batches") == [("completed",)]


@pytest.mark.parametrize("share", ["0.1", "0.5", "0.99"])
async def test_a_batch_never_spends_above_its_budget(db: Database, share: str) -> None:
    async with FakeServer() as server:
        # About what 60 answers cost; the worst case of a call is several times as much.
        budget_usd = Decimal("0.002") * Decimal(share)
        lease = await prepare(db, pool_of(server), 60, budget_usd=budget_usd)
        assert await dispatch(db, lease)
        assert billed_usd(server) <= budget_usd
        statuses = dict(await rows(db, "SELECT status, count(*) FROM results GROUP BY 1"))
        assert sum(statuses.values()) == 60
        assert statuses["succeeded"] > 0


async def test_what_a_crash_left_unsettled_counts_at_its_worst_case(db: Database) -> None:
    async with FakeServer({"models": {"*": {"latency_s": 30.0}}}) as server:
        lease = await prepare(db, pool_of(server), 4)
        crash = asyncio.create_task(dispatch(db, lease))
        await requests_at(server, 4)
        crash.cancel()
        await asyncio.gather(crash, return_exceptions=True)
        reserved = (await rows(db, "SELECT reserved_usd FROM ledgers"))[0][0]
        assert reserved > 0
        server.set_script({"models": {"*": {}}})
        async with db.transaction() as conn:
            await shards.release(conn, lease, count_attempt=True)
        assert await dispatch(db, await claim(db, lease.key))
        lost = await rows(db, "SELECT sum(cost_usd) FROM attempts WHERE status = 'lost'")
        assert lost == [(reserved,)]
        assert await rows(db, "SELECT count(*), min(attempts) FROM results") == [(4, 2)]


async def test_a_worker_that_lost_its_lease_writes_nothing_more(db: Database) -> None:
    async with FakeServer({"models": {"*": {"latency_s": 0.3}}}) as server:
        lease = await prepare(db, pool_of(server), 3)
        stale = asyncio.create_task(dispatch(db, lease))
        await requests_at(server, 3)
        await rows(db, "UPDATE shards SET epoch = epoch + 1 WHERE stage = 'dispatch' RETURNING 1")
        with pytest.raises(StaleLeaseError):
            await stale
        assert await rows(db, "SELECT count(*) FROM results") == [(0,)]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "rate_limit", "retry_after": "0", "first_per_prompt": 1},
        {"kind": "status", "status": 500, "first_per_prompt": 1},
        {"kind": "reset", "first_per_prompt": 1},
        {"kind": "half_body", "first_per_prompt": 1},
        {"kind": "wrong_json", "first_per_prompt": 1},
    ],
    ids=lambda fault: fault["kind"],
)
async def test_a_passing_fault_costs_an_attempt_and_no_result(
    db: Database, fault: Mapping[str, Any]
) -> None:
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        lease = await prepare(db, pool_of(server), 5)
        assert await dispatch(db, lease)
        assert await rows(db, "SELECT status, count(*) FROM results GROUP BY 1") == [
            ("succeeded", 5)
        ]
        assert await rows(db, "SELECT status, count(*) FROM attempts GROUP BY 1 ORDER BY 1") == [
            ("failed", 5),
            ("succeeded", 5),
        ]
        spent = (await rows(db, "SELECT spent_usd FROM ledgers"))[0][0]
        assert spent >= billed_usd(server)


async def test_a_model_that_is_down_is_replaced_by_the_next_best(db: Database) -> None:
    script = {"models": {"small": {"faults": [{"kind": "status", "status": 503}]}, "large": {}}}
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), 5)
        assert await dispatch(db, lease)
        assert await rows(db, "SELECT DISTINCT model, status, attempts FROM results") == [
            ("large", "succeeded", 3)
        ]


async def test_a_drained_shard_keeps_what_was_answered_and_leaves_the_rest(db: Database) -> None:
    async with FakeServer({"models": {"*": {"latency_s": 0.1}}}) as server:
        lease = await prepare(db, pool_of(server), 40)
        stop = asyncio.Event()
        draining = asyncio.create_task(dispatch(db, lease, stop=stop))
        await requests_at(server, 10)
        stop.set()
        assert not await draining
        answered = (await rows(db, "SELECT count(*) FROM results"))[0][0]
        assert 8 <= answered < 40
        async with db.transaction() as conn:
            await shards.release(conn, lease, count_attempt=False)
            assert lease.key in await shards.ready_keys(conn, lease.key.batch_id)
        assert await dispatch(db, await claim(db, lease.key))
        assert len(server.requests) == 40


async def test_a_shard_whose_time_is_up_is_handed_back(db: Database) -> None:
    async with FakeServer({"models": {"*": {"latency_s": 0.1}}}) as server:
        lease = await prepare(db, pool_of(server), 40)
        assert not await dispatch(db, lease, time_limit_s=0.15)
        answered = (await rows(db, "SELECT count(*) FROM results"))[0][0]
        assert answered == len(server.requests) < 40

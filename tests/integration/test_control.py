"""Pause, resume and cancel, in every stage, against a real database and a real local endpoint."""

import asyncio
from decimal import Decimal
from uuid import UUID

import pytest

from routoo.domain.job import BatchStatus, Lease, ShardKey, Stage
from routoo.errors import InputError, StaleLeaseError
from routoo.pipeline.shard_work import ShardWorker, StageWork
from routoo.store import batches, leases, ledger, predictions, shards
from routoo.store.batches import BatchRecord, control
from routoo.store.database import Database
from tests import batch_factory
from tests.dispatch_factory import (
    billed_usd,
    claim,
    dispatch,
    pool_of,
    prepare,
    requests_at,
    rows,
    some_result,
)
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

SLOW = {"models": {"*": {"latency_s": 0.4}}}


async def change(db: Database, batch_id: UUID, wanted: str) -> BatchStatus:
    async with db.transaction() as conn:
        before: BatchStatus = await getattr(control, wanted)(conn, batch_id)
    return before


async def settle(db: Database, batch_id: UUID) -> bool:
    async with db.transaction() as conn:
        return await control.end_cancelled(conn, batch_id)


async def status(db: Database, batch_id: UUID) -> BatchStatus:
    async with db.transaction() as conn:
        return await batches.status(conn, batch_id)


async def counts(db: Database) -> dict[str, int]:
    return dict(await rows(db, "SELECT status, count(*) FROM results GROUP BY 1"))


async def test_a_cancelled_dispatch_keeps_the_answers_in_flight_and_cancels_the_rest(
    db: Database,
) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 60)
        batch_id = lease.key.batch_id
        dispatching = asyncio.create_task(dispatch(db, lease))
        with server.held("small"):
            await requests_at(server, 8)
            assert await change(db, batch_id, "cancel") is BatchStatus.IN_PROGRESS
            assert not await settle(db, batch_id)
            await some_result(db)  # of a job that waits no more for a call
        assert not await dispatching
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
        assert not await settle(db, batch_id)  # the last shard's end was the batch's
        found = await counts(db)
        assert found == {
            "succeeded": len(server.requests),
            "cancelled": 60 - len(server.requests),
        }
        async with db.transaction() as conn:
            balance = await ledger.balance(conn, batch_id)
        assert (balance.reserved_usd, balance.spent_usd) == (0, billed_usd(server))
        assert await status(db, batch_id) is BatchStatus.CANCELLED


async def test_a_cancelled_batch_ends_with_the_last_worker_that_hands_its_shard_back(
    db: Database,
) -> None:
    async with FakeServer(SLOW) as server:
        lease = await prepare(db, pool_of(server), 40)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())

        async def work(lease: Lease, _: BatchRecord) -> shards.WorkOutcome:
            assert not await dispatch(db, lease)
            return shards.HandedBack()

        worker = ShardWorker(
            db, "me", {Stage.DISPATCH: StageWork(work)}, lease_s=60.0, max_failures=3
        )
        handling = asyncio.create_task(worker.handle(lease.key))
        await requests_at(server, 8)
        await change(db, lease.key.batch_id, "cancel")
        await handling
        assert await status(db, lease.key.batch_id) is BatchStatus.CANCELLED
        assert sum((await counts(db)).values()) == 40


async def test_a_batch_is_cancelled_before_it_is_scored_with_no_worker_alive(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 4)
    await change(db, batch_id, "cancel")
    assert await settle(db, batch_id)
    assert await counts(db) == {"cancelled": 4}
    async with db.transaction() as conn:
        assert await leases.due(conn, Stage.SCORE, 10) == []


async def test_a_scorer_of_a_cancelled_batch_can_write_no_more(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 4)
    lease = await batch_factory.claim(db, batch_id, Stage.SCORE)
    await change(db, batch_id, "cancel")
    assert await settle(db, batch_id)
    with pytest.raises(StaleLeaseError):
        async with db.transaction() as conn:
            await predictions.save(conn, lease, batch_factory.predictions_of(lease))


async def test_calls_of_a_worker_that_died_count_at_their_worst_case_when_cancelled(
    db: Database,
) -> None:
    batch_id = await batch_factory.submit(db, 2, budget_usd="1")
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0), lease_s=0.01)
    async with db.transaction() as conn:
        await ledger.reserve(conn, lease, [batch_factory.reservation(0, "0.30")])
    await asyncio.sleep(0.05)
    await change(db, batch_id, "cancel")
    assert await settle(db, batch_id)
    assert await rows(db, "SELECT reserved_usd, spent_usd FROM ledgers") == [(0, Decimal("0.30"))]
    assert await rows(db, "SELECT cost_usd, attempts FROM results ORDER BY job_no") == [
        (Decimal("0.30"), 1),
        (0, 0),
    ]


async def test_a_paused_batch_hands_its_shard_back_and_goes_on_when_resumed(db: Database) -> None:
    async with FakeServer(SLOW) as server:
        lease = await prepare(db, pool_of(server), 40)
        batch_id = lease.key.batch_id
        dispatching = asyncio.create_task(dispatch(db, lease))
        await requests_at(server, 8)
        await change(db, batch_id, "pause")
        assert not await dispatching
        answered = len(server.requests)
        assert answered < 40
        assert await counts(db) == {"succeeded": answered}
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
            assert await leases.claim(conn, lease.key, "worker", 60) is None
            assert await leases.due(conn, Stage.DISPATCH, 10) == []
        assert await change(db, batch_id, "resume") is BatchStatus.PAUSED
        server.set_script({"models": {"*": {}}})
        assert await dispatch(db, await claim(db, lease.key))
        assert await counts(db) == {"succeeded": 40}
        assert len(server.requests) == 40


async def test_a_paused_batch_whose_last_calls_ended_it_is_completed(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 2)
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    lease = await batch_factory.claim(db, batch_id, Stage.DISPATCH)
    await change(db, batch_id, "pause")
    await batch_factory.dispatch(db, lease)
    assert await status(db, batch_id) is BatchStatus.COMPLETED


async def test_a_batch_that_is_over_is_neither_paused_nor_cancelled(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 2)
    await change(db, batch_id, "cancel")
    await settle(db, batch_id)
    assert await change(db, batch_id, "cancel") is BatchStatus.CANCELLED
    for wanted in ("pause", "resume"):
        with pytest.raises(InputError, match="cancelled"):
            await change(db, batch_id, wanted)
    assert await status(db, batch_id) is BatchStatus.CANCELLED


async def test_what_a_failed_batch_left_is_settled_once_no_worker_is_busy_with_it(
    db: Database,
) -> None:
    batch_id = await batch_factory.submit(db, 6, shard_size=2, budget_usd="1")
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    dead, alive, failing = [
        await batch_factory.claim(db, batch_id, Stage.DISPATCH, number, lease_s=seconds)
        for number, seconds in enumerate((-1.0, 60.0, 60.0))
    ]
    for lease in (dead, alive):
        async with db.transaction() as conn:
            wanted = batch_factory.reservation(lease.first_job, "0.25")
            await ledger.reserve(conn, lease, [wanted])
    async with db.transaction() as conn:
        await shards.finish(conn, failing, shards.Failed("no key", permanent=True))
        assert await control.with_open_reservations(conn) == [batch_id]
        assert not await control.settle_left(conn, batch_id)
    async with db.transaction() as conn:
        await ledger.settle(conn, alive, [batch_factory.attempt(alive.first_job, "0.05")])
    async with db.transaction() as conn:
        await shards.finish(conn, alive, shards.HandedBack())
    async with db.transaction() as conn:
        assert await control.with_open_reservations(conn) == []
        balance = await ledger.balance(conn, batch_id)
        with pytest.raises(StaleLeaseError):
            await leases.fence(conn, dead)
    assert (balance.reserved_usd, balance.spent_usd) == (Decimal(0), Decimal("0.30"))

"""How a worker handles one message, against a real database."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from routoo.domain.job import Lease, ShardKey, Stage
from routoo.errors import CheckpointError, DatabaseUnavailableError, StoreError
from routoo.pipeline.shard_work import HandledMessage, ShardWorker, StageWork, Work
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from routoo.store.shards import Done, HandedBack, WorkOutcome, isolate_failing
from tests import batch_factory

pytestmark = pytest.mark.anyio

LEASE_S = 0.3


async def succeed(lease: Lease, batch: BatchRecord) -> WorkOutcome:
    assert lease.key.batch_id == batch.id
    return Done()


def raising(error: Exception) -> Work:
    async def work(_: Lease, __: BatchRecord) -> WorkOutcome:
        raise error

    return work


def worker(db: Database, work: Work, **options: Any) -> ShardWorker:
    stages = {stage: StageWork(work, **options) for stage in Stage}
    return ShardWorker(db, "me", stages, lease_s=LEASE_S, max_failures=2)


async def shard(db: Database, key: ShardKey) -> tuple[str, int]:
    """Return a shard's state and attempts."""
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT state, attempts FROM shards"
            " WHERE batch_id = %s AND stage = %s AND shard_no = %s",
            [key.batch_id, key.stage.value, key.shard_no],
        )
        row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]


async def batch_end(db: Database, batch_id: UUID) -> tuple[str, str | None]:
    async with db.transaction() as conn:
        cursor = await conn.execute("SELECT status, error FROM batches WHERE id = %s", [batch_id])
        row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]


async def test_the_last_scored_shard_publishes_the_selection(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 4)
    me = worker(db, succeed)
    first = await me.handle(ShardKey(batch_id, Stage.SCORE, 0))
    last = await me.handle(ShardKey(batch_id, Stage.SCORE, 1))
    assert first == HandledMessage([])
    assert last == HandledMessage([ShardKey(batch_id, Stage.SELECT, 0)])


async def test_the_selection_publishes_every_dispatch_shard(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 4)
    await batch_factory.score(db, batch_id)
    outcome = await worker(db, succeed).handle(ShardKey(batch_id, Stage.SELECT, 0))
    assert outcome.publish == [ShardKey(batch_id, Stage.DISPATCH, number) for number in (0, 1)]


async def test_a_duplicate_message_does_nothing(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 2)
    key = ShardKey(batch_id, Stage.SCORE, 0)
    await worker(db, succeed).handle(key)
    assert await worker(db, raising(AssertionError())).handle(key) == HandledMessage()
    assert await shard(db, key) == ("done", 1)


async def test_a_message_of_an_unknown_batch_does_nothing(db: Database) -> None:
    key = ShardKey(uuid4(), Stage.SCORE, 0)
    assert await worker(db, succeed).handle(key) == HandledMessage()


async def test_a_batch_of_a_newer_version_is_left_to_newer_workers(db: Database) -> None:
    batch_id = await batch_factory.submit(db)
    key = ShardKey(batch_id, Stage.SCORE, 0)
    async with db.transaction() as conn:
        stored = await conn.execute("SELECT pool -> 'models' -> 0 -> 'endpoint' FROM batches")
        assert await stored.fetchone() == ({"base_url": "http://localhost:1/v1"},)
        await conn.execute("UPDATE batches SET pool = jsonb_set(pool, '{models,0,new}', '1')")
    assert await worker(db, succeed).handle(key) == HandledMessage()
    assert await shard(db, key) == ("ready", 0)


async def test_a_failing_shard_is_tried_again_and_then_split(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)
    me = worker(db, raising(ValueError("out of ideas")))
    for attempts in (1, 2):
        await me.handle(key)
        assert await shard(db, key) == ("ready", attempts)
    async with db.transaction() as conn:
        found = await isolate_failing(conn, 2)
    assert [one.cause for one in found] == [
        "it failed 2 times, last with: ValueError: out of ideas"
    ]
    assert await shard(db, key) == ("ready", 0)
    assert (await batch_end(db, key.batch_id))[0] == "in_progress"


async def test_a_shard_left_behind_comes_before_the_one_that_the_message_names(
    db: Database,
) -> None:
    batch_id = await batch_factory.submit(db, 4)
    left, named = (ShardKey(batch_id, Stage.SCORE, number) for number in (1, 0))
    await batch_factory.claim(db, batch_id, Stage.SCORE, 1, lease_s=0.0)
    outcome = await worker(db, succeed).handle(named)
    assert outcome == HandledMessage([named])
    assert await shard(db, left) == ("done", 2)
    assert await shard(db, named) == ("ready", 0)


async def test_two_shards_that_may_end_their_worker_are_not_worked_on_at_once(
    db: Database,
) -> None:
    batch_id = await batch_factory.submit(db, 4)
    keys = [ShardKey(batch_id, Stage.SCORE, number) for number in (0, 1)]
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Lease, __: BatchRecord) -> WorkOutcome:
        started.set()
        await go_on.wait()
        return Done()

    async with db.transaction() as conn:
        await conn.execute("UPDATE shards SET attempts = 2 WHERE stage = 'score'")
    me = worker(db, wait)
    first = asyncio.create_task(me.handle(keys[0]))
    await started.wait()
    assert await me.handle(keys[1]) == HandledMessage()
    assert await shard(db, keys[1]) == ("ready", 2)
    go_on.set()
    await first
    assert await shard(db, keys[0]) == ("done", 3)


async def test_urgent_shards_are_taken_without_a_message(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 4)
    await batch_factory.score(db, batch_id)
    published: list[ShardKey] = []
    me = worker(db, succeed)

    def publish(keys: Sequence[ShardKey]) -> None:
        published.extend(keys)
        me.stop.set()

    async with asyncio.timeout(30):
        await me.take_urgent(publish, stages=list(Stage), most=2, interval_s=0.05)
    assert published == [ShardKey(batch_id, Stage.DISPATCH, number) for number in (0, 1)]


async def test_a_slow_dispatch_shard_goes_on_without_a_thread(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 8)
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    first, second, third, _ = (ShardKey(batch_id, Stage.DISPATCH, number) for number in range(4))
    endpoint_answers, published = asyncio.Event(), list[set[ShardKey]]()

    async def wait(_: Lease, __: BatchRecord) -> WorkOutcome:
        await endpoint_answers.wait()
        return HandedBack()

    me = replace(worker(db, wait), most_slow=2, slow_after_s=0.1, lease_s=60.0)
    async with asyncio.timeout(30):
        for key in (first, second):
            assert await me.handle(key) == HandledMessage()  # its thread is free
            assert await shard(db, key) == ("leased", 1)
        handling = asyncio.create_task(me.handle(third))  # more may not go on so
        await asyncio.sleep(0.5)
        assert not handling.done()
        endpoint_answers.set()
        assert await handling == HandledMessage([third])
        while (await shard(db, second))[0] != "ready":
            await asyncio.sleep(0.02)

        def publish(keys: Sequence[ShardKey]) -> None:
            published.append(set(keys))
            me.stop.set()

        await me.take_urgent(publish, stages=[Stage.SCORE], most=2, interval_s=0.05)
    assert published == [{first, second}]  # a broker that is away is waited for once


async def test_a_stop_ends_slow_shards_too(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 2)
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    key, published = ShardKey(batch_id, Stage.DISPATCH, 0), list[ShardKey]()

    async def endless(_: Lease, __: BatchRecord) -> WorkOutcome:
        await asyncio.sleep(60)
        return Done()

    me = replace(worker(db, endless), most_slow=2, slow_after_s=0.1, lease_s=60.0)
    assert await me.handle(key) == HandledMessage()
    me.stop.set()
    async with asyncio.timeout(30):
        await me.take_urgent(published.extend, stages=[Stage.SCORE], most=2, interval_s=0.05)
    assert published == [key]
    assert await shard(db, key) == ("ready", 0)


async def test_a_shard_that_gets_slow_while_the_worker_drains_is_waited_for(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 2)
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    key, started = ShardKey(batch_id, Stage.DISPATCH, 0), asyncio.Event()

    async def endless(_: Lease, __: BatchRecord) -> WorkOutcome:
        started.set()
        await asyncio.sleep(60)
        return Done()

    me = worker(db, endless, grace_s=1.0)
    me = replace(me, most_slow=2, slow_after_s=0.3, lease_s=60.0)
    async with asyncio.timeout(30):
        handling = asyncio.create_task(me.handle(key))
        await started.wait()
        me.stop.set()
        await me.take_urgent(lambda _: None, stages=[Stage.SCORE], most=2, interval_s=0.05)
        assert await handling == HandledMessage([key])
    assert await shard(db, key) == ("ready", 0)


async def test_a_slow_shard_of_a_deleted_batch_does_not_end_the_look_for_urgent_ones(
    db: Database,
) -> None:
    gone, batch_id = await batch_factory.submit(db, 2), await batch_factory.submit(db, 2)
    for one in (gone, batch_id):
        await batch_factory.score(db, one)
        await batch_factory.select(db, one)
    is_gone, published = asyncio.Event(), list[ShardKey]()

    async def work(_: Lease, batch: BatchRecord) -> WorkOutcome:
        if batch.id == gone:
            await is_gone.wait()
        return HandedBack()

    me = replace(worker(db, work), most_slow=2, slow_after_s=0.1, lease_s=60.0)
    assert await me.handle(ShardKey(gone, Stage.DISPATCH, 0)) == HandledMessage()
    async with db.transaction() as conn:
        await conn.execute("DELETE FROM batches WHERE id = %s", [gone])
    is_gone.set()

    def publish(keys: Sequence[ShardKey]) -> None:
        published.extend(keys)
        if keys:
            me.stop.set()

    async with asyncio.timeout(30):
        await me.take_urgent(publish, stages=[Stage.DISPATCH], most=2, interval_s=0.3)
    assert published == [ShardKey(batch_id, Stage.DISPATCH, 0)]


async def test_an_error_that_stays_fails_the_batch_at_once(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)
    await worker(db, raising(CheckpointError("no such model"))).handle(key)
    assert await shard(db, key) == ("parked", 1)
    assert (await batch_end(db, key.batch_id))[0] == "failed"


async def test_an_absent_database_leaves_the_shard_to_the_recovery_tick(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)
    away = raising(DatabaseUnavailableError("away"))
    assert await worker(db, away).handle(key) == HandledMessage()
    assert await shard(db, key) == ("leased", 1)


async def test_a_refusing_database_counts_as_a_failure(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)
    await worker(db, raising(StoreError("no such table"))).handle(key)
    assert await shard(db, key) == ("ready", 1)


async def test_a_stop_releases_the_shard_and_counts_no_failure(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)
    started = asyncio.Event()

    async def endless(_: Lease, __: BatchRecord) -> WorkOutcome:
        started.set()
        await asyncio.sleep(60)
        return Done()

    me = worker(db, endless)
    handling = asyncio.create_task(me.handle(key))
    await started.wait()
    me.stop.set()
    assert await handling == HandledMessage([key])
    assert await shard(db, key) == ("ready", 0)


async def test_a_stopping_worker_takes_no_new_shard(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)
    me = worker(db, succeed)
    me.stop.set()
    assert await me.handle(key) == HandledMessage([key])
    assert await shard(db, key) == ("ready", 0)


async def test_a_shard_left_half_done_is_published_again(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)

    async def half(_: Lease, __: BatchRecord) -> WorkOutcome:
        return HandedBack()

    assert await worker(db, half).handle(key) == HandledMessage([key])
    assert await shard(db, key) == ("ready", 0)


async def test_work_that_outlasts_its_lease_keeps_it(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)

    async def slow(_: Lease, __: BatchRecord) -> WorkOutcome:
        await outlasted.wait()
        return Done()

    outlasted, lease_s = asyncio.Event(), LEASE_S * 5  # a busy machine may renew it late
    owner = replace(worker(db, slow), lease_s=lease_s)
    working = asyncio.create_task(owner.handle(key))
    await asyncio.sleep(lease_s * 1.3)
    assert await worker(db, succeed).handle(key) == HandledMessage()
    outlasted.set()
    assert (await working).publish
    assert await shard(db, key) == ("done", 1)


async def test_work_whose_shard_was_taken_over_is_dropped(db: Database) -> None:
    key = ShardKey(await batch_factory.submit(db, 2), Stage.SCORE, 0)

    async def robbed(_: Lease, __: BatchRecord) -> WorkOutcome:
        async with db.transaction() as conn:
            await conn.execute("UPDATE shards SET owner = 'other', epoch = epoch + 1")
        await asyncio.sleep(60)
        return Done()

    assert await worker(db, robbed).handle(key) == HandledMessage()
    assert await shard(db, key) == ("leased", 1)


async def test_a_cancellation_is_not_lost_while_a_connection_is_waited_for(
    database_url: str,
) -> None:
    async def hold(rounds: int) -> None:
        async with db.transaction():
            for _ in range(rounds):
                await asyncio.sleep(0)

    async def renew_for_ever() -> None:
        while True:
            async with db.transaction():
                pass

    async with Database(database_url, max_size=1) as db:
        for rounds in range(150):
            holding = asyncio.create_task(hold(20))
            await asyncio.sleep(0)
            renewing = asyncio.create_task(renew_for_ever())
            for _ in range(rounds):
                await asyncio.sleep(0)
            renewing.cancel()
            async with asyncio.timeout(20):
                await asyncio.wait([renewing])
            await holding
            assert renewing.cancelled()

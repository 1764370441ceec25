"""Plans wait for their owner, and run once."""

import asyncio
from uuid import UUID

import pytest

from routoo.domain.job import BatchStatus, Stage
from routoo.errors import InputError, NotFoundError
from routoo.store import batches, leases, shards
from routoo.store.batches import plans
from routoo.store.database import Database
from tests import batch_factory as factory

pytestmark = pytest.mark.anyio


async def planned(db: Database) -> UUID:
    batch_id = await factory.submit(db, plan_only=True)
    await factory.score(db, batch_id)
    await factory.select(db, batch_id)
    return batch_id


async def status(db: Database, batch_id: UUID) -> BatchStatus:
    async with db.transaction() as conn:
        return (await batches.get(conn, batch_id)).status


async def submit_plan(db: Database, batch_id: UUID) -> bool:
    async with db.transaction() as conn:
        return await plans.submit_plan(conn, batch_id)


async def delete_expired(db: Database, retention_s: float) -> UUID | None:
    async with db.transaction() as conn:
        return await plans.delete_expired(conn, retention_s)


async def test_a_plan_hands_out_no_calls_until_it_is_submitted(db: Database) -> None:
    batch_id = await planned(db)
    assert await status(db, batch_id) is BatchStatus.PLANNED
    async with db.transaction() as conn:
        assert await shards.ready_keys(conn, batch_id) == []
        assert await leases.due(conn, Stage.DISPATCH, 10) == []
    assert await submit_plan(db, batch_id)
    lease = await factory.claim(db, batch_id, Stage.DISPATCH)
    await factory.dispatch(db, lease)
    await factory.dispatch(db, await factory.claim(db, batch_id, Stage.DISPATCH, 1))
    assert await status(db, batch_id) is BatchStatus.COMPLETED
    assert not await submit_plan(db, batch_id)


async def test_a_plan_that_nobody_submits_is_deleted_with_its_jobs(db: Database) -> None:
    old, newer, submitted = [await planned(db) for _ in range(3)]
    await submit_plan(db, submitted)
    async with db.transaction() as conn:
        for batch_id in (old, submitted):
            await conn.execute(
                "UPDATE batches SET created_at = now() - interval '31 days' WHERE id = %s",
                [batch_id],
            )
    month_s = 30 * 86_400.0
    assert [await delete_expired(db, month_s) for _ in range(2)] == [old, None]
    with pytest.raises(NotFoundError):
        await submit_plan(db, old)
    assert await status(db, newer) is BatchStatus.PLANNED
    assert await status(db, submitted) is BatchStatus.IN_PROGRESS
    async with db.transaction() as conn:
        for table in ("jobs", "predictions", "assignments", "shards", "ledgers"):
            cursor = await conn.execute(f"SELECT DISTINCT batch_id FROM {table}".encode())
            assert {row[0] for row in await cursor.fetchall()} == {newer, submitted}


async def test_a_plan_that_is_being_submitted_is_not_deleted(db: Database) -> None:
    batch_id = await planned(db)
    async with db.transaction() as conn:
        await plans.submit_plan(conn, batch_id)
        assert await delete_expired(db, 0.0) is None
    assert await status(db, batch_id) is BatchStatus.IN_PROGRESS


async def test_of_many_submissions_of_a_plan_one_counts(db: Database) -> None:
    batch_id = await planned(db)
    done = await asyncio.gather(*(submit_plan(db, batch_id) for _ in range(4)))
    assert sorted(done) == [False, False, False, True]


async def test_what_is_no_plan_that_waits_is_refused_with_the_reason(db: Database) -> None:
    with pytest.raises(InputError, match="not ready"):
        await submit_plan(db, await factory.submit(db, plan_only=True))
    with pytest.raises(InputError, match="in_progress and was no plan"):
        await submit_plan(db, await factory.submit(db))

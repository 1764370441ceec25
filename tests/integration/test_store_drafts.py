"""Plans wait for their owner, and run once."""

import asyncio
from uuid import UUID

import pytest

from routoo.domain.job import BatchStatus, Stage
from routoo.errors import InputError
from routoo.store import batches, drafts, shards
from routoo.store.database import Database
from tests import batch_factory as factory

pytestmark = pytest.mark.anyio


async def planned(db: Database) -> UUID:
    batch_id = await factory.submit(db, draft=True)
    await factory.score(db, batch_id)
    await factory.select(db, batch_id)
    return batch_id


async def status(db: Database, batch_id: UUID) -> BatchStatus:
    async with db.transaction() as conn:
        return (await batches.get(conn, batch_id)).status


async def submit_plan(db: Database, batch_id: UUID) -> bool:
    async with db.transaction() as conn:
        return await drafts.submit_plan(conn, batch_id)


async def test_a_plan_hands_out_no_calls_until_it_is_submitted(db: Database) -> None:
    batch_id = await planned(db)
    assert await status(db, batch_id) is BatchStatus.PLANNED
    async with db.transaction() as conn:
        assert await shards.ready_keys(conn, batch_id) == []
        assert await shards.due(conn, Stage.DISPATCH, 10) == []
    assert await submit_plan(db, batch_id)
    lease = await factory.claim(db, batch_id, Stage.DISPATCH)
    await factory.dispatch(db, lease)
    await factory.dispatch(db, await factory.claim(db, batch_id, Stage.DISPATCH, 1))
    assert await status(db, batch_id) is BatchStatus.COMPLETED
    assert not await submit_plan(db, batch_id)


async def test_of_many_submissions_of_a_plan_one_counts(db: Database) -> None:
    batch_id = await planned(db)
    done = await asyncio.gather(*(submit_plan(db, batch_id) for _ in range(4)))
    assert sorted(done) == [False, False, False, True]


async def test_what_is_no_plan_that_waits_is_refused_with_the_reason(db: Database) -> None:
    with pytest.raises(InputError, match="not ready"):
        await submit_plan(db, await factory.submit(db, draft=True))
    with pytest.raises(InputError, match="in_progress and was no plan"):
        await submit_plan(db, await factory.submit(db))

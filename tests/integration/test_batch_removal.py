"""Batches that are deleted leave nothing, and nothing else is touched."""

import pytest

from routoo.errors import InputError
from routoo.settings import Settings
from routoo.store.batches import control
from routoo.store.database import Database
from tests import batch_factory
from tests.dispatch_factory import dispatch, pool_of, prepare, rows
from tests.fakes.openai_server import FakeServer
from worker.tasks import take_due_steps

pytestmark = pytest.mark.anyio


async def counts(db: Database) -> dict[str, int]:
    """Return how many rows each table with a batch has."""
    tables = await rows(
        db,
        "SELECT table_name FROM information_schema.columns JOIN information_schema.tables t"
        " USING (table_schema, table_name) WHERE table_schema = 'public'"
        " AND column_name = 'batch_id' AND t.table_type = 'BASE TABLE'",
    )
    found = {name: await rows(db, f"SELECT count(*) FROM {name}") for (name,) in tables}
    return {name: count for name, ((count,),) in found.items()}


async def answer(db: Database, count: int) -> None:
    async with FakeServer({"models": {"*": {}}}) as server:
        lease = await prepare(db, pool_of(server), count)
        assert await dispatch(db, lease)
    async with db.transaction() as conn:
        await conn.execute(
            "UPDATE shards SET state = 'done', owner = NULL, lease_expires_at = NULL"
        )
        await conn.execute(
            "UPDATE batches SET status = 'completed', completed_at = now() - interval '8 days'"
        )


async def test_a_batch_is_deleted_in_parts_with_all_its_rows(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_JOBS_AT_ONCE", 3)
    await answer(db, 8)
    ((batch_id,),) = await rows(db, "SELECT id FROM batches")
    parts = 0
    is_gone = False
    while not is_gone:
        async with db.transaction() as conn:
            is_gone = await control.delete_part(conn, batch_id)
        parts += 1
    assert parts == 4
    assert set((await counts(db)).values()) == {0}
    assert await rows(db, "SELECT FROM batches") == []


async def test_the_beat_deletes_what_has_been_over_for_long_and_nothing_else(db: Database) -> None:
    await answer(db, 4)
    running = await batch_factory.submit(db, 2)
    await take_due_steps(db, Settings())
    assert len(await rows(db, "SELECT FROM batches")) == 2
    await take_due_steps(db, Settings(batch_retention_days=9))
    assert len(await rows(db, "SELECT FROM batches")) == 2
    await take_due_steps(db, Settings(batch_retention_days=7))
    assert await rows(db, "SELECT id FROM batches") == [(running,)]
    async with db.transaction() as conn:
        with pytest.raises(InputError):
            await control.delete_part(conn, running)

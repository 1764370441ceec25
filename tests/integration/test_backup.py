"""A database is restored from its copy, and its batches go on."""

import shutil
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from routoo.domain.job import ShardKey, Stage
from routoo.embedded.postgres import EmbeddedPostgres
from routoo.errors import InputError, StoreError
from routoo.store import administration, ledger, shards
from routoo.store.database import Database
from tests import batch_factory
from tests.dispatch_factory import claim, dispatch, pool_of, prepare, rows
from tests.fakes.openai_server import FakeServer
from tests.services import Databases

pytestmark = pytest.mark.anyio

_BOOKS = """
    SELECT l.reserved_usd, l.spent_usd = (SELECT sum(cost_usd) FROM attempts) FROM ledgers l
"""


def programs(url: str, home: Path) -> tuple[str | Path, str | Path]:
    """Return pg_dump and pg_restore of the server's version."""
    with psycopg.connect(url) as conn:
        version = conn.info.server_version // 10_000
    debian = Path(f"/usr/lib/postgresql/{version}/bin")
    if debian.exists():
        return debian / "pg_dump", debian / "pg_restore"
    embedded = EmbeddedPostgres(home)
    return embedded.client("pg_dump"), embedded.client("pg_restore")


async def test_a_batch_goes_on_from_where_it_was_when_its_database_was_dumped(
    database_url: str, migrated_databases: Databases, service_folder: Path, tmp_path: Path
) -> None:
    dump, restore = programs(database_url, service_folder)
    file = tmp_path / "routoo.dump"
    async with FakeServer({"models": {"*": {}}}) as server:
        async with Database(database_url) as db:
            lease = await prepare(db, pool_of(server), 10, budget_usd=Decimal(1))
            async with db.transaction() as conn:  # two calls under way, one of them sent
                calls = [batch_factory.reservation(number, "0.02") for number in range(2)]
                await ledger.reserve(conn, lease, calls)
                await conn.execute("UPDATE reservations SET sent = (job_no = 0)")
            administration.dump(dump, database_url, file)
            assert file.stat().st_mode & 0o077 == 0
            assert await dispatch(db, lease)  # what is done later is not in the copy
        with migrated_databases.empty("restored") as url:
            administration.restore(restore, url, file)
            assert administration.upgrade(url) == administration.newest_revision()
            async with Database(url) as db:
                assert await rows(db, "SELECT count(*) FROM results") == [(0,)]
                await rows(db, "UPDATE shards SET lease_expires_at = now() RETURNING 1")
                again = await claim(db, ShardKey(lease.key.batch_id, Stage.DISPATCH, 0))
                assert await dispatch(db, again)
                async with db.transaction() as conn:
                    await shards.finish(conn, again, shards.Done())
                ended = "SELECT status, count(DISTINCT job_no), count(*) FROM results GROUP BY 1"
                assert await rows(db, ended) == [("succeeded", 10, 10)]
                assert await rows(db, _BOOKS) == [(0, True)]
                lost = "SELECT job_no FROM attempts WHERE status = 'lost'"
                assert await rows(db, lost) == [(0,)]
                assert await rows(db, "SELECT status FROM batches") == [("completed",)]
            with pytest.raises(InputError, match="isn't empty"):
                administration.restore(restore, url, file)


def test_a_copy_that_can_not_be_made_leaves_no_file(tmp_path: Path) -> None:
    program = shutil.which("false") or "false"
    with pytest.raises(StoreError, match="false failed"):
        administration.dump(program, "postgresql://me:secret@db/routoo", tmp_path / "routoo.dump")
    assert list(tmp_path.iterdir()) == []

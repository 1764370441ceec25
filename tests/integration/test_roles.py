"""The roles of processes: each does its work with its own rights, and nothing else."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import pytest

from routoo.domain.batch_options import CallOptions
from routoo.domain.job import Lease, ResultStatus, ShardKey, Stage
from routoo.errors import StoreError
from routoo.pipeline.score import score_shard
from routoo.pipeline.shard_work import ShardWorker, StageWork
from routoo.store import batches, budget, checkpoints, jobs, shards, workers
from routoo.store.administration import ROLES, create_roles, newest_revision, upgrade
from routoo.store.batches import BatchRecord, control, replans, retry
from routoo.store.batches.progress import progress
from routoo.store.database import Database
from tests.chaos.lone_worker import Guess
from tests.dispatch_factory import body_of, claim, dispatch, pool_of, rows, select
from tests.fakes.openai_server import FakeServer
from tests.services import Databases

pytestmark = pytest.mark.anyio

Roles = Mapping[str, Database]
_CACHED = CallOptions(cache_ttl_s=60, cache_all=True)


@pytest.fixture
async def roles(database_url: str) -> AsyncIterator[Roles]:
    """The database as each role sees it."""
    create_roles(database_url)
    create_roles(database_url)  # safe to repeat
    mark = "&" if "?" in database_url else "?"
    async with AsyncExitStack() as exits:
        yield {
            name.removeprefix("routoo_"): await exits.enter_async_context(
                Database(f"{database_url}{mark}options=-crole%3D{name}")
            )
            for name in ROLES
        }


async def submit(db: Database, server: FakeServer, count: int) -> ShardKey:
    async with db.transaction() as conn:
        new = batches.NewBatch(
            "test",
            pool_of(server),
            budget_usd=Decimal(1),
            call_options=CallOptions(cache_ttl_s=60, cache_all=True),
        )
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write([jobs.JobInput(n, f"job-{n}", body_of(n)) for n in range(count)])
        await batches.seal(conn, batch_id, count, 1000)
    return ShardKey(batch_id, Stage.DISPATCH, 0)


async def score(db: Database, key: ShardKey) -> None:
    async def work(lease: Lease, batch: BatchRecord) -> shards.WorkOutcome:
        await score_shard(db, Guess(), lease, batch)
        return shards.Done()

    me = ShardWorker(db, "scorer", {Stage.SCORE: StageWork(work)}, lease_s=60.0, max_failures=5)
    handled = await me.handle(ShardKey(key.batch_id, Stage.SCORE, 0))
    assert [one.stage for one in handled.publish] == [Stage.SELECT]


async def test_each_process_does_its_work_with_the_rights_of_its_role(roles: Roles) -> None:
    producer, scorer, dispatcher = (roles[name] for name in ("producer", "scorer", "dispatcher"))
    async with FakeServer({"models": {"*": {}}}) as server:
        key = await submit(producer, server, 6)
        for name in ("scorer", "dispatcher", "beat"):
            async with roles[name].transaction() as conn:
                await workers.report(conn, f"{name}@here:1", name)
                await workers.remove(conn, f"{name}@here:2")
        await score(scorer, key)
        await select(dispatcher, key.batch_id)
        async with dispatcher.transaction() as conn:
            assert await replans.request(conn, key.batch_id, "a test asks for it")
        await select(dispatcher, key.batch_id)
        async with producer.transaction() as conn:
            await budget.set_budget(conn, key.batch_id, Decimal(2))
            await control.pause(conn, key.batch_id)
            await control.resume(conn, key.batch_id)
        lease = await claim(dispatcher, key)
        assert await dispatch(dispatcher, lease, shared=True)
        async with dispatcher.transaction() as conn:
            await shards.finish(conn, lease, shards.Done())
        async with producer.transaction() as conn:
            assert (await progress(conn, key.batch_id)).status == "completed"
            while not await control.delete_part(conn, key.batch_id):
                pass
    assert await rows(roles["beat"], "SELECT FROM batches") == []


async def test_every_table_is_written_by_some_role(roles: Roles) -> None:
    found = await rows(roles["beat"], "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    known = {table for role in ROLES.values() for table in role.grants}
    assert {name for (name,) in found} == known


async def test_a_batch_is_cancelled_and_retried_with_the_rights_of_a_producer(
    roles: Roles,
) -> None:
    producer = roles["producer"]
    async with FakeServer({"models": {"*": {}}}) as server:
        key = await submit(producer, server, 4)
        await score(roles["scorer"], key)
        await select(roles["dispatcher"], key.batch_id)
        async with producer.transaction() as conn:
            await control.cancel(conn, key.batch_id)
            assert await control.end_cancelled(conn, key.batch_id)
            await retry.reopen(conn, key.batch_id, [ResultStatus.CANCELLED], "a test")
        async with roles["beat"].transaction() as conn:
            await control.cancel(conn, key.batch_id)


async def test_a_scorer_may_fail_a_batch_that_its_checkpoint_does_not_fit(roles: Roles) -> None:
    async with FakeServer({"models": {"*": {}}}) as server:
        key = await submit(roles["producer"], server, 4)
    lease = await claim(roles["scorer"], ShardKey(key.batch_id, Stage.SCORE, 0))
    async with roles["scorer"].transaction() as conn:
        await checkpoints.promoted(conn, at=datetime.now(UTC))
        await shards.finish(conn, lease, shards.Failed("no such model", permanent=True))
    assert await rows(roles["scorer"], "SELECT status FROM batches") == [("failed",)]


async def test_a_scorer_hands_a_shard_back_whose_batch_is_being_cancelled(roles: Roles) -> None:
    async with FakeServer({"models": {"*": {}}}) as server:
        key = await submit(roles["producer"], server, 4)
    lease = await claim(roles["scorer"], ShardKey(key.batch_id, Stage.SCORE, 0))
    async with roles["producer"].transaction() as conn:
        await control.cancel(conn, key.batch_id)
    async with roles["scorer"].transaction() as conn:
        await shards.finish(conn, lease, shards.HandedBack())
    async with roles["beat"].transaction() as conn:
        assert await control.end_cancelled(conn, key.batch_id)


async def test_a_scorer_changes_no_shard_of_a_later_stage(roles: Roles) -> None:
    async with FakeServer({"models": {"*": {}}}) as server:
        key = await submit(roles["producer"], server, 4)
        await score(roles["scorer"], key)  # lets the selection become ready
        await refused(roles["scorer"], "UPDATE shards SET state = 'done' WHERE stage = 'select'")
        await select(roles["dispatcher"], key.batch_id)
    for change in (
        "state = 'leased', owner = 'me', epoch = epoch + 1, lease_expires_at = now()",
        "progress = 4",
        "state = 'done', owner = NULL, lease_expires_at = NULL",
    ):
        statement = f"UPDATE shards SET {change} WHERE stage = 'dispatch' RETURNING 1"
        await refused(roles["scorer"], statement)
        assert await rows(roles["dispatcher"], statement) == [(1,)]


async def test_a_scorer_ends_no_batch_but_one_that_fails(roles: Roles) -> None:
    scorer = roles["scorer"]
    async with FakeServer({"models": {"*": {}}}) as server:
        await submit(roles["producer"], server, 4)
    for change in (
        "status = 'completed'",
        "status = 'paused'",
        "completed_at = now() - interval '1 year'",
    ):
        await refused(scorer, f"UPDATE batches SET {change}")
    failed = "UPDATE batches SET status = 'failed', completed_at = now() RETURNING status"
    assert await rows(scorer, failed) == [("failed",)]
    await refused(scorer, "UPDATE batches SET status = 'in_progress'")


async def test_what_a_scorer_may_is_not_told_by_a_table_of_its_own(
    roles: Roles, database_url: str
) -> None:
    async with FakeServer({"models": {"*": {}}}) as server:
        await submit(roles["producer"], server, 4)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        await conn.execute("SET ROLE routoo_scorer")
        await conn.execute("CREATE TEMP TABLE results (batch_id uuid)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await conn.execute("UPDATE shards SET state = 'done' WHERE stage = 'dispatch'")


async def refused(db: Database, statement: str) -> None:
    with pytest.raises(StoreError, match="permission denied"):
        await rows(db, statement)


_FORBIDDEN = [
    ("scorer", "SELECT answer FROM results"),
    ("scorer", "SELECT * FROM api_keys"),
    ("scorer", "SELECT * FROM attempts"),
    ("scorer", "SELECT batch_id FROM reservations"),
    ("scorer", "UPDATE ledgers SET spent_usd = 0"),
    ("scorer", "INSERT INTO results SELECT * FROM results"),
    ("scorer", "INSERT INTO reservations SELECT * FROM reservations"),
    ("scorer", "UPDATE predictions SET novelty = 0"),
    ("scorer", "UPDATE batches SET budget_usd = 9"),
    ("scorer", "DELETE FROM checkpoint_promotions"),
    ("dispatcher", "SELECT * FROM api_keys"),
    ("dispatcher", "SELECT * FROM file_parts"),
    ("dispatcher", "UPDATE ledgers SET limit_usd = 9"),
    ("dispatcher", "UPDATE key_ledgers SET limit_usd = 9"),
    ("dispatcher", "UPDATE batches SET budget_usd = 9"),
    ("dispatcher", "INSERT INTO jobs SELECT * FROM jobs"),
    ("dispatcher", "UPDATE jobs SET body = '{}'"),
    ("dispatcher", "UPDATE results SET answer = ''"),
    ("dispatcher", "DELETE FROM results"),
    ("dispatcher", "DELETE FROM attempts"),
    ("dispatcher", "UPDATE attempts SET cost_usd = 0"),
    ("dispatcher", "INSERT INTO predictions SELECT * FROM predictions"),
    ("producer", "INSERT INTO reservations SELECT * FROM reservations"),
    ("producer", "UPDATE jobs SET body = '{}'"),
    ("producer", "UPDATE results SET answer = ''"),
    ("producer", "UPDATE attempts SET cost_usd = 0"),
    ("producer", "INSERT INTO assignments SELECT * FROM assignments"),
    *[
        (name, statement)
        for name in ("scorer", "dispatcher", "producer", "beat")
        for statement in (
            "CREATE TABLE mine ()",
            "DROP TABLE grades",
            "ALTER TABLE ledgers DROP CONSTRAINT ledgers_limit",
            "TRUNCATE results",
            "DROP TRIGGER count_added_results ON results",
            "UPDATE alembic_version SET version_num = '0001'",
        )
    ],
]


async def test_no_role_does_what_its_process_has_no_need_of(roles: Roles) -> None:
    for name, statement in _FORBIDDEN:
        with pytest.raises(StoreError, match=r"permission denied|must be owner"):
            await rows(roles[name], statement)


def test_an_upgrade_gives_the_roles_their_rights(migrated_databases: Databases) -> None:
    with migrated_databases.empty("with_roles") as url:
        upgrade(url)
        with psycopg.connect(url) as conn:
            granted = conn.execute(
                "SELECT has_table_privilege('routoo_dispatcher', 'results', 'INSERT'),"
                " has_table_privilege('routoo_scorer', 'results', 'INSERT')"
            )
            assert granted.fetchone() == (True, False)


@pytest.fixture
def plain_owner(migrated_databases: Databases) -> Iterator[str]:
    """The URL of an empty database for one who may create tables there, and no roles."""
    with migrated_databases.empty("without_roles") as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE ROLE plain_owner; GRANT CREATE ON SCHEMA public TO plain_owner")
        yield f"{url}{'&' if '?' in url else '?'}options=-crole%3Dplain_owner"
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("DROP OWNED BY plain_owner CASCADE; DROP ROLE plain_owner")


def test_an_upgrade_by_an_owner_who_may_not_create_roles_is_one_all_the_same(
    database_url: str, plain_owner: str
) -> None:
    create_roles(database_url)  # somebody else's
    assert upgrade(plain_owner) == newest_revision()
    with psycopg.connect(plain_owner) as conn:
        granted = conn.execute("SELECT has_table_privilege('routoo_scorer', 'jobs', 'SELECT')")
        assert granted.fetchone() == (False,)


@pytest.fixture
async def kept(roles: Roles, database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """The database as the dispatcher sees it, with a batch that keeps money for a shard."""
    async with FakeServer() as server:
        await submit(roles["producer"], server, 2)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        for table in ("ledgers", "shards"):
            await conn.execute(f"UPDATE {table} SET fallback_usd = 0.25".encode())
        await conn.execute("SET ROLE routoo_dispatcher")
        yield conn


async def test_the_trigger_on_shards_serves_no_table_of_others(
    kept: psycopg.AsyncConnection,
) -> None:
    await kept.execute("CREATE TEMP TABLE mine (batch_id uuid, fallback_usd numeric)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await kept.execute(
            "CREATE TRIGGER mine BEFORE INSERT ON mine"
            " FOR EACH ROW EXECUTE FUNCTION keep_nothing_once_done();"
            "INSERT INTO mine SELECT batch_id, -1000 FROM public.ledgers"
        )
    assert await amounts(kept, "public.ledgers") == [Decimal("0.25")]


async def test_the_trigger_on_shards_takes_no_other_table_for_the_ledger(
    kept: psycopg.AsyncConnection,
) -> None:
    await kept.execute("CREATE TEMP TABLE ledgers (batch_id uuid, fallback_usd numeric)")
    await kept.execute("INSERT INTO pg_temp.ledgers SELECT batch_id, 9 FROM public.ledgers")
    await kept.execute("UPDATE shards SET state = 'done' WHERE stage = 'dispatch'")
    assert await amounts(kept, "pg_temp.ledgers") == [9]
    assert await amounts(kept, "public.ledgers") == [0]


async def amounts(conn: psycopg.AsyncConnection, table: str) -> list[Decimal]:
    cursor = await conn.execute(f"SELECT fallback_usd FROM {table}".encode())
    return [usd async for (usd,) in cursor]

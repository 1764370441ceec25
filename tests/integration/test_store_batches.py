"""Batches and their jobs on a real database."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import urlencode
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool.base import AttemptWithBackoff

from routoo.domain.job import SLA, BatchStatus, Stage
from routoo.domain.validators import Validators
from routoo.errors import DatabaseUnavailableError, InputError, NotFoundError, StoreError
from routoo.store import batches, jobs, leases
from routoo.store.batches.progress import progress
from routoo.store.database import Database
from tests.batch_factory import BODY, pool_of, submit
from tests.chaos.relay import Relay
from tests.services import Databases

LIMITS = SLA(
    0.7,
    Decimal("0.0123"),
    1.5,
    datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    validators=Validators('{"type":"string"}', r"\d\t", ("a", 'b"\\')),
)


async def test_a_batch_comes_back_as_it_was_submitted(db: Database) -> None:
    batch_id = await submit(db, 3, budget_usd="1.50")

    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)

    assert batch.pool == pool_of("small", "large")
    assert (batch.status, batch.job_count) == (BatchStatus.IN_PROGRESS, 3)
    assert batch.budget_usd == Decimal("1.50")
    assert batch.created_at.tzinfo is not None


async def test_jobs_come_back_with_their_limits_and_in_order(db: Database) -> None:
    batch_id = await submit(db, 3, slas=[jobs.NO_LIMITS, LIMITS, jobs.NO_LIMITS])

    async with db.transaction() as conn:
        loaded = await jobs.load_slice(conn, batch_id, 1, 2)

    assert [job.job_no for job in loaded] == [1, 2]
    assert [job.sla for job in loaded] == [LIMITS, jobs.NO_LIMITS]
    assert loaded[0].body["messages"][0]["content"] == "Where\tis\nit?"


@pytest.mark.parametrize(
    "custom_id", ["tab\there", "line\nbreak", "back\\slash", r"\N", r"\.", "ü🎈", "\r"]
)
async def test_any_text_survives_the_copy(db: Database, custom_id: str) -> None:
    async with db.transaction() as conn:
        batch_id, _ = await batches.create(conn, batches.NewBatch("x", pool_of("small")))
        async with jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write([jobs.JobInput(0, custom_id, BODY)])
        await batches.seal(conn, batch_id, 1, 10)
        loaded = await jobs.load_slice(conn, batch_id, 0, 1)

    assert loaded[0].custom_id == custom_id


async def test_a_batch_submitted_twice_is_one_batch(db: Database) -> None:
    first = await submit(db, key="monday")

    assert await submit(db, key="monday") == first


async def test_of_two_submitters_at_once_the_second_waits_and_finds_the_first(db: Database) -> None:
    ids = await asyncio.gather(*(submit(db, key="monday") for _ in range(4)))

    assert len(set(ids)) == 1


async def test_a_submitter_takes_the_key_of_one_that_rolled_back(db: Database) -> None:
    new = batches.NewBatch("x", pool_of("small"), idempotency_key="monday")
    with pytest.raises(RuntimeError):
        async with db.transaction() as conn:
            await batches.create(conn, new)
            raise RuntimeError

    async with db.transaction() as conn:
        assert (await batches.create(conn, new))[1]


async def test_an_interrupted_submission_leaves_nothing(db: Database) -> None:
    with pytest.raises(asyncio.CancelledError):
        async with db.transaction() as conn:
            batch_id, _ = await batches.create(conn, batches.NewBatch("x", pool_of("small")))
            async with jobs.copy_jobs(conn, batch_id) as copy:
                await copy.write([jobs.JobInput(0, "a", BODY)])
                raise asyncio.CancelledError

    async with db.transaction() as conn:
        cursor = await conn.execute("SELECT (SELECT count(*) FROM jobs) + count(*) FROM batches")
        assert await cursor.fetchone() == (0,)


async def test_a_batch_without_jobs_is_refused(db: Database) -> None:
    with pytest.raises(InputError, match="at least one job"):
        await submit(db, 0)


async def test_a_lone_surrogate_is_refused(db: Database) -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        async with db.transaction() as conn:
            batch_id, _ = await batches.create(conn, batches.NewBatch("x", pool_of("small")))
            async with jobs.copy_jobs(conn, batch_id) as copy:
                await copy.write([jobs.JobInput(0, "\ud800", BODY)])


async def test_shards_cover_every_job_once(db: Database) -> None:
    batch_id = await submit(db, 5, shard_size=2)

    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT stage, first_job, job_count, state FROM shards WHERE batch_id = %s"
            " ORDER BY stage, shard_no",
            [batch_id],
        )
        rows = await cursor.fetchall()

    slices = [(0, 2), (2, 2), (4, 1)]
    assert rows == [
        *(("dispatch", *part, "blocked") for part in slices),
        *(("score", *part, "ready") for part in slices),
        ("select", 0, 5, "blocked"),
    ]


async def test_a_batch_is_found_by_id_prefix_and_name(db: Database) -> None:
    batch_id = await submit(db)

    async with db.transaction() as conn:
        for text in (str(batch_id), str(batch_id)[:6].upper(), "example"):
            assert (await batches.find(conn, text)).id == batch_id


async def test_a_batch_that_does_not_exist_is_said_so(db: Database) -> None:
    async with db.transaction() as conn:
        with pytest.raises(NotFoundError):
            await batches.get(conn, uuid4())
        with pytest.raises(NotFoundError):
            await batches.find(conn, "nothing")
        with pytest.raises(NotFoundError):
            await progress(conn, uuid4())


async def test_an_ambiguous_prefix_is_refused(db: Database) -> None:
    async with db.transaction() as conn:
        for end in "12":
            await conn.execute(
                "INSERT INTO batches (id, name, pool) VALUES (%s, 'x', %s)",
                [f"abcdabcd-0000-0000-0000-00000000000{end}", pool_of("m").model_dump_json()],
            )
        with pytest.raises(InputError, match="several"):
            await batches.find(conn, "abcd")


async def test_the_newest_batches_come_first(db: Database) -> None:
    ids = [await submit(db) for _ in range(3)]

    async with db.transaction() as conn:
        assert [batch.id for batch in await batches.list_recent(conn, 2)] == [ids[2], ids[1]]


async def test_a_plan_is_kept(db: Database) -> None:
    batch_id = await submit(db)

    async with db.transaction() as conn:
        await batches.save_plan(conn, batch_id, {"quality": 0.5})
        assert (await batches.get(conn, batch_id)).plan == {"quality": 0.5}


async def test_a_failed_batch_says_why_and_hands_out_nothing(db: Database) -> None:
    batch_id = await submit(db)

    async with db.transaction() as conn:
        await batches.mark_failed(conn, batch_id, "it broke")
        batch = await batches.get(conn, batch_id)
        due = await leases.due(conn, Stage.SCORE, 10)

    assert (batch.status, batch.error, due) == (BatchStatus.FAILED, "it broke", [])


async def test_a_refused_statement_is_a_store_error(db: Database) -> None:
    with pytest.raises(StoreError, match="refused") as caught:
        async with db.transaction() as conn:
            await conn.execute("SELECT no_such_column FROM jobs")

    assert not caught.value.retryable


async def test_a_value_that_the_database_can_not_hold_is_a_store_error(db: Database) -> None:
    with pytest.raises(StoreError, match="can't hold a value: division by zero") as caught:
        async with db.transaction() as conn:
            await conn.execute("SELECT 1/0")

    assert not caught.value.retryable


async def test_an_unmigrated_database_says_what_to_run(migrated_databases: Databases) -> None:
    with migrated_databases.empty("bare") as url:
        async with Database(url) as bare:
            with pytest.raises(StoreError, match="routoo db upgrade"):
                async with bare.transaction() as conn:
                    await batches.list_recent(conn, 1)


async def test_a_lost_connection_is_retryable_and_the_next_one_works(
    db: Database, database_url: str
) -> None:
    with pytest.raises(DatabaseUnavailableError):
        async with db.transaction() as conn:
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
            await conn.execute("SELECT 1")

    async with db.transaction() as conn:
        assert await (await conn.execute("SELECT 1")).fetchone() == (1,)


async def test_the_end_of_an_outage_is_noticed_within_seconds_however_long_it_took(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By itself the pool would wait twice as long after each failure: here very much longer.
    monkeypatch.setattr(AttemptWithBackoff, "DELAY_BACKOFF", 1_000.0)
    known = conninfo_to_dict(database_url)
    relay = Relay(str(known["host"]), int(known.get("port") or 5432))
    login = {name: str(known[name]) for name in ("user", "password") if name in known}
    query = urlencode({"host": "127.0.0.1", "port": relay.start(), **login})
    url = f"postgresql:///{known['dbname']}?{query}"
    try:
        async with Database(url, max_size=2) as db:
            relay.cut()
            waiting = asyncio.create_task(_ask(db))
            await asyncio.sleep(3.0)  # the pool has given its first attempt up
            relay.mend()
            assert await waiting == 1
    finally:
        relay.stop()


async def _ask(db: Database) -> int:
    async with db.transaction() as conn:
        return (await conn.execute("SELECT 1")).rowcount

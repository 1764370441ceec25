"""Data written at every revision of the schema comes through all later ones, and batches go on."""

import json
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine

from routoo.domain.job import ShardKey, Stage
from routoo.settings import REPOSITORY
from routoo.store import administration, shards
from routoo.store.batches.progress import progress
from routoo.store.database import Database
from tests.dispatch_factory import claim, dispatch, pool_of, rows
from tests.fakes.openai_server import FakeServer
from tests.services import Databases

pytestmark = pytest.mark.anyio

REVISIONS = sorted(
    path.name.partition("_")[0] for path in (REPOSITORY / "migrations/versions").glob("[0-9]*.py")
)
_BODY = json.dumps({"messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 20})
# A batch of four jobs, as the first revision holds it: one answered, one failed and paid, one whose
# call was under way when its worker died, one that waits. Columns that came later are not named, so
# these are also the statements of workers of every older version.
_BATCH = f"""
    INSERT INTO batches (id, name, pool, budget_usd, job_count)
        VALUES (%(id)s, %(name)s, %(pool)s, 1, 4);
    INSERT INTO ledgers (batch_id, limit_usd, reserved_usd, spent_usd)
        VALUES (%(id)s, 1, 0.1, 0.03);
    INSERT INTO jobs (batch_id, job_no, custom_id, body)
        SELECT %(id)s, n, 'job-' || n, '{_BODY}' FROM generate_series(0, 3) AS n;
    INSERT INTO predictions SELECT %(id)s, n, '{{0.5,0.9}}', '{{0,0}}', '{{5,5}}', 0, false
        FROM generate_series(0, 3) AS n;
    INSERT INTO shards (batch_id, stage, shard_no, first_job, job_count, state, epoch)
        VALUES (%(id)s, 'score', 0, 0, 4, 'done', 1), (%(id)s, 'select', 0, 0, 4, 'done', 1);
    INSERT INTO shards (batch_id, stage, shard_no, first_job, job_count, state, owner, epoch,
                        lease_expires_at)
        VALUES (%(id)s, 'dispatch', 0, 0, 4, 'leased', 'old', 3, now() - interval '1 hour');
    INSERT INTO assignments (batch_id, job_no, revision, model, expected_quality, expected_cost_usd)
        SELECT %(id)s, n, 1, 'small', 0.5, 0.0001 FROM generate_series(0, 3) AS n;
    INSERT INTO reservations (batch_id, job_no, attempt_no, shard_no, model, worst_case_usd)
        SELECT %(id)s, n, 1, 0, 'small', 0.1 FROM generate_series(0, 2) AS n;
    INSERT INTO attempts (batch_id, job_no, attempt_no, model, status, cost_usd, error_code)
        VALUES (%(id)s, 0, 1, 'small', 'succeeded', 0.01, NULL),
               (%(id)s, 1, 1, 'small', 'failed', 0.02, 'invalid_response');
    INSERT INTO results (batch_id, job_no, status, model, answer, response, cost_usd, attempts)
        VALUES (%(id)s, 0, 'succeeded', 'small', '4', '{{}}', 0.01, 1);
    INSERT INTO results (batch_id, job_no, status, cost_usd, attempts, error_code)
        VALUES (%(id)s, 1, 'failed', 0.02, 1, 'invalid_response');
    INSERT INTO grades (batch_id, job_no, score, grader) VALUES (%(id)s, 0, 1, 'exact');
"""
_LATER = {
    "0006": "INSERT INTO replans (batch_id, revision, reason, decided_at, moved, before, after)"
    " VALUES (%(id)s, 2, 'drift', now(), 0, '{}', '{}')",
    "0007": "INSERT INTO floors (batch_id, margins) VALUES (%(id)s, '{0.1,0.1}')",
    "0008": "INSERT INTO superseded_results (batch_id, retry_no, job_no, status, cost_usd,"
    " attempts, ended_at) VALUES (%(id)s, 1, 1, 'failed', 0, 1, now())",
    "0012": "INSERT INTO followers VALUES (%(id)s, 3, 2)",
    "0013": "INSERT INTO provider_batches (marker, batch_id, shard_no, model, state)"
    " VALUES (%(id)s, %(id)s, 0, 'small', 'closed')",
    "0014": "INSERT INTO response_cache (key, model, answer, response, prompt_tokens,"
    " completion_tokens, expires_at) VALUES (sha256(%(name)s::bytea), 'small', '4', '{}', 1, 1,"
    " now() + interval '1 day')",
    "0026": "INSERT INTO api_keys (id, name, key_sha256, scopes)"
    " VALUES (%(id)s, %(name)s, %(name)s, '{read}');"
    " INSERT INTO key_ledgers (key_id, limit_usd) VALUES (%(id)s, 5)",
    "0043": "INSERT INTO request_facts (batch_id, first_job, job_count, format, columns, kinds,"
    " digests) VALUES (%(id)s, 0, 4, 0, '', '[]', '')",
}
"""Of tables that came later, by the revision that made them."""
_TABLES = ("jobs", "predictions", "assignments", "attempts", "results", "grades", "reservations")
_COUNTS = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in _TABLES)


@pytest.fixture
def filled(migrated_databases: Databases) -> Iterator[tuple[str, dict[str, UUID], str]]:
    """A database that was upgraded step by step, and written to at each: its URL, the batches."""
    config = Config()
    config.set_main_option("script_location", str(REPOSITORY / "migrations"))
    config.set_main_option("path_separator", "os")
    found = {revision: uuid4() for revision in REVISIONS}
    with migrated_databases.empty("step_by_step") as url:
        engine = create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool
        )
        pool = json.dumps({"models": []})
        with engine.connect() as connection, psycopg.connect(url, autocommit=True) as conn:
            config.attributes["connection"] = connection
            for revision, batch_id in found.items():
                command.upgrade(config, revision)
                connection.commit()
                later = [text for since, text in _LATER.items() if since <= revision]
                values = {"id": batch_id, "name": revision, "pool": pool}
                for statement in (*_BATCH.split(";"), *";".join(later).split(";")):
                    if statement.strip():
                        conn.execute(statement.encode(), values)
        yield url, found, pool


async def test_batches_of_every_older_schema_go_on_with_the_newest(
    filled: tuple[str, dict[str, UUID], str],
) -> None:
    url, found, _ = filled
    assert administration.current_revision(url) == administration.newest_revision() == max(found)
    count = len(found)
    async with Database(url) as db, FakeServer({"models": {"*": {}}}) as server:
        per_batch = {"attempts": 2, "results": 2, "grades": 1, "reservations": 3}
        assert dict(await rows(db, _COUNTS)) == {
            name: count * per_batch.get(name, 4) for name in _TABLES
        }
        pool = pool_of(server).model_dump(mode="json", exclude_none=True)
        await rows(db, "UPDATE batches SET pool = %s RETURNING 1", json.dumps(pool))
        for revision, batch_id in found.items():
            async with db.transaction() as conn:
                before = await progress(conn, batch_id)
            assert sum(before.results.values()) == 2, revision
            lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
            assert await dispatch(db, lease), revision
            async with db.transaction() as conn:
                await shards.finish(conn, lease, shards.Done())
                after = await progress(conn, batch_id)
            assert str(after.status) == "completed", revision
        ended = "SELECT status, count(*) FROM batch_results GROUP BY 1 ORDER BY 1"
        assert await rows(db, ended) == [("failed", count), ("succeeded", 3 * count)]
        books = """
            SELECT count(*) FROM ledgers l WHERE reserved_usd = 0 AND spent_usd = (
                SELECT sum(cost_usd) FROM attempts a WHERE a.batch_id = l.batch_id)
        """
        assert await rows(db, books) == [(count,)]

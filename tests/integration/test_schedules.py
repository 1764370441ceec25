"""Schedules against a real database: each due instant fires once, whatever happens."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from routoo.domain.calendar import Missed
from routoo.evaluation_runs.scheduler import Scheduler
from routoo.store import schedules
from routoo.store.database import Database
from routoo.store.schedules import NewSchedule, ScheduleRecord
from tests.batch_factory import pool_of
from tests.run_factory import SHARD, add_set, questions
from tests.warm_commands import warm_producer

pytestmark = pytest.mark.anyio

EVERY_MINUTE = "* * * * *"
NOW = Scheduler("tester", SHARD)
DYING = """
import asyncio, sys, time
from routoo.evaluation_runs import scheduler
from routoo.store.database import Database

async def die(*_):
    print("begun", flush=True)
    time.sleep(60)

async def main():
    async with Database(sys.argv[1]) as db:
        scheduler.schedules.move = die
        await scheduler.Scheduler("dying", 100).fire_due(db)

asyncio.run(main())
"""


async def add(db: Database, due_ago: timedelta, **changes: Any) -> ScheduleRecord:
    """Add a schedule that fell due some time ago."""
    await add_set(db, questions(2))
    due_at = (datetime.now(UTC) - due_ago).replace(second=0, microsecond=0)
    facts = {"cron": EVERY_MINUTE, "missed": Missed.RUN_ONCE, "eval_set": "example"} | changes
    pool = pool_of("small", "large").model_dump(mode="json")
    new = NewSchedule("nightly", time_zone="UTC", pool=pool, next_due_at=due_at, **facts)
    async with db.transaction() as conn:
        await schedules.add(conn, new)
        return await schedules.find(conn, "nightly")


async def history(db: Database, schedule: ScheduleRecord) -> list[schedules.Firing]:
    async with db.transaction() as conn:
        return await schedules.history(conn, schedule.id, 100)


async def count(db: Database, table: str) -> int:
    async with db.transaction() as conn:
        found = await conn.execute(f"SELECT count(*) FROM {table}".encode())
        return int((await found.fetchall())[0][0])


async def test_of_many_schedulers_one_fires_each_instant(db: Database, database_url: str) -> None:
    schedule = await add(db, timedelta(seconds=0), cron="0 0 1 1 *")
    async with Database(database_url) as other:
        runs = await asyncio.gather(
            *(Scheduler(f"s-{n}", SHARD).fire_due(one) for n in range(6) for one in (db, other))
        )
    assert sum(len(found) for found in runs) == 1
    assert [one.outcome for one in await history(db, schedule)] == ["submitted"]
    assert (await count(db, "eval_runs"), await count(db, "batches")) == (1, 1)


async def test_a_scheduler_killed_while_it_fires_has_fired_nothing(
    db: Database, database_url: str
) -> None:
    schedule = await add(db, timedelta(seconds=0), cron="0 0 1 1 *")
    dying = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DYING, database_url), stdout=asyncio.subprocess.PIPE
    )
    assert dying.stdout is not None
    assert await dying.stdout.readline() == b"begun\n"
    assert await NOW.fire_due(db) == []  # the other one has it
    dying.kill()
    await dying.wait()
    while not await NOW.fire_due(db):
        await asyncio.sleep(0.05)
    assert [one.owner for one in await history(db, schedule)] == ["tester"]
    assert await count(db, "batches") == 1


async def test_after_downtime_the_latest_missed_firing_is_run_once(db: Database) -> None:
    schedule = await add(db, timedelta(minutes=30))
    assert len(await NOW.fire_due(db)) == 1
    assert await NOW.fire_due(db) == []
    (firing,) = await history(db, schedule)
    assert firing.missed in {29, 30}


async def test_after_downtime_missed_firings_can_be_skipped(db: Database) -> None:
    schedule = await add(db, timedelta(hours=26), cron="0 0 1 1 *", missed=Missed.SKIP)
    assert await NOW.fire_due(db) == []
    (firing,) = await history(db, schedule)
    assert firing.outcome == "skipped"
    assert firing.detail is not None
    assert "nobody was there until" in firing.detail


async def test_a_clock_put_back_fires_nothing_twice_and_waits_no_year(db: Database) -> None:
    schedule = await add(db, timedelta(seconds=0), cron="0 * * * *")
    await NOW.fire_due(db)
    ahead = datetime.now(UTC) + timedelta(days=365)
    async with db.transaction() as conn:  # as if the clock had been a year ahead
        await schedules.move(conn, schedule.id, ahead)
        following = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        following += timedelta(hours=1)
        fired = schedules.Firing(schedule.id, following, "submitted", "earlier")
        await schedules.save_firing(conn, fired)
    assert await NOW.fire_due(db) == []
    async with db.transaction() as conn:
        moved = await schedules.get(conn, schedule.id)
    assert moved.next_due_at == following + timedelta(hours=1)


async def test_a_firing_that_can_not_begin_is_recorded_and_the_next_one_is_due(
    db: Database,
) -> None:
    schedule = await add(db, timedelta(seconds=0), eval_set="gone")
    assert await NOW.fire_due(db) == []
    (firing,) = await history(db, schedule)
    assert firing.outcome == "failed"
    assert firing.detail is not None
    assert "no such evaluation set" in firing.detail
    assert await count(db, "batches") == 0


async def test_a_paused_schedule_fires_not(db: Database) -> None:
    schedule = await add(db, timedelta(seconds=0))
    async with db.transaction() as conn:
        await schedules.pause(conn, schedule.id, paused=True)
    assert await NOW.fire_due(db) == []


def test_a_schedule_is_added_listed_paused_and_removed_by_command(
    database_url: str, tmp_path: Any
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"prompt": "Two?", "answer": "2"}\n')

    def producer(*arguments: str) -> str:
        environ = {
            "ROUTOO_DATABASE_URL": database_url,
            "ROUTOO_BROKER_URL": "redis://127.0.0.1:1",
            "PATH": "",
        }
        done = warm_producer.run(arguments, environ=environ, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    producer("evalset", "add", "questions", "--items", str(items))
    when = ("--cron", "0 2 * * *", "--tz", "Europe/Zurich", "--budget-usd", "2")
    aim = ("--willingness-to-pay-usd", "0.01", "--max-completion-tokens", "50", "--no-cascade")
    said = producer("schedule", "add", "nightly", "--evalset", "questions", *when, *aim)
    assert "02:00 CE" in said
    producer("schedule", "pause", "nightly")
    (shown,) = producer("schedule", "list", "--json").splitlines()
    assert json.loads(shown)["paused"] is True
    assert json.loads(shown)["objective"]["willingness_to_pay_usd"] == 0.01
    assert json.loads(shown)["call_options"]["cascade"] is False
    producer("schedule", "resume", "nightly")
    run_id = producer("schedule", "run-now", "nightly").strip()
    (fired,) = producer("schedule", "history", "nightly", "--json").splitlines()
    assert json.loads(fired)["run_id"] == run_id
    (begun,) = producer("eval", "list", "--json").splitlines()
    assert json.loads(begun)["objective"] == json.loads(shown)["objective"]
    assert json.loads(shown)["max_completion_tokens"] == 50
    with psycopg.connect(database_url) as connection:
        query = "SELECT call_options -> 'max_completion_tokens', call_options -> 'cascade'"
        assert connection.execute(f"{query} FROM batches").fetchall() == [(50, False)]
    producer("schedule", "remove", "nightly")
    assert producer("schedule", "list", "--json") == ""

"""Schedules of batches: each due time submits its files or its query once, whatever happens."""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from producer.scheduled import BatchWork, submit_scheduled
from producer.submit import Submission, submit_in
from routoo.domain.calendar import Missed
from routoo.evaluation_runs.scheduler import Scheduler
from routoo.store import schedules
from routoo.store.database import Database
from routoo.store.schedules import Firing, NewSchedule, ScheduleRecord
from tests.batch_factory import pool_of
from tests.dispatch_factory import rows
from tests.producer_command import ProducerCommand
from tests.run_factory import SHARD

pytestmark = pytest.mark.anyio

NIGHT = "0 0 1 1 *"
SUBMITTER = Scheduler("tester", SHARD, partial(submit_scheduled, shard_size=SHARD))
DYING = """
import asyncio, sys, time
from functools import partial
from producer.scheduled import submit_scheduled
from routoo.evaluation_runs import scheduler
from routoo.store.database import Database

async def die(*_):
    print("begun", flush=True)
    time.sleep(60)

async def main():
    async with Database(sys.argv[1]) as db:
        scheduler.schedules.move = die
        submit = partial(submit_scheduled, shard_size=100)
        await scheduler.Scheduler("dying", 100, submit).fire_due(db)

asyncio.run(main())
"""


async def add(
    db: Database, *, name: str = "mail", budget_usd: str | None = None, **work: Any
) -> ScheduleRecord:
    """Add a schedule of batches that is due."""
    due_at = datetime.now(UTC).replace(second=0, microsecond=0)
    new = NewSchedule(
        name=name,
        eval_set=None,
        cron=NIGHT,
        time_zone="UTC",
        missed=Missed.RUN_ONCE,
        pool=pool_of("small", "large").model_dump(mode="json"),
        next_due_at=due_at,
        batch=BatchWork(**work).as_json(),
        budget_usd=None if budget_usd is None else Decimal(budget_usd),
    )
    async with db.transaction() as conn:
        await schedules.add(conn, new)
        return await schedules.find(conn, name)


async def fire_again(db: Database, schedule: ScheduleRecord, *, minutes: int) -> Firing:
    """Fire a schedule as if it had been due some minutes ago."""
    due_at = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=minutes)
    async with db.transaction() as conn:
        await schedules.move(conn, schedule.id, due_at)
    await SUBMITTER.fire_due(db)
    async with db.transaction() as conn:
        found = await schedules.history(conn, schedule.id, 100)
    return next(one for one in found if one.due_at == due_at)


async def submitted(db: Database) -> list[tuple[Any, ...]]:
    """Return the sources of the batches, and how many jobs they have."""
    query = "SELECT source, job_count FROM schedule_batches ORDER BY due_at DESC, source"
    return [(Path(source).name, count) for source, count in await rows(db, query)]


def write(path: Path, *prompts: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


async def test_of_many_schedulers_one_submits_each_due_time(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    await add(db, files=str(write(tmp_path / "in.jsonl", "a", "b")))
    async with Database(database_url) as other:
        found = await asyncio.gather(
            *(SUBMITTER.fire_due(one) for _ in range(5) for one in (db, other)),
            Scheduler("of evaluations", SHARD).fire_due(db),
        )
    assert sum(map(len, found)) == 1
    ((name, *facts),) = await rows(db, "SELECT name, job_count, status FROM batches")
    assert name.startswith("mail 2")
    assert name.endswith(" in")
    assert facts == [2, "in_progress"]
    assert await submitted(db) == [("in.jsonl", 2)]


async def test_a_scheduler_killed_while_it_submits_has_submitted_nothing(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    await add(db, files=str(write(tmp_path / "in.jsonl", "a")))
    dying = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DYING, database_url), stdout=asyncio.subprocess.PIPE
    )
    assert dying.stdout is not None
    assert await dying.stdout.readline() == b"begun\n"
    assert await SUBMITTER.fire_due(db) == []  # the other one has it
    dying.kill()
    await dying.wait()
    while not await SUBMITTER.fire_due(db):
        await asyncio.sleep(0.05)
    assert await rows(db, "SELECT count(*) FROM batches") == [(1,)]


async def test_each_file_of_a_pattern_is_a_batch_and_a_bad_one_stops_no_other(
    db: Database, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", "a")
    (tmp_path / "b.jsonl").write_text('{"text": "no prompt"}\n')
    write(tmp_path / "c.jsonl")
    write(tmp_path / "d.jsonl", "d", "e")
    write(tmp_path / "d.errors.jsonl", "of an earlier night")
    write(tmp_path / os.fsdecode(b"c\xff.jsonl"), "of another encoding")
    schedule = await add(db, files=str(tmp_path / "*.jsonl"), limits={"min_quality": "0.1"})
    firing = await fire_again(db, schedule, minutes=1)
    assert firing.outcome == "submitted"
    detail = str(firing.detail)
    assert "1 of 1 rows have problems" in detail
    assert "b.jsonl:1: the row has neither" in detail
    assert "c.jsonl: it has no rows" in detail
    assert "name is not UTF-8" in detail
    assert await submitted(db) == [("a.jsonl", 1), ("d.jsonl", 2)]
    assert await rows(db, "SELECT DISTINCT min_quality FROM batches") == [(pytest.approx(0.1),)]


async def test_the_files_of_a_pattern_share_the_budget_by_their_rows(
    db: Database, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", "a")
    (tmp_path / "b.jsonl").write_text('{"text": "no prompt"}\n')
    write(tmp_path / "c.jsonl", "c", "d")
    schedule = await add(db, files=str(tmp_path / "*.jsonl"), budget_usd="5")
    for minutes in (2, 1):
        await fire_again(db, schedule, minutes=minutes)
    query = (
        "SELECT b.job_count, b.budget_usd, l.limit_usd FROM batches b"
        " JOIN ledgers l ON l.batch_id = b.id ORDER BY b.job_count"
    )
    third, two_thirds = Decimal("1.666666666"), Decimal("3.333333333")
    expected = [(1, third, third)] * 2 + [(2, two_thirds, two_thirds)] * 2
    assert await rows(db, query) == expected
    (tmp_path / "c.jsonl").unlink()
    await fire_again(db, schedule, minutes=0)
    alone = "SELECT budget_usd FROM batches WHERE job_count = 1 ORDER BY created_at DESC LIMIT 1"
    assert await rows(db, alone) == [(Decimal(5),)]


async def test_a_file_is_submitted_again_only_when_it_changed(db: Database, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "a")
    schedule = await add(db, files=str(tmp_path / "*.jsonl"), only_new=True, max_files=1)
    await fire_again(db, schedule, minutes=4)
    skipped = await fire_again(db, schedule, minutes=3)
    assert (skipped.outcome, skipped.detail) == ("skipped", "a.jsonl: submitted before")
    write(path, "a", "b")
    write(tmp_path / "b.jsonl", "c")
    firing = await fire_again(db, schedule, minutes=2)
    assert "from b.jsonl on: left for later" in str(firing.detail)
    await fire_again(db, schedule, minutes=1)
    assert await submitted(db) == [("b.jsonl", 1), ("a.jsonl", 2), ("a.jsonl", 1)]


async def test_a_file_that_changes_while_it_is_read_is_not_paid_for(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", "a")

    async def submit_slowly(*given: Any, **options: Any) -> Submission:
        done = await submit_in(*given, **options)
        write(path, "a", "b")
        return done

    monkeypatch.setattr("producer.scheduled.submit_in", submit_slowly)
    schedule = await add(db, files=str(path), only_new=True)
    firing = await fire_again(db, schedule, minutes=2)
    assert firing.outcome == "failed"
    assert "changed while it was read" in str(firing.detail)
    assert await rows(db, "SELECT count(*) FROM batches") == [(0,)]
    monkeypatch.undo()
    assert (await fire_again(db, schedule, minutes=1)).outcome == "submitted"
    assert await submitted(db) == [("a.jsonl", 2)]


async def test_a_schedule_that_can_not_fire_holds_up_no_other_one(
    db: Database, tmp_path: Path
) -> None:
    files = str(write(tmp_path / "a.jsonl", "a"))
    for name in ("a", "b", "c"):
        await add(db, name=name, files=files)
    async with db.transaction() as conn:
        await conn.execute("UPDATE schedules SET pool = '{}' WHERE name = 'a'")
        await conn.execute("UPDATE schedules SET batch = '{\"unknown\": 1}' WHERE name = 'b'")
    await SUBMITTER.fire_due(db)
    query = "SELECT name, outcome FROM schedule_firings JOIN schedules ON id = schedule_id"
    assert await rows(db, f"{query} ORDER BY name") == [("a", "failed"), ("c", "submitted")]


async def test_what_is_not_there_is_told_and_the_next_night_goes_on(
    db: Database, tmp_path: Path
) -> None:
    schedule = await add(db, files=str(tmp_path / "in.jsonl"))
    firing = await fire_again(db, schedule, minutes=2)
    assert firing.outcome == "failed"
    assert "no such file" in str(firing.detail)
    write(tmp_path / "in.jsonl", "a")
    assert (await fire_again(db, schedule, minutes=1)).outcome == "submitted"
    async with db.transaction() as conn:
        await schedules.remove(conn, schedule.id)
    schedule = await add(db, files=f"/{'x' * 300}")
    firing = await fire_again(db, schedule, minutes=1)
    assert firing.outcome == "failed"
    assert "File name too long" in str(firing.detail)
    async with db.transaction() as conn:
        await schedules.remove(conn, schedule.id)
    schedule = await add(db, files=str(tmp_path / "none" / "*.csv"))
    firing = await fire_again(db, schedule, minutes=1)
    assert firing.outcome == "skipped"
    assert "no file fits" in str(firing.detail)


async def test_a_query_s_rows_are_a_batch(
    db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with db.transaction() as conn:
        await conn.execute("CREATE TABLE mails (id int, body_text text, due timestamptz)")
        await conn.execute(
            "INSERT INTO mails SELECT n, 'mail ' || n, now() + interval '1 day'"
            " FROM generate_series(1, 3000) n"
        )
    monkeypatch.setenv("MAILS_URL", database_url)
    query = "SELECT id AS custom_id, body_text AS prompt, due AS deadline FROM mails ORDER BY id"
    schedule = await add(db, query=query, url_env="MAILS_URL")
    assert (await fire_again(db, schedule, minutes=1)).outcome == "submitted"
    assert await submitted(db) == [("query", 3000)]
    first = "SELECT custom_id, deadline IS NOT NULL FROM jobs WHERE job_no = 0"
    assert await rows(db, first) == [("1", True)]


@pytest.mark.parametrize(
    ("query", "outcome", "words"),
    [
        ("SELECT secret FROM nowhere", "failed", "UndefinedTable (42P01)"),
        ("SELECT 'x' AS text", "failed", "no column prompt"),
        ("SELECT 'x' AS prompt WHERE false", "skipped", "it has no rows"),
        ("SELECT nextval('scheduled_test')::text AS prompt", "failed", "ReadOnly"),
        ("SELECT ('x' || 1/(2-n)) AS prompt FROM generate_series(1, 2) n", "failed", "Division"),
    ],
)
async def test_a_query_that_fails_is_told_without_its_text(
    db: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    outcome: str,
    words: str,
) -> None:
    async with db.transaction() as conn:
        await conn.execute("CREATE SEQUENCE scheduled_test")
    monkeypatch.setenv("MAILS_URL", database_url)
    schedule = await add(db, query=query, url_env="MAILS_URL")
    firing = await fire_again(db, schedule, minutes=1)
    assert firing.outcome == outcome
    assert words in str(firing.detail)
    assert query not in str(firing.detail)
    assert "secret" not in str(firing.detail)
    assert await rows(db, "SELECT count(*) FROM batches") == [(0,)]


async def test_a_query_without_its_url_fails_with_the_variable_s_name(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAILS_URL", raising=False)
    schedule = await add(db, query="SELECT 1", url_env="MAILS_URL")
    firing = await fire_again(db, schedule, minutes=1)
    assert "MAILS_URL is not set where the beat runs" in str(firing.detail)


async def test_the_commands_keep_submit_s_options_and_show_what_came_of_them(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    command = ProducerCommand(database_url, tmp_path)
    (tmp_path / "in.csv").write_text("key,text\n1,eins\n2,zwei\n")
    done = command.run(
        *("schedule", "add", "mail", "--batch", "in.csv", "--cron", NIGHT),
        *("--template", "Say {text}", "--id-column", "key", "--budget-usd", "5"),
        *("--deadline", "6h", "--deny-model", "other", "--tz", "Europe/Zurich", "--no-cascade"),
    )
    assert done.returncode == 2  # there is no such model
    options = ("--template", "Say {text}", "--id-column", "key", "--budget-usd", "5")
    done = command.run(
        *("schedule", "add", "mail", "--batch", "in.csv", "--cron", NIGHT, *options),
        *("--deadline", "6h", "--tz", "Europe/Zurich", "--no-cascade"),
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "in.csv") in done.stderr
    ran = command.run("schedule", "run-now", "mail")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "batch:\n"
    batch_id = ran.stdout.strip()
    facts = await rows(db, "SELECT budget_usd, deadline > now() + '5 hours', plan FROM batches")
    assert [row[:2] for row in facts] == [(5, True)]
    assert await rows(db, "SELECT custom_id FROM jobs ORDER BY job_no") == [("1",), ("2",)]
    (tmp_path / "in.csv").unlink()
    again = command.run("schedule", "run-now", "mail")
    assert (again.returncode, again.stdout) == (3, "")
    shown = command.facts("schedule", "show", "mail")
    assert shown["batch"]["template"] == "Say {text}"
    assert shown["firings"][0]["batches"][0]["batch_id"] == batch_id
    (line,) = command.run("schedule", "list", "--json").stdout.splitlines()
    listed = json.loads(line)
    assert listed["last"]["outcome"] == "submitted"
    assert "submitted" in command.run("schedule", "list").stdout
    assert batch_id[:8] in command.run("schedule", "history", "mail").stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--evalset", "x", "--batch", "a.csv"),
        ("--sql", "SELECT 1"),
        ("--batch", "a.csv", "--rollback"),
        ("--evalset", "x", "--template", "{a}"),
        ("--sql", "SELECT 1", "--sql-url-env", "X", "--only-new"),
        ("--batch", "a.csv", "--deadline", "2027-01-31T18:00:00+00:00"),
        ("--batch", "a.csv", "--template", "{"),
        (),
    ],
)
def test_options_that_don_t_fit_together_are_refused(
    database_url: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    command = ProducerCommand(database_url, tmp_path)
    assert "Traceback" not in command.refusal("schedule", "add", "s", "--cron", NIGHT, *options)

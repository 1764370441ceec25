"""What `status` and `watch` say of a batch: rates, waits for workers, causes, the budget."""

import asyncio
import io
import subprocess
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from producer.progress import Snapshot, find_batch, take_snapshot
from producer.screen.progress import end_note, progress_line, progress_view, unused_note
from routoo.domain.completion import Result
from routoo.domain.job import ResultStatus, Stage
from routoo.loop_thread import LoopThread
from routoo.store import batches, ledger, results, shards, workers
from routoo.store.batches.progress import Deviations
from routoo.store.database import Database
from tests import batch_factory as factory
from tests.producer_command import ProducerCommand
from worker.roles import Role
from worker.tasks import heartbeat

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def producer(database_url: str, tmp_path: Path) -> Run:
    return ProducerCommand(database_url, tmp_path).run


async def run_sql(db: Database, statement: str, *values: object) -> None:
    async with db.transaction() as conn:
        await conn.execute(statement.encode(), values)


async def snapshot(db: Database, batch_id: UUID) -> Snapshot:
    async with db.transaction() as conn:
        return await take_snapshot(conn, await find_batch(conn, str(batch_id)))


async def facts(db: Database, batch_id: UUID) -> dict[str, Any]:
    return (await snapshot(db, batch_id)).as_json()


async def status(db: Database, batch_id: UUID) -> str:
    screen = Console(file=io.StringIO(), width=200, markup=False)
    screen.print(progress_view(await snapshot(db, batch_id)))
    return screen.file.getvalue()  # type: ignore[attr-defined,no-any-return]


async def half_answered(db: Database, budget_usd: str, jobs: int) -> UUID:
    """Return a batch of four jobs for 4 cents, two of them answered."""
    batch_id = await factory.submit(db, 4, shard_size=2, budget_usd=budget_usd)
    await factory.score(db, batch_id)
    await factory.select(db, batch_id)
    async with db.transaction() as conn:
        small = {"model": "small", "jobs": jobs, "alone_cost_usd": 0.04}
        await batches.save_plan(conn, batch_id, {"jobs": 4, "models": [small]})
    await factory.dispatch(db, await factory.claim(db, batch_id, Stage.DISPATCH))
    await run_sql(
        db,
        "INSERT INTO budget_warnings (batch_id, limit_usd, percent, spent_usd)"
        " SELECT batch_id, limit_usd, 80, spent_usd FROM ledgers WHERE batch_id = %s",
        batch_id,
    )
    return batch_id


async def test_the_rate_is_of_the_answers_lately_and_tells_the_time_left(db: Database) -> None:
    batch_id = await half_answered(db, "0.04", 4)
    await run_sql(db, "UPDATE batches SET created_at = now() - interval '1 day'")
    await run_sql(db, "UPDATE batch_counts SET first_at = now() - interval '20 s'")
    found = await facts(db, batch_id)
    assert found["stage"] == "answering"
    assert found["jobs_per_s"] == pytest.approx(2 / 20, rel=0.3)
    assert found["eta_s"] == pytest.approx(20, rel=0.3)
    assert "answering 0.1 jobs/s · " in await status(db, batch_id)


async def test_a_failed_batch_says_why_and_its_time_stands_still(
    db: Database, producer: Run
) -> None:
    batch_id = await factory.submit(db)
    await run_sql(db, "UPDATE batches SET created_at = now() - interval '10 s'")
    async with db.transaction() as conn:
        await batches.mark_failed(conn, batch_id, "the checkpoint does not know the model")
    await run_sql(
        db,
        "UPDATE batches SET created_at = created_at - interval '1 hour',"
        " completed_at = completed_at - interval '1 hour'",
    )
    assert (await facts(db, batch_id))["elapsed_s"] == pytest.approx(10, abs=5)
    assert "error: the checkpoint does not know the model" in await status(db, batch_id)
    done = producer("watch", batch_id)
    assert done.returncode == 8
    assert "error: the checkpoint does not know the model" in done.stdout


async def test_a_batch_says_which_workers_it_waits_for(db: Database) -> None:
    batch_id = await factory.submit(db)
    assert "waits for a scorer: none runs" in await status(db, batch_id)
    async with db.transaction() as conn:
        await workers.report(conn, "scorer@host:1", "scorer")
    assert "waits for a free scorer" in await status(db, batch_id)
    await run_sql(db, "UPDATE workers SET seen_at = now() - interval '70 s'")
    wait = (await facts(db, batch_id))["waits_for"]
    assert (wait["role"], round(wait["silent_s"], -1)) == ("scorer", 70)
    shown = await status(db, batch_id)
    assert "none has run for 1 min 1" in shown
    assert "`routoo-worker up` starts one" in shown
    await factory.claim(db, batch_id, Stage.SCORE)
    assert (await facts(db, batch_id))["waits_for"] is None


async def test_a_worker_that_is_long_gone_is_forgotten(db: Database) -> None:
    batch_id = await factory.submit(db)
    async with db.transaction() as conn:
        await workers.report(conn, "scorer@host:1", "scorer")
    await run_sql(db, "UPDATE workers SET seen_at = now() - interval '2 days'")
    async with db.transaction() as conn:
        await workers.report(conn, "dispatcher@host:2", "dispatcher")
        assert await workers.wait_of(conn, batch_id) == workers.WorkerWait("scorer", None)


async def test_a_batch_that_keeps_its_plan_is_not_warned_of_its_budget(db: Database) -> None:
    kept = await half_answered(db, "0.04", 4)
    assert (await snapshot(db, kept)).progress.budget_warnings == (80,)
    assert "of the budget is used" not in await status(db, kept)


async def test_a_batch_whose_plan_costs_more_than_is_left_is_warned(db: Database) -> None:
    short = await half_answered(db, "0.03", 4)
    assert "warning: 80 % of the budget is used" in await status(db, short)
    lease = await factory.claim(db, short, Stage.DISPATCH, 1)
    spent = [Result(n, ResultStatus.BUDGET_EXHAUSTED, Decimal(0), 0) for n in (2, 3)]
    async with db.transaction() as conn:
        await ledger.reserve(conn, lease, [])
        await results.save(conn, lease, spent)
        await shards.finish(conn, lease, shards.Done())
    line = progress_line(await snapshot(db, short))
    assert "2 of 4 answered, 2 without an answer" in line
    assert "80 % of the budget is used" in line


async def test_a_batch_that_is_over_says_what_was_left_and_what_its_exit_status_means(
    db: Database,
) -> None:
    batch_id = await factory.submit(db, 2, shard_size=2, budget_usd="0.04")
    await factory.score(db, batch_id)
    await factory.select(db, batch_id)
    async with db.transaction() as conn:
        await batches.save_plan(conn, batch_id, {"jobs": 2, "expected_cost_usd": 0.04})
    await factory.dispatch(db, await factory.claim(db, batch_id, Stage.DISPATCH))
    last = await snapshot(db, batch_id)
    assert unused_note(last) == ("50% of the budget was used; calls cost 0.50 of what was planned")
    assert end_note(last, strict=True) is None
    worse = replace(last.progress, deviations=Deviations(downgrades=1, reasons={"budget": 1}))
    said = end_note(replace(last, progress=worse), strict=True)
    assert said is not None
    assert said.startswith("exit status 7: all are answered, 1 by a model expected to be worse")
    assert "a larger budget" in said


async def test_a_heartbeat_reports_while_a_worker_runs(db: Database, database_url: str) -> None:
    batch_id = await factory.submit(db)

    async def is_served(own: Database) -> bool:
        wait = (await snapshot(own, batch_id)).wait
        return wait is not None and wait.is_served

    async def wait_until_served(own: Database) -> None:
        while not await is_served(own):
            await asyncio.sleep(0.02)

    def run() -> None:
        with LoopThread() as loop:
            own = Database(database_url, max_size=2)
            loop.run(own.__aenter__())
            with heartbeat(loop, own, "scorer@host:1", Role.SCORER):
                loop.run(asyncio.wait_for(wait_until_served(own), 30))
            assert not loop.run(is_served(own)), "a worker that has ended is not waited for"
            loop.run(own.__aexit__(None, None, None))

    await asyncio.to_thread(run)


async def test_the_status_says_what_is_planned_of_probes(db: Database) -> None:
    batch_id = await factory.submit(db, 4, budget_usd="0.04")
    probes = {
        "jobs": 3,
        "share": 0.75,
        "escalation_share": 0.5,
        "second_cost_usd": 0.01,
        "models": [{"model": "small", "jobs": 3, "escalations": 1.5}],
    }
    plan = {"jobs": 4, "models": [], "probes": probes, "expected_cost_usd": 0.02}
    async with db.transaction() as conn:
        await batches.save_plan(conn, batch_id, plan)
    shown = await status(db, batch_id)
    assert "3 jobs (75.0%) ask small first" in shown
    assert "50.0% are expected to ask another model too, for $0.0100" in shown
    assert "in all $0.0200, $0.0400 at worst" in shown

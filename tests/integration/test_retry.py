"""Jobs opened again, by a retry or by more money, against a real database and a local endpoint."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from routoo.domain.job import SLA, BatchStatus, Lease, ResultStatus, ShardKey, Stage
from routoo.errors import InputError
from routoo.store import batches, budget, ledger, results, shards
from routoo.store.batches import NewBatch, control, retry
from routoo.store.batches.progress import merge_counts, progress
from routoo.store.batches.retry import Reopened
from routoo.store.database import Database
from tests import batch_factory
from tests.dispatch_factory import (
    billed_usd,
    claim,
    dispatch,
    pool_of,
    prepare,
    requests_at,
    rows,
    select,
    some_result,
)
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

REFUSING: dict[str, Any] = {
    "models": {"*": {"faults": [{"kind": "status", "status": 400, "containing": "number 3"}]}}
}
SOUND: dict[str, Any] = {"models": {"*": {}}}


async def reopen(db: Database, batch_id: UUID, *statuses: ResultStatus) -> Reopened:
    async with db.transaction() as conn:
        return await retry.reopen(conn, batch_id, statuses or retry.UNANSWERED, "a test")


async def finish(db: Database, lease: Lease) -> None:
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())


async def run_again(db: Database, lease: Lease) -> None:
    """Do select and dispatch of a batch that was opened again."""
    await select(db, lease.key.batch_id)
    again = await claim(db, lease.key)
    assert await dispatch(db, again)
    await finish(db, again)


async def counts(db: Database) -> dict[str, int]:
    return dict(await rows(db, "SELECT status, count(*) FROM results GROUP BY 1"))


async def status(db: Database, batch_id: UUID) -> BatchStatus:
    async with db.transaction() as conn:
        return await batches.status(conn, batch_id)


async def failed_batch(db: Database, server: FakeServer) -> Lease:
    """Run a batch of 6 jobs to its end; number 3 fails on both models."""
    lease = await prepare(db, pool_of(server), 6)
    assert await dispatch(db, lease)
    await finish(db, lease)
    assert await counts(db) == {"succeeded": 5, "failed": 1}
    return lease


async def test_a_retry_calls_only_what_failed_and_numbers_its_calls_on(db: Database) -> None:
    async with FakeServer(REFUSING) as server:
        lease = await failed_batch(db, server)
        calls = len(server.requests)
        server.set_script(SOUND)
        assert await reopen(db, lease.key.batch_id) == Reopened(jobs=1, left=0)
        assert await status(db, lease.key.batch_id) is BatchStatus.IN_PROGRESS
        await run_again(db, lease)
        assert await counts(db) == {"succeeded": 6}
        assert len(server.requests) == calls + 1
        assert await rows(db, "SELECT attempts FROM results WHERE job_no = 3") == [(3,)]
        assert await rows(
            db, "SELECT job_no, retry_no, status, attempts FROM superseded_results"
        ) == [(3, 1, "failed", 2)]
        async with db.transaction() as conn:
            balance = await ledger.balance(conn, lease.key.batch_id)
        assert (balance.reserved_usd, balance.spent_usd) == (0, billed_usd(server))
        assert await status(db, lease.key.batch_id) is BatchStatus.COMPLETED


async def test_only_jobs_that_ended_for_one_cause_are_opened_again(db: Database) -> None:
    async with FakeServer(REFUSING) as server:
        lease = await failed_batch(db, server)
        ((code,),) = await rows(db, "SELECT error_code FROM results WHERE job_no = 3")
        for wanted, jobs in (("another", 0), (code, 1)):
            async with db.transaction() as conn:
                key = lease.key.batch_id
                found = await retry.reopen(conn, key, retry.UNANSWERED, "a test", error_code=wanted)
            assert found == Reopened(jobs=jobs, left=0)


async def test_counts_follow_results_and_calls_through_a_retry_and_a_merge(db: Database) -> None:
    async with FakeServer(REFUSING) as server:
        lease = await failed_batch(db, server)
        async with db.transaction() as conn:
            before = await progress(conn, lease.key.batch_id)
        assert [(one.jobs, one.example != "") for one in before.failures] == [(1, True)]
        assert sum(one.attempts for one in before.models) == 7
        server.set_script(SOUND)
        await reopen(db, lease.key.batch_id)
        await run_again(db, lease)
    async with db.transaction() as conn:
        found = await progress(conn, lease.key.batch_id)
        await conn.execute("UPDATE batch_counts SET created_at = now() - interval '2 minutes'")
        assert await merge_counts(conn, above=1) == 1
        merged = await progress(conn, lease.key.batch_id)
    assert found.failures == merged.failures == ()
    assert found.results == merged.results
    assert found.results[ResultStatus.SUCCEEDED] == found.ended == 6
    assert found.models == merged.models
    assert sum(one.attempts for one in found.models) == 8
    assert sum(one.cost_usd for one in found.models) == found.balance.spent_usd


async def test_a_retry_twice_keeps_both_histories_and_a_third_finds_nothing(db: Database) -> None:
    async with FakeServer(REFUSING) as server:
        lease = await failed_batch(db, server)
        assert (await reopen(db, lease.key.batch_id, ResultStatus.FAILED)).jobs == 1
        await run_again(db, lease)
        server.set_script(SOUND)
        assert (await reopen(db, lease.key.batch_id, ResultStatus.FAILED)).jobs == 1
        await run_again(db, lease)
        assert await reopen(db, lease.key.batch_id) == Reopened(jobs=0, left=0)
        assert await status(db, lease.key.batch_id) is BatchStatus.COMPLETED
        assert await rows(
            db, "SELECT retry_no, attempts FROM superseded_results ORDER BY retry_no"
        ) == [(1, 2), (2, 4)]


async def test_a_late_write_of_the_owner_before_a_retry_is_refused(db: Database) -> None:
    async with FakeServer(REFUSING) as server:
        lease = await failed_batch(db, server)
        await reopen(db, lease.key.batch_id)
        await select(db, lease.key.batch_id)
        assert (await claim(db, lease.key)).epoch > lease.epoch + 1


async def test_a_batch_whose_money_ran_out_goes_on_with_more_of_it(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 60, budget_usd=Decimal("0.0003"))
        assert await dispatch(db, lease)
        await finish(db, lease)
        found = await counts(db)
        assert found["budget_exhausted"] + found["succeeded"] == 60
        assert found["budget_exhausted"] > 0
        async with db.transaction() as conn:
            before = await budget.set_budget(conn, lease.key.batch_id, Decimal("0.05"))
        assert before == Decimal("0.0003")
        reopened = await reopen(db, lease.key.batch_id, ResultStatus.BUDGET_EXHAUSTED)
        assert reopened.jobs == found["budget_exhausted"]
        await run_again(db, lease)
        assert await counts(db) == {"succeeded": 60}
        assert len(server.requests) == 60


async def test_jobs_that_the_selection_refused_for_want_of_money_are_given_a_model(
    db: Database,
) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 40, model=None, budget_usd=Decimal("0.0004"))
        refused = (await counts(db)).get("budget_exhausted", 0)
        assert refused > 0
        await dispatch(db, lease)
        await finish(db, lease)
        async with db.transaction() as conn:
            await budget.set_budget(conn, lease.key.batch_id, Decimal(1))
        await reopen(db, lease.key.batch_id, ResultStatus.BUDGET_EXHAUSTED)
        await run_again(db, lease)
        assert await counts(db) == {"succeeded": 40}


async def test_a_budget_is_never_set_below_what_is_spent_and_set_aside(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 4, shard_size=4, budget_usd="1.00")
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
    async with db.transaction() as conn:
        await ledger.reserve(conn, lease, [batch_factory.reservation(n, "0.20") for n in (0, 1)])
    async with db.transaction() as conn:
        await ledger.settle(conn, lease, [batch_factory.attempt(0, "0.15")])
    with pytest.raises(InputError, match=r"0\.35"):
        async with db.transaction() as conn:
            await budget.set_budget(conn, batch_id, Decimal("0.34"))
    async with db.transaction() as conn:
        await budget.set_budget(conn, batch_id, Decimal("0.35"))
    async with db.transaction() as conn:
        assert await ledger.reserve(conn, lease, [batch_factory.reservation(2, "0.01")]) == [False]


async def test_a_cancelled_batch_goes_on_where_it_stopped(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 30)
        batch_id = lease.key.batch_id
        dispatching = asyncio.create_task(dispatch(db, lease))
        with server.held("small"):
            await requests_at(server, 8)
            async with db.transaction() as conn:
                await control.cancel(conn, batch_id)
            await some_result(db)  # of a job that waits no more for a call
        assert not await dispatching
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
            assert await batches.status(conn, batch_id) is BatchStatus.CANCELLED
        answered = (await counts(db))["succeeded"]
        server.set_script(SOUND)
        assert (await reopen(db, batch_id)).jobs == 30 - answered
        await run_again(db, lease)
        assert await counts(db) == {"succeeded": 30}
        assert len(server.requests) == 30


async def test_a_batch_cancelled_before_it_was_scored_is_scored_after_a_retry(
    db: Database,
) -> None:
    batch_id = await batch_factory.submit(db, 4)
    async with db.transaction() as conn:
        await control.cancel(conn, batch_id)
        await control.end_cancelled(conn, batch_id)
    await reopen(db, batch_id)
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    for shard_no in range(2):
        lease = await batch_factory.claim(db, batch_id, Stage.DISPATCH, shard_no)
        await batch_factory.dispatch(db, lease)
    assert await status(db, batch_id) is BatchStatus.COMPLETED


async def test_a_failed_batch_tries_its_parked_shard_again(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 2)
    lease = await batch_factory.claim(db, batch_id, Stage.SCORE)
    async with db.transaction() as conn:
        finished = await shards.finish(
            conn, lease, shards.Failed("no such checkpoint", permanent=True)
        )
        assert finished.parked
    assert await reopen(db, batch_id) == Reopened(jobs=0, left=0)
    assert await status(db, batch_id) is BatchStatus.IN_PROGRESS
    await batch_factory.score(db, batch_id)


async def test_results_of_a_shard_at_work_are_left_alone(db: Database) -> None:
    async with FakeServer(REFUSING) as server:
        lease = await prepare(db, pool_of(server), 6)
        assert await dispatch(db, lease)
        assert await reopen(db, lease.key.batch_id) == Reopened(jobs=0, left=1)
        await finish(db, lease)


async def test_a_plan_that_was_cancelled_is_not_run_by_a_retry(db: Database) -> None:
    async with db.transaction() as conn:
        new = NewBatch(name="plan", pool=batch_factory.pool_of("small"), plan_only=True)
        batch_id, _ = await batches.create(conn, new)
        async with batch_factory.jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write([batch_factory.jobs.JobInput(0, "one", batch_factory.BODY)])
        await batches.seal(conn, batch_id, 1, 1)
        await control.cancel(conn, batch_id)
        await control.end_cancelled(conn, batch_id)
    with pytest.raises(InputError, match="plan"):
        await reopen(db, batch_id)


async def test_a_paused_batch_is_resumed_and_not_retried(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 2)
    async with db.transaction() as conn:
        await control.pause(conn, batch_id)
    with pytest.raises(InputError, match="resume"):
        await reopen(db, batch_id)


async def test_each_share_of_the_budget_is_warned_of_once(
    db: Database,
) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 60, budget_usd=Decimal("0.0007"))
        with capture_logs() as logs:
            assert await dispatch(db, lease)
        await finish(db, lease)
    async with db.transaction() as conn:
        now = await progress(conn, lease.key.batch_id)
    used = now.balance.spent_usd / Decimal("0.0007")
    expected = tuple(percent for percent in budget.WARN_AT_PERCENT if used * 100 >= percent)
    assert expected
    assert now.budget_warnings == expected
    logged = [entry for entry in logs if entry["event"] == "batch.budget_used"]
    assert [entry["percent"] for entry in logged] == list(expected)


async def test_after_a_retry_deadlines_of_rows_are_watched_again(db: Database) -> None:
    over = SLA(deadline=datetime.now(UTC) - timedelta(seconds=1))
    batch_id = await batch_factory.submit(db, 2, slas=[over, SLA()])
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    watched = "SELECT count(*) FROM shards WHERE next_deadline <= now()"
    async with db.transaction() as conn:
        assert await results.expire_waiting(conn) == 1
    assert await rows(db, watched) == [(0,)]
    await reopen(db, batch_id, ResultStatus.EXPIRED)
    assert await rows(db, watched) == [(1,)]

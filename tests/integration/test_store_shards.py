"""Leases, fences and stages on a real database, under real concurrency."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest

from routoo.domain.job import BatchStatus, Lease, ShardKey, ShardState, Stage
from routoo.errors import StaleLeaseError, StoreError
from routoo.store import batches, jobs, leases, ledger, predictions, results, shards
from routoo.store.batches.progress import progress
from routoo.store.database import Database
from tests import batch_factory
from tests.batch_factory import (
    LEASE_S,
    claim,
    dispatch,
    predictions_of,
    reservation,
    score,
    select,
    submit,
)

EXPIRED_S = -1.0
"""A lease that ended before it began."""


async def _claim(db: Database, key: ShardKey, owner: str) -> Lease | None:
    async with db.transaction() as conn:
        return await leases.claim(conn, key, owner, LEASE_S)


async def _complete(db: Database, lease: Lease) -> None:
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())


async def _states(db: Database, batch_id: UUID, stage: Stage) -> dict[ShardState, int]:
    async with db.transaction() as conn:
        return (await progress(conn, batch_id)).shards[stage]


async def _is_blocked(work: Awaitable[object]) -> bool:
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait([task], timeout=0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return not done


async def test_of_workers_that_claim_at_once_one_wins(db: Database) -> None:
    batch_id = await submit(db)
    key = ShardKey(batch_id, Stage.SCORE, 0)

    claimed = await asyncio.gather(*(_claim(db, key, f"worker-{n}") for n in range(6)))

    assert [lease.epoch for lease in claimed if lease] == [1]


async def test_of_workers_that_take_an_abandoned_shard_over_one_wins(db: Database) -> None:
    batch_id = await submit(db)
    lost = await claim(db, batch_id, Stage.SCORE, lease_s=EXPIRED_S)

    claimed = await asyncio.gather(*(_claim(db, lost.key, f"worker-{n}") for n in range(6)))

    assert [lease.epoch for lease in claimed if lease] == [2]


async def test_a_lease_names_its_slice(db: Database) -> None:
    batch_id = await submit(db, 5, shard_size=2)

    lease = await claim(db, batch_id, Stage.SCORE, 2)

    assert (lease.first_job, lease.job_count) == (4, 1)


async def test_a_leased_shard_is_not_handed_out(db: Database) -> None:
    lease = await claim(db, await submit(db), Stage.SCORE)

    assert await _claim(db, lease.key, "other") is None


async def test_a_worker_that_was_presumed_dead_can_write_nothing(db: Database) -> None:
    batch_id = await submit(db)
    stale = await claim(db, batch_id, Stage.SCORE, lease_s=EXPIRED_S)
    await _claim(db, stale.key, "worker")  # of the same name: the epoch decides

    for write in (
        lambda conn: leases.fence(conn, stale),
        lambda conn: leases.renew(conn, stale, LEASE_S),
        lambda conn: shards.finish(conn, stale, shards.Done()),
        lambda conn: shards.finish(conn, stale, shards.HandedBack()),
        lambda conn: shards.finish(conn, stale, shards.Failed("late")),
        lambda conn: predictions.save(conn, stale, predictions_of(stale)),
    ):
        with pytest.raises(StaleLeaseError, match="took the shard over"):
            async with db.transaction() as conn:
                await write(conn)

    async with db.transaction() as conn:
        assert (await progress(conn, batch_id)).scored == 0


async def test_an_expired_lease_still_writes_while_nobody_wants_the_shard(db: Database) -> None:
    batch_id = await submit(db)
    lease = await claim(db, batch_id, Stage.SCORE, lease_s=EXPIRED_S)

    await _complete(db, lease)

    assert await _states(db, batch_id, Stage.SCORE) == {ShardState.DONE: 1, ShardState.READY: 1}


async def test_a_take_over_waits_for_a_write_that_was_fenced_before_it(db: Database) -> None:
    lease = await claim(db, await submit(db), Stage.SCORE, lease_s=EXPIRED_S)

    async with db.transaction() as conn:
        await leases.fence(conn, lease)
        assert await _is_blocked(_claim(db, lease.key, "other"))

    assert await _claim(db, lease.key, "other") is not None


async def test_a_renewed_lease_is_not_taken_over(db: Database) -> None:
    lease = await claim(db, await submit(db), Stage.SCORE, lease_s=EXPIRED_S)

    async with db.transaction() as conn:
        await leases.renew(conn, lease, LEASE_S)
        due = await leases.due(conn, Stage.SCORE, 10)

    assert lease.key not in due
    assert await _claim(db, lease.key, "other") is None


async def test_due_shards_are_ready_or_abandoned(db: Database) -> None:
    batch_id = await submit(db, 6, shard_size=2)
    await claim(db, batch_id, Stage.SCORE, 0)
    await claim(db, batch_id, Stage.SCORE, 1, lease_s=EXPIRED_S)

    async with db.transaction() as conn:
        due = await leases.due(conn, Stage.SCORE, 10)
        ready = await shards.ready_keys(conn, batch_id)

    assert [key.shard_no for key in due] == [1, 2]
    assert [key.shard_no for key in ready] == [2]


async def test_score_shards_that_end_at_once_unblock_the_selection(db: Database) -> None:
    batch_id = await submit(db, 8, shard_size=1)
    claimed = [await claim(db, batch_id, Stage.SCORE, n) for n in range(8)]

    await asyncio.gather(*(_complete(db, lease) for lease in claimed))

    assert await _states(db, batch_id, Stage.SELECT) == {ShardState.READY: 1}


async def test_a_stage_stays_blocked_while_a_shard_before_it_is_not_done(db: Database) -> None:
    batch_id = await submit(db, 4, shard_size=2)
    await _complete(db, await claim(db, batch_id, Stage.SCORE, 0))

    assert await _states(db, batch_id, Stage.SELECT) == {ShardState.BLOCKED: 1}
    assert await _claim(db, ShardKey(batch_id, Stage.SELECT, 0), "worker") is None


async def test_a_shard_that_is_done_again_disturbs_nothing(db: Database) -> None:
    batch_id = await submit(db, 1)
    lease = await claim(db, batch_id, Stage.SCORE)
    await _complete(db, lease)
    await claim(db, batch_id, Stage.SELECT)

    with pytest.raises(StaleLeaseError):
        await _complete(db, lease)

    assert await _states(db, batch_id, Stage.SELECT) == {ShardState.LEASED: 1}


async def test_a_batch_goes_through_its_stages_to_its_end(db: Database) -> None:
    batch_id = await submit(db, 5, shard_size=2)
    await score(db, batch_id)
    await select(db, batch_id)
    claimed = [await claim(db, batch_id, Stage.DISPATCH, n) for n in range(3)]

    await asyncio.gather(*(dispatch(db, lease) for lease in claimed))

    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
        assert not await batches.finish_if_done(conn, batch_id)
    assert batch.status is BatchStatus.COMPLETED
    assert batch.completed_at is not None


async def test_a_dispatch_shard_without_all_its_results_is_not_done(db: Database) -> None:
    batch_id = await submit(db)
    await score(db, batch_id)
    await select(db, batch_id)
    lease = await claim(db, batch_id, Stage.DISPATCH)

    with pytest.raises(StoreError, match="2 jobs of a dispatch shard"):
        await _complete(db, lease)

    assert await _states(db, batch_id, Stage.DISPATCH) == {
        ShardState.LEASED: 1,
        ShardState.READY: 1,
    }


async def test_a_shard_that_is_handed_back_is_ready_again(db: Database) -> None:
    lease = await claim(db, await submit(db), Stage.SCORE)

    async with db.transaction() as conn:
        finished = await shards.finish(conn, lease, shards.HandedBack())
        cursor = await conn.execute("SELECT max(attempts) FROM shards WHERE state = 'ready'")
        assert await cursor.fetchone() == (0,)
    assert finished.ready == (lease.key,)

    again = await _claim(db, lease.key, "other")
    assert again == replace(lease, owner="other", epoch=2)


async def test_a_shard_that_is_handed_back_with_a_wait_is_not_claimed_before(db: Database) -> None:
    lease = await claim(db, await submit(db), Stage.SCORE)

    async with db.transaction() as conn:
        finished = await shards.finish(conn, lease, shards.HandedBack(60.0))

    assert finished.ready == ()
    assert await _claim(db, lease.key, "other") is None
    async with db.transaction() as conn:
        passed = "UPDATE shards SET not_before = not_before - interval '1 minute'"
        await conn.execute(f"{passed} WHERE not_before > now() + interval '1 second'")
    assert await _claim(db, lease.key, "other") == replace(lease, owner="other", epoch=2)


async def test_a_shard_that_failed_for_good_is_parked_and_fails_its_batch(db: Database) -> None:
    batch_id = await submit(db)
    lease = await claim(db, batch_id, Stage.SCORE)

    async with db.transaction() as conn:
        finished = await shards.finish(conn, lease, shards.Failed("no pool", permanent=True))
        batch = await batches.get(conn, batch_id)

    assert finished == shards.FinishedShard(parked=True)
    assert batch.status is BatchStatus.FAILED
    assert batch.error is not None
    assert batch.error.endswith("no other attempt can help: no pool")
    assert await _claim(db, ShardKey(batch_id, Stage.SCORE, 1), "worker") is None


async def _isolate(db: Database, most: int = 2) -> list[shards.ExhaustedShard]:
    async with db.transaction() as conn:
        return await shards.isolate_failing(conn, most)


async def _slices(db: Database, batch_id: UUID, stage: Stage) -> list[tuple[int, int, str]]:
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT first_job, job_count, state FROM shards WHERE batch_id = %s AND stage = %s"
            " ORDER BY first_job",
            [batch_id, str(stage)],
        )
        return await cursor.fetchall()


async def _die(db: Database, batch_id: UUID, stage: Stage, shard_no: int, times: int = 2) -> None:
    """Let workers claim a shard and fall silent."""
    for _ in range(times):
        assert await _isolate(db) == []
        await claim(db, batch_id, stage, shard_no, lease_s=EXPIRED_S)


async def test_a_shard_that_ends_its_workers_is_split_until_the_job_is_found(db: Database) -> None:
    batch_id = await submit(db, 5, shard_size=4)
    alive = await claim(db, batch_id, Stage.SCORE, 1)
    shard_nos = [0, 0, 0]  # its first job ends workers
    for shard_no in shard_nos:
        await _die(db, batch_id, Stage.SCORE, shard_no)
        assert [one.key.shard_no for one in await _isolate(db)] == [shard_no]

    found = await _slices(db, batch_id, Stage.SCORE)
    assert found == [(0, 1, "done"), (1, 1, "ready"), (2, 2, "ready"), (4, 1, "leased")]
    for shard_no in (2, 3):
        lease = await claim(db, batch_id, Stage.SCORE, shard_no)
        async with db.transaction() as conn:
            await predictions.save(conn, lease, predictions_of(lease))
            await shards.finish(conn, lease, shards.Done())
    async with db.transaction() as conn:
        await predictions.save(conn, alive, predictions_of(alive))
        await shards.finish(conn, alive, shards.Done())
        ended = [record async for record in results.iterate(conn, batch_id)]
        batch = await batches.get(conn, batch_id)
    assert [(one.job_no, one.status.value, one.error_code) for one in ended] == [
        (0, "failed", "worker_died")
    ]
    assert ended[0].error_message is not None
    assert "2 workers died one after the other" in ended[0].error_message
    assert batch.status is BatchStatus.IN_PROGRESS
    await select(db, batch_id)  # all jobs have predictions, and the selection was unblocked


async def test_a_dispatch_job_that_ends_its_workers_alone_is_paid_and_ends_its_batch(
    db: Database,
) -> None:
    batch_id = await submit(db, 1)
    await score(db, batch_id)
    await select(db, batch_id)
    lease = await claim(db, batch_id, Stage.DISPATCH, lease_s=EXPIRED_S)
    async with db.transaction() as conn:
        await ledger.reserve(conn, lease, [reservation(0, "0.02")])
    await claim(db, batch_id, Stage.DISPATCH, lease_s=EXPIRED_S)

    assert len(await _isolate(db)) == 1

    async with db.transaction() as conn:
        batch, balance = await batches.get(conn, batch_id), await ledger.balance(conn, batch_id)
        ended = [record async for record in results.iterate(conn, batch_id)]
    assert batch.status is BatchStatus.COMPLETED
    assert (balance.reserved_usd, balance.spent_usd) == (Decimal(0), Decimal("0.02"))
    assert [(one.status.value, one.cost_usd) for one in ended] == [("failed", Decimal("0.02"))]


async def test_deaths_count_for_nothing_while_a_shard_makes_progress(db: Database) -> None:
    batch_id = await submit(db, 6, shard_size=6)
    await score(db, batch_id)
    await select(db, batch_id)
    for job_no in range(5):
        lease = await claim(db, batch_id, Stage.DISPATCH, lease_s=EXPIRED_S)
        assert lease.attempts == 1
        async with db.transaction() as conn:
            await results.save(conn, lease, [batch_factory.result(job_no)])
        assert await _isolate(db, 1) == []

    for _ in range(2):
        lease = await claim(db, batch_id, Stage.DISPATCH, lease_s=EXPIRED_S)
    assert lease.attempts == 2
    assert len(await _isolate(db)) == 1


async def test_a_batch_fails_where_too_many_jobs_fail_for_themselves(db: Database) -> None:
    batch_id = await submit(db, 25, shard_size=1)
    for shard_no in range(25):
        async with db.transaction() as conn:
            key = ShardKey(batch_id, Stage.SCORE, shard_no)
            lease = await leases.claim(conn, key, "worker", LEASE_S)
            if lease is not None:
                await shards.finish(conn, lease, shards.Failed("no such operation"))
        await _isolate(db, 1)

    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    assert batch.status is BatchStatus.FAILED
    assert batch.error is not None
    assert "20 jobs failed" in batch.error
    assert "no such operation" in batch.error


async def test_a_selection_that_ends_its_workers_is_parked(db: Database) -> None:
    batch_id = await submit(db, 2)
    await score(db, batch_id)
    await _die(db, batch_id, Stage.SELECT, 0, times=4)

    assert [one.key.stage for one in await _isolate(db)] == [Stage.SELECT]

    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    assert batch.status is BatchStatus.FAILED


async def test_urgent_are_shards_left_behind_selections_and_one_of_each_idle_batch(
    db: Database,
) -> None:
    left, idle, busy = [await submit(db, 6, shard_size=2) for _ in range(3)]
    for batch_id in (left, idle, busy):
        await score(db, batch_id)
    for batch_id in (left, idle, busy):
        if batch_id != left:
            await select(db, batch_id)
    await claim(db, busy, Stage.DISPATCH, 0)

    async with db.transaction() as conn:
        found = await leases.urgent(conn, [Stage.SELECT, Stage.DISPATCH], left=9, others=9)
    assert found == ([], [ShardKey(left, Stage.SELECT, 0), ShardKey(idle, Stage.DISPATCH, 0)])

    for shard_no in (1, 2):
        await claim(db, busy, Stage.DISPATCH, shard_no, lease_s=EXPIRED_S)
    async with db.transaction() as conn:
        abandoned, others = await leases.urgent(
            conn, [Stage.SELECT, Stage.DISPATCH], left=9, others=9
        )
        few = await leases.urgent(conn, [Stage.SELECT, Stage.DISPATCH], left=0, others=1)
        longest = await leases.abandoned(conn, Stage.DISPATCH)
    assert set(abandoned) == {ShardKey(busy, Stage.DISPATCH, number) for number in (1, 2)}
    assert len(others) == 2
    assert few == ([], others[:1])
    assert longest == ShardKey(busy, Stage.DISPATCH, 1)


async def test_predictions_come_back_as_arrays(db: Database) -> None:
    batch_id = await submit(db, 5, shard_size=2)
    await score(db, batch_id)

    async with db.transaction() as conn:
        loaded = await predictions.load_batch(conn, batch_id)

    whole = predictions_of(Lease(ShardKey(batch_id, Stage.SCORE, 0), "", 0, 0, 5))
    for name in ("quality", "quality_std", "completion_tokens", "novelty", "truncated"):
        expected, found = getattr(whole, name), getattr(loaded, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


async def test_predictions_are_loaded_in_slices(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "_SLICE_JOBS", 2)

    await test_predictions_come_back_as_arrays(db)


async def test_predictions_of_an_unfinished_batch_are_refused(db: Database) -> None:
    batch_id = await submit(db)

    async with db.transaction() as conn:
        with pytest.raises(StoreError, match="0 of 4 jobs"):
            await predictions.load_batch(conn, batch_id)


async def test_predictions_that_do_not_fit_the_shard_are_refused(db: Database) -> None:
    lease = await claim(db, await submit(db), Stage.SCORE)

    with pytest.raises(StoreError, match="1 predictions for a shard of 2"):
        async with db.transaction() as conn:
            await predictions.save(conn, lease, predictions_of(replace(lease, job_count=1)))


async def test_pending_jobs_bring_what_the_dispatcher_needs(db: Database) -> None:
    batch_id = await submit(db, 3, shard_size=3)
    await score(db, batch_id)
    await select(db, batch_id)
    lease = await claim(db, batch_id, Stage.DISPATCH)

    async with db.transaction() as conn:
        found = await jobs.pending(conn, lease)

    assert [job.job.job_no for job in found] == [0, 1, 2]
    assert found[1].model == "small"
    assert found[1].quality == pytest.approx((0.001, 0.101))
    assert found[1].completion_tokens == pytest.approx((0.1, 10.1))
    assert (found[1].attempts, found[1].cost_usd) == (0, Decimal(0))

